"""Functions of people's own files as settings: `FILE.py:NAME` where a name of ours may stand.

`FILE.py` alone is a file with several functions of fixed names: a whole model.
When an experiment is read such a value becomes `FILE.py:NAME@HASH`, with the start of the file's
SHA-256, so that another version of the file is another run. The path is relative to the experiment.
A file is executed by what needs its function and was given the experiment, never by who reads a
workdir: a workdir says names and hashes, not where a file is.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from grokjax.base.errors import UserError
from grokjax.base.names import DECODER
from grokjax.settings.declarations import SETTINGS

_OWN = re.compile(r"(?P<file>[^@:,]+\.py):(?P<name>[A-Za-z_]\w*)(?:@(?P<sha>[0-9a-f]{12}))?")
_FILE = re.compile(r"(?P<file>[^@:,]+\.py)(?:@(?P<sha>[0-9a-f]{12}))?")
_paths: dict[str, pathlib.Path] = {}  # of values that an experiment has named in this process
_modules: dict[tuple[pathlib.Path, str], ModuleType] = {}


def is_own(value: str) -> bool:
    """Whether a value names a function of a file."""
    return _OWN.fullmatch(value) is not None


def is_own_file(value: str) -> bool:
    """Whether a value names a whole file."""
    return _FILE.fullmatch(value) is not None


def is_stack(kind: str) -> bool:
    """Whether a `model.kind` has one stream of states: the decoder, or a whole model of a file."""
    return kind == DECODER or is_own_file(kind)


def values_of(value: str) -> list[str]:
    """The parts of a value that may be a list, `a,FILE.py:b`."""
    return [part.strip() for part in value.split(",") if part.strip()]


def own_name(value: str) -> str:
    """`entropy` of `metrics.py:entropy@0123456789ab`; a name of ours as it is."""
    match = _OWN.fullmatch(value)
    return match["name"] if match else value


def resolve(setting: str, value: Any, experiment: pathlib.Path) -> Any:
    """A setting's value with the hash of the file that it names, if it names any.

    Raises:
      UserError: there is no such file, or it is another than the value's hash says.
    """
    if not SETTINGS[setting].own_file or not isinstance(value, str):
        return value
    return ",".join(_resolve(setting, part, experiment) for part in values_of(value))


def _resolve(setting: str, value: str, experiment: pathlib.Path) -> str:
    match = _OWN.fullmatch(value)
    if match is None and SETTINGS[setting].whole_file:
        match = _FILE.fullmatch(value)
    if match is None:
        return value
    if value in _paths:  # of another experiment, which has been read
        return value
    named = value.partition("@")[0]
    path = experiment.parent / match["file"]
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(
            f"{setting}: {value}: {reason}; the path is relative to {experiment}"
        ) from None
    if match["sha"] not in (None, digest):
        raise UserError(
            f"{setting}: {match['file']} is not the version {match['sha']} that {named} was used"
            f" of, but {digest}; bring it back"
        )
    resolved = f"{named}@{digest}"
    _paths[resolved] = path
    return resolved


def own_function(
    setting: str, value: str, parameters: Sequence[str], name: str | None = None
) -> Callable[..., Any]:
    """The function that a value names; what goes wrong in it is told with file and line.

    Args:
      setting, value: as in a config that was read from an experiment.
      parameters: that it is called with, in this order.
      name: of the function, where the value names a file alone.

    Raises:
      UserError: its experiment was not given, its file has changed since or raises, or it has no
        such function, or one of another signature.
    """
    said = _said(setting, value)
    if value not in _paths:
        raise UserError(
            f"{said}: the file is not known here; give the experiment that names it,"
            " --config=FILE (in Python grokjax.load_experiment(FILE))"
        )
    module = _module(setting, value)
    name = name or own_name(value)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{said}: the file has no function {name}")
    try:
        inspect.signature(function).bind(*parameters)
    except (TypeError, ValueError):
        wanted = ", ".join(parameters)
        which = f"{name} " if is_own_file(value) else ""
        raise UserError(
            f"{said}: {which}is to take ({wanted}) and does not; see docs/extending.md"
        ) from None

    def told(*args: Any) -> Any:
        with telling(setting, value):
            return function(*args)

    return told


@contextlib.contextmanager
def telling(setting: str, value: str) -> Iterator[None]:
    """Code of a file of one's own runs within.

    Raises:
      UserError: it has raised; in one line what, and in which line.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        file = str(_paths[value])
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == file), None)
        if isinstance(error, SyntaxError) and error.filename == file:
            line = error.lineno
        where = f"line {line}: " if line else ""
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{_said(setting, value)}: {where}{text}") from None


def refuse(setting: str, value: str, what: str) -> UserError:
    """The error that says what is wrong with a function's results."""
    return UserError(f"{_said(setting, value)}: {what}; see docs/extending.md")


def _said(setting: str, value: str) -> str:
    return f"{setting}={value.partition('@')[0]}"


def _module(setting: str, value: str) -> ModuleType:
    path = _paths[value]
    digest = value.rpartition("@")[2]
    if (path, digest) not in _modules:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:12] != digest:
            raise UserError(f"{_said(setting, value)}: {path} has changed since it was read")
        module = ModuleType(f"grokjax_own_{path.stem}_{digest}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # where dataclasses look their annotations up
        with telling(setting, value):
            exec(compile(content, str(path), "exec"), module.__dict__)
        _modules[path, digest] = module
    return _modules[path, digest]
