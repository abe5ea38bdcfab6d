"""A sweep on Slurm, on Kubernetes or on this machine."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from grokjax.arguments import Parser, add_workdir, one_workdir, printing_plainly, tell
from grokjax.base.errors import UserError
from grokjax.base.files import given_path
from grokjax.sweeps.plan import require_plan
from launch import status, submit, worker
from launch.submit import launch


def run(argv: Sequence[str] | None = None) -> int:
    """Runs one command; what it returns is told in `launch.__main__`."""
    with printing_plainly():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args, overrides = _parser().parse_known_args(argv)
        if stranger := [o for o in overrides if not o.startswith("--config.")]:
            raise UserError(f"unknown argument '{stranger[0]}'; see launch {args.command} --help")
        if "workdir_option" in args:
            one_workdir(args, needed=True)
        return args.run(args, overrides) or 0
    except (UserError, OSError) as error:
        return tell("launch", error)


def _status(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    plan = require_plan(args.workdir)
    try:
        queue = submit.queued(args.workdir)
    except UserError as error:
        print(f"launch: {error}; below is what the workdir says", file=sys.stderr)
        queue = {}
    print(status.table(status.survey(args.workdir, plan, queue)))


def _stop(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    submit.stop(args.workdir)


def _retry(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    return submit.retry(args.workdir, args.population)


def _work(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    worker.run(args.workdir, args.population, args.devices, args.config)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="launch", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    _add_slurm(_launcher(command("slurm", launch, "an array job, a task per row")))
    _add_gke(_launcher(command("gke", launch, "a JobSet per row, queued by Kueue"), "python"))
    added = _launcher(command("local", launch, "a worker per device set of this machine"))
    added.add_argument("--workers", type=int, default=0, metavar="N", help="default: per device")
    for name, run, text in (
        ("status", _status, "a line per row: state, steps, rate, checkpoint, job"),
        ("stop", _stop, "cancel what waits, let what runs save and leave"),
        ("retry", _retry, "submit what has failed again, with the options that it had"),
    ):
        added = command(name, run, text)
        added.add_argument("workdir", type=_workdir, metavar="WORKDIR")
    added.add_argument("--population", action="append", default=[], metavar="NAME")
    added = command("worker", _work, "preflight, then train one row; what jobs run")
    added.add_argument("--workdir", type=_workdir, required=True)
    added.add_argument("--population", required=True)
    added.add_argument("--devices", default="")
    added.add_argument("--config", default="")
    return parser


def _launcher(
    parser: argparse.ArgumentParser, python: str = sys.executable
) -> argparse.ArgumentParser:
    add = parser.add_argument
    parser.set_defaults(launcher=parser.prog.split()[-1])
    add("--config", metavar="FILE", help="extends the plan; default: the plan as it is")
    add_workdir(parser, "shared by all machines", type=_workdir)
    add("--target", default="", metavar="NAME", help="plan for its memory: h100:8, v5e:4x4")
    add("--dry-run", action="store_true", help="print what would be submitted; write nothing")
    add("--python", default=python, metavar="FILE", help=f"default: {python}")
    return parser


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_machines(parser)
    add("--tasks-per-node", type=int, default=1, metavar="N", help="processes; default: 1")
    add("--gpus-per-node", type=int, default=0, dest="devices_per_node", metavar="N")
    add("--cpus-per-task", type=int, default=0, metavar="N")
    add("--at-once", type=int, default=0, metavar="N", help="rows at a time; default: all")
    for name in ("partition", "account", "qos", "time", "mem"):
        add(f"--{name}", default="", help="as sbatch's")
    add("--sbatch", action="append", default=[], dest="extra", metavar="OPTION", help="any other")


def _add_gke(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_machines(parser)
    add("--queue", required=True, metavar="NAME", help="Kueue's local queue")
    add("--namespace", default="default")
    add("--accelerator", required=True, help="tpu-v5-lite-podslice, nvidia-h100-80gb, ...")
    add("--topology", default="", help="of a TPU slice, 4x4; leave out for GPUs")
    add("--slices", type=int, default=1, metavar="N", help="TPU slices of a row")
    add("--devices-per-node", type=int, required=True, metavar="N", help="chips or GPUs")
    add("--volume", required=True, metavar="CLAIM:/PATH", help="where the workdir is")
    add("--max-restarts", type=int, default=50, metavar="N")
    add("--grace-seconds", type=int, default=120, metavar="N", help="for saving")


def _add_machines(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N", help="machines of a row; default: 1")
    add("--container", default="", metavar="IMAGE", help="that has Python and grokjax")
    add("--setup", default="", metavar="SHELL", help="before it: source ENV/bin/activate")


def _workdir(text: str) -> pathlib.Path:
    try:
        return given_path(text).absolute()
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
