"""The `grokjax` command: subcommands and what they call, nothing else."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import grokjax
from grokjax.arguments import make_parser, parse, printing_plainly, tell
from grokjax.base.errors import RESUMABLE, DiskError, UserError
from grokjax.base.files import disk_error, given_path
from grokjax.base.text import counted
from grokjax.runtime.interrupt import Interrupted, ending_in_order

if TYPE_CHECKING:
    from grokjax.results import Results

_UNEXPECTED = 70  # EX_SOFTWARE, told from bad input by whoever starts jobs again


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
      0; 1 where a comparison fails or a checkpoint is damaged; 2 after one line about bad input;
      75 after an interruption that the same command resumes, 130 after Ctrl-C at once.
    """
    with ending_in_order("grokjax", for_good=argv is None), printing_plainly():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(arguments: list[str]) -> int:
    from grokjax.runtime.processes import are_several, leave_the_others

    if not arguments:
        make_parser(grokjax.__doc__).print_help()
        return 0
    try:
        args, overrides = parse(grokjax.__doc__, arguments)
        with _disk_errors_told_once():
            code = _COMMANDS[args.command](args, overrides)
    except (UserError, OSError) as error:
        code = tell("grokjax", error)
        if isinstance(error, (DiskError, OSError)):  # which this process may have met alone
            leave_the_others(code)
        return code
    except Interrupted as stop:
        print(f"grokjax: {stop}", file=sys.stderr)
        return RESUMABLE
    except Exception as error:
        if "Unable to initialize backend" in str(error):
            said = f"JAX: {error}; look at JAX_PLATFORMS, JAX_NUM_CPU_DEVICES and XLA_FLAGS"
            code = tell("grokjax", UserError(said))
            leave_the_others(code)
            return code
        if are_several():
            traceback.print_exc()
            leave_the_others(_UNEXPECTED)
        raise
    return code or 0


def train(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    given_path(args.workdir)
    from grokjax.results import train_and_evaluate
    from grokjax.runtime.processes import barrier, is_primary, use_flags
    from grokjax.settings import load_experiment

    use_flags(args.coordinator, args.num_processes, args.process_id)
    results = train_and_evaluate(load_experiment(args.config, overrides), args.workdir)
    if is_primary():
        _show(results)
    barrier("shown")  # nobody waits for long for one that has left


def _show(results: Results) -> None:
    from grokjax.report import curves_figure, summary

    if results.curves.empty:  # lost, which training has told
        return
    picture = curves_figure.save_curves(results)
    summaries = summary.summarize(results.runs, results.curves, results.task)
    print("\n" + summary.summary_table(summaries, int(results.curves.step.max()), results.task))
    print("\n" + summary.verdict(summaries, results.task))
    print(f"\nfigure: {picture}\ntables: {results.workdir / 'curves.csv'}")


def sweep(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    given_path(args.workdir)
    from grokjax.runtime.processes import use_flags
    from grokjax.sweeps.runner import SweepFailed

    use_flags(args.coordinator, args.num_processes, args.process_id)
    try:
        if args.population is None:
            _run_sweep(args, overrides)
        else:
            _train_population(args, overrides)
    except SweepFailed as failed:
        print(f"grokjax: {failed}", file=sys.stderr)
        return 1
    return 0


def _run_sweep(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.runtime.devices import setup_devices, use_cpu
    from grokjax.runtime.processes import is_primary, join_processes
    from grokjax.settings import read_experiment
    from grokjax.sweeps.runner import run_sweep

    setup_devices()
    join_processes()
    if args.config is None:
        raise UserError("--config: missing; give an experiment file, or --population=NAME")
    if args.target is not None:
        overrides = [*overrides, f"--config.sweep.target={args.target}"]
    config, rows = read_experiment(args.config, overrides)
    if config.sweep.target and (args.dry_run or args.plan_only):
        use_cpu()  # plans for another machine, and need not look for what this one has
    found = run_sweep(config, rows, args.workdir, dry_run=args.dry_run, plan_only=args.plan_only)
    if found is not None and is_primary():
        runs = counted(len(found.runs), "run")
        print(f"\n{runs}: {found.workdir / 'runs.csv'}; grokjax report draws them")


def _train_population(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.sweeps.runner import train_population

    if args.target is not None or overrides:
        given = "--target" if args.target is not None else overrides[0]
        raise UserError(f"{given}: a population's settings are the plan's; leave it out")
    _knows_files_of(args.config)
    train_population(args.workdir, args.population, args.devices)


def _knows_files_of(experiment: str | None) -> None:
    """Reads an experiment for nothing but the files of people's own that it names."""
    from grokjax.settings import read_experiment

    if experiment is not None:
        read_experiment(experiment)


def transfer(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    given_path(args.workdir)
    from grokjax.report import write_report
    from grokjax.runtime.processes import barrier, is_primary, use_flags
    from grokjax.transfer import transfer as run_transfer

    use_flags(args.coordinator, args.num_processes, args.process_id)
    results = run_transfer(args.config, overrides, args.source, args.workdir)
    if is_primary():
        print(f"report: {write_report(results)}")
    barrier("reported")


def report(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.report import write_report
    from grokjax.sweeps.results import load

    given_path(args.workdir)
    print(f"report: {write_report(load(args.workdir), args.out, args.figures)}")


def quickstart(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    args.config = "experiments/quickstart.py" + (":smoke" if args.smoke else "")
    if args.workdir is None:
        args.workdir = "runs/quickstart" + ("-smoke" if args.smoke else "")
    train(args, overrides)


def config(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.settings.listing import list_settings

    print("\n".join(list_settings(args.file, overrides)))


def new(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.settings.template import write_experiment

    print("\n".join(write_experiment(args.file)))


def completion(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.completion import script

    print(script(args.shell), end="")


def compile_programs(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.instruments.compile import main as run_compile
    from grokjax.instruments.programs import PROGRAMS
    from grokjax.settings import load_experiment

    config = load_experiment(args.config, overrides)
    programs = args.programs.split(",") if args.programs else PROGRAMS
    run_compile(config, args.target, args.runs, args.devices, args.dump, programs)


def budgets(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from grokjax.instruments.budgets import main as run_budgets

    return 0 if run_budgets(args.out, args.only) else 1


def data(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.data.folder import write_folder
    from grokjax.data.loading import load_dataset
    from grokjax.results import load
    from grokjax.settings import load_experiment

    if args.from_csv is not None:
        _data_from_csv(args, overrides)
        return
    if args.columns:
        raise UserError(f"--columns={args.columns}: of a table that --from-csv=FILE gives")
    if (args.config is None) == (args.workdir is None):
        raise UserError("--config: give an experiment file, or the --workdir of a run")
    if args.workdir is None:
        dataset = load_dataset(load_experiment(args.config, overrides))
    elif overrides:
        raise UserError(f"{overrides[0]}: a run's settings are its workdir's; leave it out")
    else:
        dataset = load(args.workdir).dataset(args.run_id)
    write_folder(dataset, args.out)
    counts = ", ".join(f"{name.removeprefix('num_')} {n:,}" for name, n in dataset.counts.items())
    print(f"{args.out}: {dataset.name}; {counts}")


def _data_from_csv(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.data.own_facts import folder_from_csv
    from grokjax.runtime.progress import told
    from grokjax.settings.experiment import with_overrides

    if args.workdir is not None:
        raise UserError(f"--workdir={args.workdir}: leave it out, or --from-csv")
    config, given = with_overrides(args.config, overrides)
    columns = args.columns.split(",") if args.columns else ()
    # Who asks for nothing gets what there is, up to the study's phi.
    at_most = args.config is None and "data.phi" not in given
    lines = folder_from_csv(args.from_csv, columns, config, args.out, told, at_most=at_most)
    print("\n".join(lines))


def import_official(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.interop import imports

    results = imports.import_official(
        args.weights, args.official_config, args.data, args.out, args.step
    )
    _report_import(results)


def import_gpt2(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.interop import imports

    _report_import(imports.import_gpt2(args.model, args.data, args.out, args.num_loops, args.step))


def _report_import(results) -> None:
    last = results.curves.iloc[-1]
    print(
        f"{results.workdir}: one run at step {last.step:,}, training accuracy"
        f" {last.training_accuracy:.4f}"
    )


def export_results(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.interop import exports

    _knows_files_of(args.config)
    for folder in exports.export_results(args.workdir, args.run_id, args.out):
        print(folder)


def parity(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from grokjax.interop.parity import main as run_parity

    return 0 if run_parity(args.files) else 1


def compare(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.report.curves_figure import compare_workdirs

    print(f"figure: {compare_workdirs(args.workdirs).save(args.out)}")


def analyze(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax import analysis
    from grokjax.report.analysis_page import analyze_and_report

    _knows_files_of(args.config)
    analyze_and_report(
        args.workdir,
        runs=_numbers(args.runs, "--runs"),
        steps="all" if args.steps == "all" else _numbers(args.steps, "--steps"),
        config=analysis.AnalysisConfig(args.pairs, args.seed, args.weights, not args.no_null),
        out=args.out,
        group_by=args.group_by,
        margin=args.margin,
    )


def checkpoints(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from grokjax.sweeps.list_checkpoints import list_checkpoints

    lines, damaged = list_checkpoints(args.workdir, content=args.verify)
    print("\n".join(lines))
    return 1 if damaged else 0


def bench(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    if args.accelerator:
        from grokjax.instruments import accelerator
        from grokjax.interop.parity import compare

        if args.out is None:
            raise UserError("--out: missing; give a folder for what --accelerator measures")
        accelerator.main(args.out, compare, args.minutes, args.quick)
        return
    from grokjax.instruments.bench import main as run_benchmarks

    run_benchmarks(args.only, quick=args.quick)


@contextlib.contextmanager
def _disk_errors_told_once() -> Iterator[None]:
    """Threads that write print what they meet before it is raised where it is waited for."""
    before = threading.excepthook, sys.unraisablehook

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not disk_error(args.exc_value):
            before[0](args)

    def in_callback(args: sys.UnraisableHookArgs) -> None:
        if "Event loop is closed" not in str(args.exc_value):  # a write that nobody waits for
            before[1](args)

    threading.excepthook, sys.unraisablehook = in_thread, in_callback
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before


def _numbers(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option}={text}: give numbers, {option}=0,1") from None


_COMMANDS = {
    "train": train,
    "sweep": sweep,
    "transfer": transfer,
    "report": report,
    "checkpoints": checkpoints,
    "quickstart": quickstart,
    "config": config,
    "new": new,
    "completion": completion,
    "compile": compile_programs,
    "budgets": budgets,
    "data": data,
    "import-official": import_official,
    "import-gpt2": import_gpt2,
    "export-results": export_results,
    "parity": parity,
    "compare": compare,
    "analyze": analyze,
    "bench": bench,
}


if __name__ == "__main__":
    sys.exit(main())
