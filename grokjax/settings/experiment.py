"""Experiment files: Python modules with `get_config()` and, if they sweep, `sweep(add)`."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import math
import pathlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from grokjax.base.errors import UserError
from grokjax.data.dataset import POSITIONS
from grokjax.model import DECODER
from grokjax.settings.rows import (
    SEEDS,
    Row,
    Sweep,
    expand,
    flatten,
    rows_of,
    set_setting,
    unknown_setting,
)
from grokjax.training.evaluate import BEST
from grokjax.training.resolve import evaluated_model, model_config

_CHOICES = {
    "model.kind": ("recursive", "decoder"),
    "model.mixer": ("mlp", "attention"),
    "model.positions": ("none", "rotary", "learned"),
    "model.dtype": ("float32", "bfloat16", "float64"),
    "train.loss": ("stablemax", "softmax"),
    "optimizer.name": ("adamw", "adam_atan2"),
    "optimizer.schedule": ("constant", "cosine"),
    "optimizer.weight_decay_schedule": ("constant", "cosine"),
    "transfer.weights": ("ema", "raw"),
    "transfer.optimizer_state": ("fresh", "carried"),
    "transfer.retention": ("facts", "closure"),
}
_POSITIVE = (
    "model.hidden_size", "model.num_layers", "model.H_cycles", "model.L_cycles", "model.num_heads",
    "model.mlp_multiple", "model.halt_max_steps", "model.num_loops", "train.num_steps",
    "train.batch_size", "train.eval_every", "train.chunk_steps", "train.batch_devices",
    "evaluate.batch_size", "checkpoint.every", "checkpoint.keep",
    "checkpoint.analysis_steps_per_decade", "data.max_probes",
)  # fmt: skip

# What a number must be, wherever it is given; no NaN passes.
_RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    ("a whole number from 0 to 2**31 - 1", lambda x: 0 <= x < 2**31, SEEDS),
    ("finite and at least 0", lambda x: 0 <= x < math.inf, (
        "optimizer.learning_rate", "optimizer.warmup_steps", "optimizer.warmup_start",
        "optimizer.decay_steps", "optimizer.weight_decay", "optimizer.eps",
        "optimizer.grokfast_lambda", "optimizer.register_learning_rate",
        "optimizer.register_weight_decay",
        "evaluate.H_cycles", "evaluate.L_cycles", "evaluate.num_loops",
        "sweep.runs_per_population",
    )),
    ("at least 0", lambda x: x >= 0, ("transfer.num_kept", "transfer.seed", "transfer.step")),
    ("at least 1", lambda x: x >= 1, ("transfer.num_new_facts", "transfer.max_probes")),
    ("at least 0 and below 1", lambda x: 0 <= x < 1, (
        "transfer.new_share",
        "optimizer.beta1", "optimizer.beta2", "optimizer.ema_rate", "optimizer.grokfast_alpha",
        "model.dropout",
    )),
    ("between 0 and 1", lambda x: 0 <= x <= 1, ("model.halt_exploration", "train.stop_at")),
    ("above 0", lambda x: x > 0, ("optimizer.clip_norm",)),
    ("finite and above 0", lambda x: 0 < x < math.inf, ("model.expansion",)),
)  # fmt: skip


def load_experiment(path: str, overrides: Mapping[str, Any] | Sequence[str] = ()) -> ConfigDict:
    """The config of an experiment file, its sweep's rows in `config.runs`.

    Args:
      path: `experiments/x.py`, or `experiments/x.py:ARG` to pass ARG to its functions. A file that
        has ARGUMENTS takes those alone.
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
        varied = {name for row in sweep.rows for name in row}
        clash = sorted(varied & set(overrides))
        if clash:
            raise UserError(
                f"--config.{clash[0]}: the sweep of {file} varies it; edit its sweep(add), or use"
                " an experiment without one"
            )
    return config, sweep.rows


def validate(config: ConfigDict) -> None:
    """Checks every setting that can be wrong by itself.

    Raises:
      UserError: one line with the setting, its value and what would do.
    """
    flat = flatten(config)
    for name, choices in _CHOICES.items():
        if flat[name] not in choices:
            raise UserError(f"{name}: '{flat[name]}' is none of {', '.join(choices)}")
    for name in _POSITIVE:
        if not 1 <= flat[name] < 2**31:
            raise UserError(f"{name}: {flat[name]:.16g} must be at least 1 and below 2**31")
    for wanted, is_good, names in _RANGES:
        for name in names:
            for value in (flat[name], *(row[name] for row in config.runs if name in row)):
                if not is_good(value):
                    raise UserError(f"{name}: {value} must be {wanted}")
    m, t = config.model, config.train
    if (m.kind == DECODER or m.mixer == "attention") and m.hidden_size % m.num_heads:
        raise UserError(
            f"model.num_heads: {m.num_heads} heads do not divide hidden_size {m.hidden_size}"
        )
    if m.kind != DECODER:
        _validate_recursive(m)
    stages = evaluated_model(config, model_config(config, vocab_size=1)).evaluation_stages
    for name, known in (("path_stage", stages), ("path_position", POSITIONS)):
        if config.evaluate[name] not in (BEST, *known):
            raise UserError(
                f"evaluate.{name}: '{config.evaluate[name]}' is none of {BEST}, {', '.join(known)}"
            )
    if m.kind == DECODER and config.evaluate.path_position != "answer":
        raise UserError(
            f"evaluate.path_position: '{config.evaluate.path_position}' is not of a decoder, whose"
            " path is read where it says the answer; use answer"
        )
    o = config.optimizer
    if "cosine" in (o.schedule, o.weight_decay_schedule):
        for run in expand(config):
            if run.optimizer.decay_steps <= run.optimizer.warmup_steps:
                raise UserError(
                    f"optimizer.decay_steps: {run.optimizer.decay_steps} is not beyond the warm-up"
                    f" of {run.optimizer.warmup_steps} steps; a cosine ends there"
                )
    if t.eval_every % t.chunk_steps:
        raise UserError(
            f"train.chunk_steps: {t.chunk_steps} does not divide eval_every {t.eval_every}"
        )
    if t.stop_at and (t.stop_margin % t.eval_every or t.stop_margin < 3 * t.eval_every):
        raise UserError(
            f"train.stop_margin: {t.stop_margin} is not a multiple of train.eval_every"
            f" {t.eval_every} from {3 * t.eval_every} on; an event is known two evaluations later"
        )
    if config.checkpoint.every % t.eval_every:
        raise UserError(
            f"checkpoint.every: {config.checkpoint.every} is no multiple of train.eval_every"
            f" {t.eval_every}"
        )


def _validate_recursive(m: ConfigDict) -> None:
    if m.positions == "rotary" and (m.mixer != "attention" or m.hidden_size // m.num_heads % 2):
        raise UserError("model.positions: rotary needs the attention mixer and an even head size")
    if not 0 <= m.gradient_cycles <= m.H_cycles:
        raise UserError(f"model.gradient_cycles: {m.gradient_cycles} is outside 0..{m.H_cycles}")
    if m.num_registers < 0 or not 0 <= m.register_size <= m.num_registers * m.hidden_size:
        raise UserError(
            f"model.register_size: {m.register_size} values do not fit {m.num_registers} registers"
            f" of {m.hidden_size}"
        )


def _load_module(file: str) -> ModuleType:
    path = pathlib.Path(file)
    if not path.is_file():  # from anywhere: the experiments beside the package
        path = pathlib.Path(__file__).parents[2] / file
    if not path.is_file():
        raise UserError(f"--config={file}: no such file; give an experiment, experiments/NAME.py")
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
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, SyntaxError) and error.filename == file:
            line, said = error.lineno, error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(frames) if f.filename == file), None)
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"--config={file}: line {line}: {said}") from None


def _call(get_config: Callable, argument: str, path: str, source: ConfigDict | None) -> ConfigDict:
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
    settings = ConfigDict({n: v for n, v in config.items() if n != "runs"})
    known = flatten(settings)
    for text in arguments:
        name = text.partition("=")[0].removeprefix("--config.")
        if text.startswith("--config.") and name not in known:
            raise UserError(unknown_setting(name, known))
    values, command = flags.FlagValues(), ["grokjax", *arguments]
    config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=command)
    try:
        rest = values(command)[1:]
    except flags.UnrecognizedFlagError as error:
        rest = [f"--{error.flagname}"]
    except flags.Error as error:
        raise UserError(str(error).replace("\n", " ")) from None
    if rest:
        raise UserError(f"unknown argument '{rest[0]}'; see grokjax --help")
    overrides = config_flags.get_override_values(values["config"])
    for name, value in overrides.items():
        set_setting(config, name, value)
    return list(overrides)
