"""Experiment files: Python modules with `get_config()` and, if they sweep, `sweep(add)`."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import pathlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from grokjax.base.errors import UserError
from grokjax.base.files import read_json
from grokjax.settings.config import (
    Row,
    Settings,
    default_config,
    flatten,
    from_json,
    rows_of,
    set_setting,
)
from grokjax.settings.declarations import SECTIONS, SETTINGS
from grokjax.settings.own_functions import resolve
from grokjax.settings.rows import Sweep
from grokjax.settings.suggestions import meant_setting, nearest_setting, unknown_setting
from grokjax.settings.validation import validate, validate_names

# Where experiment files of before imported from.
_GONE = ("grokjax.config", "grokjax.experiment", "grokjax.sweep")


def load_experiment(path: str, overrides: Mapping[str, Any] | Sequence[str] = ()) -> ConfigDict:
    """The config of an experiment file, its sweep's rows in `config.runs`.

    Args:
      path: `experiments/small.py`; or `experiments/regimes.py:ARG` to pass ARG to its functions
        (a file that has ARGUMENTS takes those alone); or a workdir's `config.json`.
      overrides: {setting: value}, or flags `--config.SECTION.NAME=VALUE` as on a command line.

    Raises:
      UserError: no such file, a bad override, or one that the sweep varies.
    """
    config, rows = read_experiment(path, overrides)
    config.runs = rows_of(rows)
    validate(config)
    return config


def read_experiment(
    path: str,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    source: ConfigDict | None = None,
) -> tuple[ConfigDict, list[Row]]:
    """The config of an experiment file, and its sweep's rows, which may change any setting.

    Args:
      path, overrides: as in `load_experiment`.
      source: settings of the run to finetune, for files whose `get_config` begins with `source`.

    Raises:
      UserError: as there.
    """
    file, _, argument = path.partition(":")
    if file.endswith(".json"):
        return _read_stored(path, overrides)
    module = _load_module(file)
    if not hasattr(module, "get_config"):
        raise UserError(f"{file}: has no get_config(); is it an experiment file?")
    if argument and argument not in getattr(module, "ARGUMENTS", (argument,)):
        known = ", ".join(f":{name}" for name in module.ARGUMENTS)
        raise UserError(f"--config={path}: unknown ':{argument}'; {file} knows {known}")
    with _running(module):
        config = _call(module.get_config, argument, path, source)
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: its get_config() gives no ConfigDict; start from default_config")
    with _running(module):
        config = config if isinstance(config, Settings) else from_json(config.to_dict())
        validate_names(config)
    if isinstance(overrides, Mapping):
        for name, value in overrides.items():
            set_setting(config, name, value)
    else:
        overrides = _override(config, overrides)
    sweep = Sweep()
    if hasattr(module, "sweep"):
        takes_argument = len(inspect.signature(module.sweep).parameters) > 1
        with _running(module):
            module.sweep(sweep, argument) if takes_argument else module.sweep(sweep)
        _refuse_varied(sweep.rows, overrides, file)
    return config, _with_hashes(config, sweep.rows, pathlib.Path(str(module.__file__)))


def _with_hashes(config: ConfigDict, rows: list[Row], experiment: pathlib.Path) -> list[Row]:
    """Files of people's own that settings name, by the versions that they have now."""
    for name, value in flatten(config).items():
        if name in SETTINGS and (resolved := resolve(name, value, experiment)) != value:
            set_setting(config, name, resolved)
    return [{name: resolve(name, v, experiment) for name, v in row.items()} for row in rows]


def with_overrides(path: str | None, overrides: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """Settings for what is no training: a file's or else the defaults, changed as asked.

    Returns:
      The config, and the names of the settings that `overrides` gave.
    """
    config = default_config() if path is None else read_experiment(path)[0]
    given = _override(config, overrides)
    validate(config)
    return config, given


def _read_stored(
    path: str, overrides: Mapping[str, Any] | Sequence[str]
) -> tuple[ConfigDict, list[Row]]:
    """Settings as a workdir's `config.json` holds them, alone or among what else that says."""
    try:
        content = read_json(_existing(path))
        config = from_json(content.get("config", content))
    except (OSError, ValueError, AttributeError, UserError) as error:
        if isinstance(error, UserError) and str(error).startswith("--config"):
            raise
        raise UserError(f"--config={path}: not a config that a workdir has ({error})") from None
    rows = list(config.runs)
    config.runs = ()
    changed = list(overrides)
    if isinstance(overrides, Mapping):
        for name, value in overrides.items():
            set_setting(config, name, value)
    else:
        changed = _override(config, overrides)
    _refuse_varied(rows, changed, path)
    return config, rows


def _refuse_varied(rows: Sequence[Row], overrides: Iterable[str], file: str) -> None:
    clash = sorted({name for row in rows for name in row} & set(overrides))
    if clash:
        raise UserError(
            f"--config.{clash[0]}: the sweep of {file} varies it; edit its sweep(add), or use"
            " an experiment without one"
        )


def _existing(file: str) -> pathlib.Path:
    path = pathlib.Path(file)
    if not path.is_file():  # from anywhere: the experiments beside the package
        path = pathlib.Path(__file__).parents[2] / file
    if not path.is_file():
        raise UserError(f"--config={file}: no such file; give an experiment, experiments/NAME.py")
    return path


def _load_module(file: str) -> ModuleType:
    path = _existing(file)
    spec = importlib.util.spec_from_file_location(f"grokjax_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    with _running(module):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _running(module: ModuleType) -> Iterator[None]:
    """Code of an experiment file: what goes wrong in it is told with its line."""
    file = str(module.__file__)
    try:
        yield
    except (Exception, SystemExit) as error:  # `sys.exit(0)` would look like success
        if isinstance(error, UserError) and str(error).startswith("--config"):
            raise  # told already, of another experiment file that this one reads
        if isinstance(error, SyntaxError) and error.filename == file:
            line, said = error.lineno, error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(frames) if f.filename == file), None)
            said = _told(error)
        where = f"line {line}: " if line else ""
        raise UserError(f"--config={file}: {where}{said}") from None


def _told(error: BaseException) -> str:
    """In one line, what a user can do something about."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _GONE:
        return f"there is no {error.name} any more; import what it had from grokjax.settings"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _call(get_config: Callable, argument: str, path: str, source: ConfigDict | None) -> Any:
    parameters = list(inspect.signature(get_config).parameters)
    finetunes = parameters[:1] == ["source"]
    if finetunes and source is None:
        raise UserError(
            f"--config={path}: finetunes what is trained already; use grokjax transfer"
            " --from=WORKDIR"
        )
    if source is not None and not finetunes:
        raise UserError(f"--config={path}: has no get_config(source); give experiments/transfer.py")
    if argument and len(parameters) == finetunes:
        raise UserError(f"--config={path}: its get_config takes no argument; drop ':{argument}'")
    given = [source] if finetunes else []
    return get_config(*given, *([argument] if argument else []))


def _override(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Applies `--config.train.num_steps=2000` and the like; the names of the settings given."""
    for text in arguments:
        name = text.partition("=")[0].removeprefix("--config.")
        if text.startswith("--config.") and name not in SETTINGS:
            raise UserError(unknown_setting(name))
    settings = ConfigDict({n: v for n, v in config.to_dict().items() if n != "runs"})
    values, command = flags.FlagValues(), ["grokjax", *arguments]
    config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=command)
    try:
        rest = values(command)[1:]
    except flags.UnrecognizedFlagError as error:
        rest = [f"--{error.flagname}"]
    except flags.Error as error:
        raise UserError(str(error).replace("\n", " ")) from None
    if rest:
        raise UserError(f"unknown argument '{rest[0]}'; {_meant(rest[0])}")
    overrides = config_flags.get_override_values(values["config"])
    for name, value in overrides.items():
        set_setting(config, name, value)
    return list(overrides)


def _meant(argument: str) -> str:
    """What to type in place of an argument that nothing knows."""
    name = argument.partition("=")[0].lstrip("-")
    meant = nearest_setting if name.partition(".")[0] in SECTIONS else meant_setting
    setting = name if name in SETTINGS else meant(name)
    if setting and (argument.startswith("--") or "=" in argument):
        return f"did you mean --config.{setting}=VALUE?"
    return "see grokjax --help"
