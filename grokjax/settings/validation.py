"""What is wrong with the settings of a run, each by itself and among each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import DECODER
from grokjax.settings.config import check_row, flatten
from grokjax.settings.declarations import SETTINGS
from grokjax.settings.own_functions import is_own, is_own_file, is_stack, own_name, values_of
from grokjax.settings.ranges import Range
from grokjax.settings.rows import flat_runs
from grokjax.settings.setting import Setting
from grokjax.settings.suggestions import unknown_setting


def validate(config: ConfigDict) -> None:
    """Checks every setting that can be wrong by itself; what only a model knows is left to it.

    Raises:
      UserError: one line with the setting, its value and what would do.
    """
    validate_names(config)
    _validate_values(config)
    _validate_model(config.model)
    _validate_training(config)
    if config.model.kind == DECODER and config.evaluate.path_position != "answer":
        raise UserError(
            f"evaluate.path_position: '{config.evaluate.path_position}' is not of a decoder, whose"
            " path is read where it says the answer; use answer"
        )


def validate_names(config: ConfigDict) -> None:
    """Of configs that were not made from the default one, or were unlocked.

    Raises:
      UserError: one line with a setting that it lacks, or that there is not.
    """
    given = {name for name in flatten(config) if not name.startswith("runs[")}
    for name in sorted(given - SETTINGS.keys()):
        raise UserError(unknown_setting(name))
    for name in sorted(SETTINGS.keys() - given):
        raise UserError(f"config: lacks the setting '{name}'; start from default_config()")


def _validate_values(config: ConfigDict) -> None:
    for row in config.runs:
        check_row(row)
    flat = flatten(config)
    _validate_differences(config.runs, flat)
    for name, setting in SETTINGS.items():
        allowed = setting.allowed
        if allowed is None:
            continue
        for value in (flat[name], *(row[name] for row in config.runs if name in row)):
            if isinstance(allowed, Range):
                if not allowed.holds(value):
                    raise UserError(f"{name}: {value} must be {allowed.wanted}")
            elif value not in allowed:
                _validate_choice(name, value, allowed, setting)


def _validate_choice(name: str, value: str, allowed: tuple[str, ...], setting: Setting) -> None:
    choices = ", ".join(filter(None, allowed)) + ", or FILE.py:NAME" * setting.own_file
    choices += ", or FILE.py" * setting.whole_file
    parts = values_of(value) if "" in allowed else [value]
    for part in parts:
        is_file = setting.whole_file and is_own_file(part)
        if part not in allowed and not (setting.own_file and is_own(part)) and not is_file:
            raise UserError(f"{name}: '{part}' is none of {choices}")
    called = [own_name(part) for part in parts]
    if len(set(called)) < len(called):
        raise UserError(f"{name}: '{value}' names one twice; give each a name of its own")


def _validate_differences(rows: Sequence[Mapping[str, Any]], flat: Mapping[str, Any]) -> None:
    """One run twice is no second seed."""
    named = dict.fromkeys(name for row in rows for name in row)
    first: dict[tuple, int] = {}
    for number, row in enumerate(rows):
        same = first.setdefault(tuple(row.get(name, flat[name]) for name in named), number)
        if same != number:
            raise UserError(
                f"sweep rows {same} and {number}: have the same settings, and would count one run"
                " as two; leave one out, or give each its seeds"
            )


def _validate_model(m: ConfigDict) -> None:
    if is_stack(m.kind) and m.remat != "none":
        raise UserError(f"model.remat: '{m.remat}' is of the recursive model; give none")
    if (m.kind == DECODER or m.mixer == "attention") and m.hidden_size % m.num_heads:
        raise UserError(
            f"model.num_heads: {m.num_heads} heads do not divide hidden_size {m.hidden_size}"
        )
    if is_stack(m.kind):
        if m.halt_max_steps != 1:
            raise UserError(
                f"model.halt_max_steps: {m.halt_max_steps} is of the recursive model; give 1"
            )
        if m.num_registers and is_own_file(m.kind):
            raise UserError(
                f"model.num_registers: {m.num_registers} is of the recursive model; give 0"
            )
        return
    if m.positions == "rotary" and (m.mixer != "attention" or m.hidden_size // m.num_heads % 2):
        raise UserError("model.positions: rotary needs the attention mixer and an even head size")
    if not 0 <= m.gradient_cycles <= m.H_cycles:
        raise UserError(f"model.gradient_cycles: {m.gradient_cycles} is outside 0..{m.H_cycles}")
    if m.num_registers < 0 or not 0 <= m.register_size <= m.num_registers * m.hidden_size:
        raise UserError(
            f"model.register_size: {m.register_size} values do not fit {m.num_registers} registers"
            f" of {m.hidden_size}"
        )


def _validate_training(config: ConfigDict) -> None:
    o, t = config.optimizer, config.train
    if "cosine" in (o.schedule, o.weight_decay_schedule):
        for run in flat_runs(config):
            end, warmup = run["optimizer.decay_steps"], run["optimizer.warmup_steps"]
            if end <= warmup:
                raise UserError(
                    f"optimizer.decay_steps: {end} is not beyond the warm-up"
                    f" of {warmup} steps; a cosine ends there"
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
