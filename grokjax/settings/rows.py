"""Sweeps: rows of settings that differ, made in plain Python and resolved into runs.

A row is a dict {setting: value} on top of the shared config. An experiment file's `sweep(add)`
adds rows; `product`, `grid` and `seeds` make lists of them.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.settings.config import default_config

Row = dict[str, Any]

# Settings that shape the compiled program or the vocabulary: one value per population. The rest
# of those sections is data, and may differ from run to run.
_STATIC_DATA = {"data.folder", "data.num_entities", "data.num_relations", "data.max_probes"}
_STATIC_OPTIMIZER = {f"optimizer.{name}" for name in ("name", "schedule", "weight_decay_schedule")}
_TRACED_SECTIONS = ("seeds", "data", "optimizer", "transfer")
TRACED = (
    frozenset(
        f"{section}.{name}" for section in _TRACED_SECTIONS for name in default_config()[section]
    )
    - _STATIC_DATA
    - _STATIC_OPTIMIZER
)

SEEDS = ("seeds.data", "seeds.init", "seeds.order")

# What a run's identity leaves out: how long it trains, and whom it trains with.
_NOT_IDENTITY = (
    "name",
    "runs",
    "train.num_steps",
    "sweep.runs_per_population",
    "transfer.source",
    "transfer.run_id",
    "transfer.checkpoints",
    "transfer.control_atomic",
    "transfer.control_steps",
)

# Settings that came later: at what was meant before, they are no part of a run's identity.
_ADDED = {"evaluate.path_position": "answer"}


class Sweep:
    """What `sweep(add)` is called with: `add(row)` or `add(row, row, ...)` merges and appends."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __call__(self, *rows: Mapping[str, Any]) -> None:
        merged: Row = {}
        for row in rows:
            merged |= row
        self.rows.append(merged)


def product(*lists: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Every combination of one row from each list, merged."""
    for rows in itertools.product(*lists):
        yield {name: value for row in rows for name, value in row.items()}


def grid(setting: str, values: Iterable[Any]) -> list[Row]:
    """One row per value of a setting."""
    return [{setting: value} for value in values]


def seeds(num: int, start: int = 0) -> list[Row]:
    """Replicates: data, initialisation and order seed all change together."""
    return [dict.fromkeys(SEEDS, s) for s in range(start, start + num)]


def expand(config: ConfigDict) -> list[ConfigDict]:
    """The resolved settings of every run of `config`, in order.

    With `data.folder` set the folder fixes graph, regime and splits: rows keep only what is left
    of them, and rows that have become equal are merged.

    Raises:
      UserError: a row names an unknown setting, or one that the whole population must share.
    """
    rows = [dict(row) for row in config.runs] or [{}]
    for number, row in enumerate(rows):
        for name in row:
            _check_traced(name, number)
    if config.data.folder:
        rows = [{n: v for n, v in row.items() if not _fixed_by_folder(n)} for row in rows]
        rows = [row for i, row in enumerate(rows) if row not in rows[:i]]
    runs = []
    for row in rows:
        runs.append(with_settings(config, row))
    return runs


def with_settings(config: ConfigDict, row: Mapping[str, Any]) -> ConfigDict:
    """One run of a config, with some of its settings changed."""
    run = ConfigDict(config.to_dict())
    run.runs = ()
    for name, value in row.items():
        set_setting(run, name, value)
    return run


def swept_settings(config: ConfigDict) -> list[str]:
    """Settings that differ between the runs, in the order in which rows first name them."""
    runs = [flatten(run) for run in expand(config)]
    named = dict.fromkeys(name for row in config.runs for name in row)
    return [name for name in named if any(run[name] != runs[0][name] for run in runs)]


def settings_hash(run: ConfigDict) -> str:
    """The identity of a run: 12 hex digits of the SHA-256 of its settings, whatever its length."""
    settings = {
        name: value
        for name, value in flatten(run).items()
        if name not in _NOT_IDENTITY and _ADDED.get(name) != value
    }
    if not run.transfer.source:
        settings = {n: v for n, v in settings.items() if not n.startswith("transfer.")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def config_difference(before: ConfigDict, after: ConfigDict) -> list[str]:
    """One text per differing setting: `data.phi: 3.6 -> 18.0`."""
    old, new = flatten(before), flatten(after)
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name, "absent") != new.get(name, "absent")
    ]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{`section.name`: value}; rows appear as `runs[i].section.name`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{name}.{inner}": v for inner, v in flatten(value).items()}
        elif name == "runs":
            for i, row in enumerate(value):
                flat |= {f"runs[{i}].{inner}": v for inner, v in row.items()}
        else:
            flat[name] = value
    return flat


def to_json(config: ConfigDict) -> dict[str, Any]:
    """JSON-ready settings; infinities are written as JSON's readers in Python know them."""
    settings = config.to_dict()
    settings["runs"] = [dict(row) for row in settings["runs"]]
    return settings


def from_json(settings: Mapping[str, Any]) -> ConfigDict:
    """The config that `to_json` gave, checked against the known settings.

    Raises:
      UserError: a setting is unknown, missing or of another type.
    """
    config = default_config()
    rest = dict(settings)
    rows = rest.pop("runs", ())
    for section, values in rest.items():
        if isinstance(values, Mapping):
            for name, value in values.items():
                set_setting(config, f"{section}.{name}", value)
        else:
            set_setting(config, section, values)
    try:
        config.runs = tuple(dict(row) for row in rows)
    except (TypeError, ValueError):
        raise UserError("runs: not a list of {setting: value}") from None
    return config


def set_setting(config: ConfigDict, name: str, value: Any) -> None:
    """Sets `section.name`, whole numbers for fractions allowed.

    Raises:
      UserError: the setting is unknown (the nearest is named) or of another type.
    """
    known = flatten(config)
    if name not in known:
        raise UserError(unknown_setting(name, known))
    *sections, last = name.split(".")
    node = config
    for section in sections:
        node = node[section]
    if value is None:  # which a ConfigDict takes for anything
        raise UserError(f"{name}: has no value; give one")
    if isinstance(node[last], float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        node[last] = value
    except TypeError:
        wanted = type(node[last]).__name__
        raise UserError(f"{name}: {value!r} is not of type {wanted}") from None


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """One line that names the nearest known setting."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:  # the section may be missing or wrong
        last = name.rsplit(".", 1)[-1]
        endings = {k.rsplit(".", 1)[-1]: k for k in known}
        near = [endings[e] for e in difflib.get_close_matches(last, endings, n=1, cutoff=0)]
    return f"config: unknown setting '{name}'; did you mean '{near[0]}'?"


def _check_traced(name: str, number: int) -> None:
    if name in TRACED:
        return
    known = flatten(default_config())
    if name not in known:
        raise UserError(f"sweep row {number}: {unknown_setting(name, known)}")
    raise UserError(
        f"sweep row {number}: '{name}' shapes the program, so all runs of a population share it;"
        " use grokjax sweep, which trains its values in populations of their own"
    )


def _fixed_by_folder(name: str) -> bool:
    return name.startswith("data.") or name == "seeds.data"


def rows_of(sequence: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    return tuple(dict(row) for row in sequence)
