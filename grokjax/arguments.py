"""The grammar of `grokjax`'s command line, and how any of our commands says what is wrong."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from grokjax.base.errors import UserError
from grokjax.base.text import Plain
from grokjax.settings.declarations import SETTINGS

_EPILOG = """\
first steps:
  grokjax quickstart                                  12 runs in minutes, and a figure of them
  grokjax new my_experiment.py                        an experiment to change; then
  grokjax train runs/mine --config=my_experiment.py   trains it; again: goes on with it
  grokjax report runs/mine                            one page of what came when

`grokjax COMMAND --help` has a command's options, `grokjax config FILE` all settings of a file.
"""
_CONFIG_HELP = "experiment file, FILE or FILE:ARG; --config.SECTION.NAME=VALUE changes a setting"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def tell(program: str, error: UserError | OSError) -> int:
    """Prints an error as one line; the exit code of bad input."""
    said = str(error)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written to
        said = f"{error.filename or 'the output'}: {error.strerror or error}"
    print(f"{program}: error: {' '.join(said.splitlines())}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def printing_plainly() -> Iterator[None]:
    """Within it nothing that comes from a file moves the cursor of the user's terminal."""
    with (
        contextlib.redirect_stdout(Plain(sys.stdout)),  # type: ignore[type-var]
        contextlib.redirect_stderr(Plain(sys.stderr)),  # type: ignore[type-var]
    ):
        yield


def parse(
    description: str | None, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """A subcommand's own arguments, and the rest: settings, if it takes a config."""
    args, rest = make_parser(description).parse_known_args(_joined(arguments))
    if rest and not args.takes_settings:
        raise UserError(f"unknown argument '{rest[0]}'; see grokjax {args.command} --help")
    if "workdir_option" in args:
        one_workdir(args, args.workdir_is_needed)
    return args, rest


def add_workdir(
    parser: argparse.ArgumentParser, text: str, needed: bool = True, **options: Any
) -> None:
    """WORKDIR as the first argument, and `--workdir` as it was before."""
    parser.add_argument("workdir", nargs="?", metavar="WORKDIR", help=text, **options)
    parser.add_argument(
        "--workdir", dest="workdir_option", metavar="WORKDIR", help="the same", **options
    )
    parser.set_defaults(workdir_is_needed=needed)


def one_workdir(args: argparse.Namespace, needed: bool) -> None:
    """Puts into `args.workdir` what either of both ways gave.

    Raises:
      UserError: both did, or none and it is needed.
    """
    first, option = args.workdir, args.workdir_option
    if first is not None and option is not None:
        raise UserError(f"--workdir={option}: the workdir is {first} already; give one of them")
    args.workdir = option if first is None else first
    if needed and args.workdir is None:
        raise UserError(
            f"the following arguments are required: WORKDIR; see grokjax {args.command} --help"
        )
    del args.workdir_option


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--config.data.phi 3` as one argument: its value is nobody's first argument."""
    joined: list[str] = []
    waits = False
    for text in arguments:
        if waits and not text.startswith("--"):
            joined[-1] += f"={text}"
            waits = False
            continue
        joined.append(text)
        name = text.removeprefix("--config.")
        is_flag = name in SETTINGS and isinstance(SETTINGS[name].default, bool)
        waits = text.startswith("--config.") and "=" not in text and not is_flag
    return joined


def make_parser(description: str | None = None) -> Parser:
    """The whole grammar."""
    parser = Parser(
        prog="grokjax",
        description=description,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"grokjax {importlib.metadata.version('grokjax')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, takes_config: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(takes_settings=takes_config)
        if takes_config:
            added.add_argument("--config", required=True, metavar="FILE", help=_CONFIG_HELP)
        return added

    def several(added: argparse.ArgumentParser) -> None:
        group = added.add_argument_group("several processes, where the environment does not tell")
        group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
        group.add_argument("--num-processes", type=int, metavar="N", help="that take part")
        group.add_argument("--process-id", type=int, metavar="I", help="of this one, 0 to N - 1")

    def imports(added: argparse.ArgumentParser) -> None:
        data = "the folder it was trained on"
        added.add_argument("--data", required=True, metavar="DIR", help=data)
        added.add_argument("--out", required=True, metavar="DIR", help="a new workdir")
        added.add_argument(
            "--step", type=int, default=0, metavar="N", help="that the weights are from"
        )

    added = command("train", "train a population; again: resume or extend it", True)
    add_workdir(added, "holds all that comes of it")
    several(added)
    added = command("sweep", "plan a sweep, train what is not done; rows may be added")
    added.set_defaults(takes_settings=True)
    added.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    add_workdir(added, "holds all its populations")
    added.add_argument("--dry-run", action="store_true", help="only print the plan")
    added.add_argument("--plan-only", action="store_true", help="only print and write the plan")
    added.add_argument("--target", metavar="NAME", help="plan for it, not for this machine: h100:8")
    added.add_argument("--population", metavar="NAME", help="train this one of the plan alone")
    added.add_argument(
        "--devices", default="", metavar="PLATFORM:N", help="with --population: that it must find"
    )
    several(added)
    added = command("transfer", "finetune trained runs on new facts", True)
    added.add_argument("--from", dest="source", required=True, metavar="DIR", help="a workdir")
    add_workdir(added, "holds all that comes of it")
    several(added)
    added = command("report", "one page: what came when, at what cost, how certain")
    added.add_argument("workdir", metavar="WORKDIR", help="of a population or a sweep")
    added.add_argument("--out", metavar="DIR", help="default: the workdir")
    added.add_argument(
        "--figures", default="screen", metavar="paper", help="also as PDF and PNG for a paper"
    )
    added = command("checkpoints", "list stored steps: good, damaged or partial")
    added.add_argument("workdir", metavar="WORKDIR", help="of a population or a sweep")
    added.add_argument("--verify", action="store_true", help="read and compare every byte")
    added = command("quickstart", "train three regimes and draw when each groks")
    add_workdir(added, "default: runs/quickstart", needed=False)
    added.set_defaults(takes_settings=True)
    added.add_argument("--smoke", action="store_true", help="the same path in half a minute")
    several(added)
    added = command("config", "print an experiment's settings: their values, who shares them")
    added.set_defaults(takes_settings=True)
    added.add_argument("file", metavar="FILE", help=_CONFIG_HELP)
    added = command("new", "write an experiment file to change, with comments, that trains")
    added.add_argument("file", metavar="FILE.py", help="a new file")
    added = command("completion", "print what makes a shell complete grokjax's arguments")
    added.add_argument("shell", choices=("bash", "zsh"), help='eval "$(grokjax completion bash)"')
    added = command("compile", "a population's programs for a machine that need not be there", True)
    added.add_argument("--target", required=True, metavar="NAME", help="h200, v5e:2x2, here, ...")
    added.add_argument("--runs", type=int, metavar="N", help="as if it had N; default: its own")
    added.add_argument("--devices", type=int, metavar="N", help="the first N of the target")
    added.add_argument("--dump", metavar="DIR", help="gets the optimised HLO and counts.json")
    added.add_argument("--programs", metavar="NAME,NAME", help="of training, evaluation, ...")
    added = command("budgets", "what programs may cost on accelerators: compiled and compared")
    added.add_argument("--out", metavar="DIR", help="gets the table; default: compare alone")
    added.add_argument("--only", metavar="TEXT", action="append", default=[], help="rows with it")
    added = command("data", "write a dataset in the authors' JSON format")
    added.set_defaults(takes_settings=True)
    added.add_argument("--config", metavar="FILE", help=_CONFIG_HELP)
    add_workdir(added, "in place of --config: a run's data", needed=False)
    added.add_argument("--run", dest="run_id", type=int, default=0, metavar="ID", help="default: 0")
    added.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    added.add_argument("--from-csv", metavar="FILE", help="rows of head, relation, tail: own facts")
    added.add_argument(
        "--columns", default="", metavar="H,R,T", help="with --from-csv: as its header calls them"
    )
    added = command("import-official", "a model of the official code as a workdir")
    added.add_argument("--weights", required=True, metavar="FILE", help=".npz, or of PyTorch")
    added.add_argument("--official-config", required=True, metavar="FILE", help="its config.json")
    imports(added)
    added = command("import-gpt2", "a Hugging Face GPT-2 as a workdir of a decoder")
    added.add_argument("--model", required=True, metavar="DIR", help="config, tokenizer, weights")
    added.add_argument("--num-loops", type=int, metavar="N", help="default: what its config says")
    imports(added)
    added = command("export-results", "a run's results as the authors' files")
    add_workdir(added, "of a population or a sweep")
    added.add_argument("--run", dest="run_id", type=int, default=0, metavar="ID", help="default: 0")
    added.add_argument("--out", required=True, metavar="DIR", help="gets a folder per checkpoint")
    added.add_argument("--config", metavar="FILE", help="whose own model or task the workdir has")
    added = command("parity", "our numbers against files of the official code's")
    added.add_argument("files", nargs="+", metavar="FILE.npz")
    added = command("compare", "draw several workdirs' curves in one figure")
    added.add_argument(
        "workdirs", nargs="+", metavar="[NAME=]WORKDIR", help="of populations or sweeps"
    )
    added.add_argument("--out", required=True, metavar="FILE.png", help="the figure")
    added = command("analyze", "logit lens, patching and path identity of stored runs")
    add_workdir(added, "of a population or a sweep")
    added.add_argument("--config", metavar="FILE", help="whose own model or task the workdir has")
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
    added = command("bench", "measure speed: ratios within one run")
    added.add_argument("--only", metavar="NAME", help="one benchmark instead of all")
    added.add_argument("--quick", action="store_true", help="smaller, for a first look")
    text = "parity, speed, energy and predictions of this machine's accelerator, into --out"
    added.add_argument("--accelerator", action="store_true", help=text)
    added.add_argument("--out", metavar="DIR", help="of --accelerator: gets each result at once")
    text = "of --accelerator: after which nothing is begun; default: 9"
    added.add_argument("--minutes", type=float, default=9.0, metavar="N", help=text)
    return parser
