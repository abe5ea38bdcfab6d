"""The `grokjax` command: subcommands and what they call, nothing else."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from grokjax.errors import DiskError, UserError
from grokjax.files import disk_error
from grokjax.interrupt import EXIT_CODE, Interrupted, second_ctrl_c_exits

if TYPE_CHECKING:
    from grokjax.results import Results

_UNEXPECTED = 70  # EX_SOFTWARE, told from bad input by whoever starts jobs again
_CONFIG_HELP = "experiment file, FILE or FILE:ARG; --config.SECTION.NAME=VALUE changes a setting"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
      0; 1 where a comparison fails or a checkpoint is damaged; 2 after one line about bad input;
      75 after an interruption that the same command resumes.
    """
    from grokjax.distributed import are_several, leave_the_others

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args, overrides = _parse(arguments)
        with second_ctrl_c_exits(), _disk_errors_told_once():
            code = args.run(args, overrides)
    except UserError as error:
        print(f"grokjax: error: {error}", file=sys.stderr)
        if isinstance(error, DiskError):
            leave_the_others(2)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written to
        where = error.filename or "the output"
        print(f"grokjax: error: {where}: {error.strerror or error}", file=sys.stderr)
        leave_the_others(2)
        return 2
    except KeyboardInterrupt:
        print("grokjax: stopped", file=sys.stderr)
        leave_the_others(130)
        return 130
    except Interrupted as stop:
        print(f"grokjax: {stop}", file=sys.stderr)
        return EXIT_CODE
    except Exception:
        if are_several():
            traceback.print_exc()
            leave_the_others(_UNEXPECTED)
        raise
    return code or 0


def train(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.interrupt import leaving_at_once

    _require_workdir(args.workdir)
    with leaving_at_once():
        from grokjax import loop
        from grokjax.distributed import barrier, is_primary, use_flags
        from grokjax.experiment import load_experiment

        use_flags(args.coordinator, args.num_processes, args.process_id)
        results = loop.train_and_evaluate(load_experiment(args.config, overrides), args.workdir)
    if is_primary():
        _show(results)
    barrier("shown")  # nobody waits for long for one that has left


def _show(results: Results) -> None:
    from grokjax import figures, summary

    picture = figures.curves_figure(results)
    summaries = summary.summarize(results.runs, results.curves)
    print("\n" + summary.summary_table(summaries, int(results.curves.step.max())))
    print("\n" + summary.verdict(summaries))
    print(f"\nfigure: {picture}\ntables: {results.workdir / 'curves.csv'}")


def sweep(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from grokjax.interrupt import leaving_at_once

    _require_workdir(args.workdir)
    with leaving_at_once():
        from grokjax.distributed import use_flags
        from grokjax.sweeps import SweepFailed

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
    from grokjax.devices import setup_devices
    from grokjax.distributed import is_primary, join_processes
    from grokjax.experiment import read_experiment
    from grokjax.sweeps import run_sweep

    setup_devices()
    join_processes()
    if args.config is None:
        raise UserError("--config: missing; give an experiment file, or --population=NAME")
    config, rows = read_experiment(args.config, overrides)
    found = run_sweep(config, rows, args.workdir, dry_run=args.dry_run, plan_only=args.plan_only)
    if found is not None and is_primary():
        print(f"\n{len(found.runs)} runs: {found.workdir / 'runs.csv'}; grokjax report draws them")


def _train_population(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.sweeps import train_population

    if args.config is not None or overrides:
        given = "--config" if args.config is not None else overrides[0]
        raise UserError(f"{given}: a population's settings are the plan's; leave it out")
    train_population(args.workdir, args.population, args.devices)


def transfer(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.interrupt import leaving_at_once

    _require_workdir(args.workdir)
    with leaving_at_once():
        from grokjax.distributed import barrier, is_primary, use_flags
        from grokjax.report import transfer_page, write_report
        from grokjax.transfer import transfer as run_transfer

        use_flags(args.coordinator, args.num_processes, args.process_id)
        results = run_transfer(args.config, overrides, args.source, args.workdir)
    if is_primary():
        transfer_page.measure_halves(results)
        print(f"report: {write_report(results)}")
    barrier("reported")


def report(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.report import write_report
    from grokjax.sweeps import load

    _require_workdir(args.workdir)
    print(f"report: {write_report(load(args.workdir), args.out)}")


def quickstart(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    args.config = "experiments/quickstart.py" + (":smoke" if args.smoke else "")
    if args.workdir is None:
        args.workdir = "runs/quickstart" + ("-smoke" if args.smoke else "")
    train(args, overrides)


def data(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.experiment import load_experiment
    from grokjax.folder import load_dataset, write_folder
    from grokjax.results import load

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


def import_official(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax import imports

    results = imports.import_official(
        args.weights, args.official_config, args.data, args.out, args.step
    )
    _report_import(results)


def import_gpt2(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax import imports

    _report_import(imports.import_gpt2(args.model, args.data, args.out, args.num_loops, args.step))


def _report_import(results) -> None:
    last = results.curves.iloc[-1]
    print(
        f"{results.workdir}: one run at step {last.step:,}, training accuracy"
        f" {last.training_accuracy:.4f}"
    )


def export_results(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax import exports

    for folder in exports.export_results(args.workdir, args.run_id, args.out):
        print(folder)


def parity(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from grokjax.parity import main as run_parity

    return 0 if run_parity(args.files) else 1


def compare(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax import figures
    from grokjax.results import load

    print(f"figure: {figures.comparison_figure([load(w) for w in args.workdirs], args.out)}")


def analyze(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax import analysis
    from grokjax.analysis.report import check_group_by, check_margin, report
    from grokjax.results import load

    results = load(args.workdir)
    check_group_by(results, args.group_by)
    check_margin(args.margin)
    steps = results.checkpoint_steps() if args.steps == "all" else _numbers(args.steps, "--steps")
    found = analysis.analyze(
        args.workdir,
        runs=_numbers(args.runs, "--runs"),
        steps=steps,
        config=analysis.AnalysisConfig(args.pairs, args.seed, args.weights, not args.no_null),
        out=args.out,
    )
    folder = analysis.analysis_folder(results, args.out)
    print(report(results, found, folder, group_by=args.group_by, margin=args.margin))


def checkpoints(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from grokjax.listing import list_checkpoints

    lines, damaged = list_checkpoints(args.workdir, content=args.verify)
    print("\n".join(lines))
    return 1 if damaged else 0


def bench(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from grokjax.bench import main as run_benchmarks

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


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """A subcommand's own arguments, and the rest: settings, if it takes a config."""
    args, rest = _parser().parse_known_args(arguments)
    if rest and not args.takes_settings:
        raise UserError(f"unknown argument '{rest[0]}'; see grokjax {args.command} --help")
    return args, rest


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="grokjax", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str, takes_config: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run, takes_settings=takes_config)
        if takes_config:
            added.add_argument("--config", required=True, metavar="FILE", help=_CONFIG_HELP)
        return added

    def several(added: argparse.ArgumentParser) -> None:
        group = added.add_argument_group("several processes, where the environment does not tell")
        group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
        group.add_argument("--num-processes", type=int, metavar="N", help="that take part")
        group.add_argument("--process-id", type=int, metavar="I", help="of this one, 0 to N - 1")

    added = command("train", train, "train a population; again: resume or extend it", True)
    added.add_argument("--workdir", required=True, metavar="DIR", help="holds all that comes of it")
    several(added)
    added = command("sweep", sweep, "plan a sweep, train what is not done; rows may be added")
    added.set_defaults(takes_settings=True)
    added.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    added.add_argument("--workdir", required=True, metavar="DIR", help="holds all its populations")
    added.add_argument("--dry-run", action="store_true", help="only print the plan")
    added.add_argument("--plan-only", action="store_true", help="only print and write the plan")
    added.add_argument("--population", metavar="NAME", help="train this one of the plan alone")
    added.add_argument(
        "--devices", default="", metavar="PLATFORM:N", help="with --population: that it must find"
    )
    several(added)
    added = command("transfer", transfer, "finetune trained runs on new facts", True)
    added.add_argument("--from", dest="source", required=True, metavar="DIR", help="a workdir")
    added.add_argument("--workdir", required=True, metavar="DIR", help="holds all that comes of it")
    several(added)
    added = command("report", report, "one page: what came when, at what cost, how certain")
    added.add_argument("workdir", metavar="WORKDIR", help="of a population or a sweep")
    added.add_argument("--out", metavar="DIR", help="default: the workdir")
    added = command("checkpoints", checkpoints, "list stored steps: good, damaged or partial")
    added.add_argument("workdir", metavar="WORKDIR", help="of a population or a sweep")
    added.add_argument("--verify", action="store_true", help="read and compare every byte")
    added = command("quickstart", quickstart, "train three regimes and draw when each groks")
    added.add_argument("--workdir", metavar="DIR", help="default: runs/quickstart")
    added.set_defaults(takes_settings=True)
    added.add_argument("--smoke", action="store_true", help="the same path in half a minute")
    several(added)
    added = command("data", data, "write a dataset in the authors' JSON format")
    added.set_defaults(takes_settings=True)
    added.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    added.add_argument("--workdir", metavar="DIR", help="in place of --config: a run's data")
    added.add_argument("--run", dest="run_id", type=int, default=0, metavar="ID", help="default: 0")
    added.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    added = command("import-official", import_official, "a model of the official code as a workdir")
    added.add_argument("--weights", required=True, metavar="FILE", help=".npz, or of PyTorch")
    added.add_argument("--official-config", required=True, metavar="FILE", help="its config.json")
    added.add_argument("--data", required=True, metavar="DIR", help="the folder it was trained on")
    added.add_argument("--out", required=True, metavar="DIR", help="a new workdir")
    added.add_argument("--step", type=int, default=0, metavar="N", help="that the weights are from")
    added = command("import-gpt2", import_gpt2, "a Hugging Face GPT-2 as a workdir of a decoder")
    added.add_argument("--model", required=True, metavar="DIR", help="config, tokenizer, weights")
    added.add_argument("--data", required=True, metavar="DIR", help="the folder it was trained on")
    added.add_argument("--out", required=True, metavar="DIR", help="a new workdir")
    added.add_argument("--num-loops", type=int, metavar="N", help="default: what its config says")
    added.add_argument("--step", type=int, default=0, metavar="N", help="that the weights are from")
    added = command("export-results", export_results, "a run's results as the authors' files")
    added.add_argument("--workdir", required=True, metavar="DIR")
    added.add_argument("--run", dest="run_id", type=int, default=0, metavar="ID", help="default: 0")
    added.add_argument("--out", required=True, metavar="DIR", help="gets a folder per checkpoint")
    added = command("parity", parity, "our numbers against files of the official code's")
    added.add_argument("files", nargs="+", metavar="FILE.npz")
    added = command("compare", compare, "draw several workdirs' curves in one figure")
    added.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="of a trained population")
    added.add_argument("--out", required=True, metavar="FILE.png", help="the figure")
    added = command("analyze", analyze, "logit lens, patching and path identity of stored runs")
    added.add_argument("--workdir", required=True, metavar="DIR", help="of a trained population")
    added.add_argument("--runs", metavar="ID,ID", help="default: all that have not diverged")
    added.add_argument("--steps", metavar="N,N|all", help="stored checkpoints; default: the last")
    added.add_argument("--pairs", type=int, default=64, metavar="N", help="for each token")
    added.add_argument("--seed", type=int, default=0, metavar="N", help="of the pairs' draw")
    added.add_argument("--weights", choices=("ema", "raw"), default="ema", help="default: ema")
    added.add_argument("--no-null", action="store_true", help="no random donors: half the time")
    added.add_argument(
        "--group-by", default="regime", metavar="NAME", help="'grokked', or a column of runs.csv"
    )
    added.add_argument(
        "--margin", type=float, default=0.25, metavar="X", help="of equivalence, of a path's size"
    )
    added.add_argument("--out", metavar="DIR", help="default: analysis/ in the workdir")
    added = command("bench", bench, "measure speed: ratios within one run")
    added.add_argument("--only", metavar="NAME", help="one benchmark instead of all")
    added.add_argument("--quick", action="store_true", help="smaller, for a first look")
    return parser


def _numbers(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option}={text}: give numbers, {option}=0,1") from None


def _require_workdir(workdir: str) -> None:
    if not workdir.strip():
        raise UserError("--workdir: the path is empty; give a folder, --workdir=runs/NAME")


if __name__ == "__main__":
    sys.exit(main())
