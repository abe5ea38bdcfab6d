"""Sweeps: rows of settings that differ, made in plain Python and resolved into runs.

A row is a dict {setting: value} on top of the shared config. An experiment file's `sweep(add)`
adds rows; `product`, `grid` and `seeds` make lists of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.settings.config import Row, check_row, flatten, overlaid, with_settings
from grokjax.settings.declarations import SEEDS, SETTINGS, TRACED
from grokjax.settings.suggestions import unknown_setting


class Sweep:
    """What `sweep(add)` is called with: `add(row)` or `add(row, row, ...)` merges and appends."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __call__(self, *rows: Mapping[str, Any]) -> None:
        merged: Row = {}
        for row in rows:
            merged |= row
        check_row(merged)
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
    """The resolved settings of every run of `config`, in order; errors are those of `rows_left`."""
    return [with_settings(config, row) for row in rows_left(config)]


def flat_runs(config: ConfigDict) -> list[dict[str, Any]]:
    """`flatten` of every run of `config`, for thousands of them; errors as above."""
    shared = flatten(with_settings(config, {}))
    return [overlaid(shared, row) for row in rows_left(config)]


def rows_left(config: ConfigDict) -> list[Row]:
    """In what each run of `config` differs from it, in order.

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
    return rows


def swept_settings(config: ConfigDict) -> list[str]:
    """Settings that differ between the runs, in the order in which rows first name them."""
    runs = flat_runs(config)
    named = dict.fromkeys(name for row in config.runs for name in row)
    return [name for name in named if any(run[name] != runs[0][name] for run in runs)]


def swept_values(run: Mapping[str, Any]) -> dict[str, str]:
    """What is swept besides regime and seeds, with short names: {"weight_decay": "0.3"}.

    Args:
      run: a row of `runs.csv`.
    """

    def text(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value).partition("@")[0]

    named = [name for name in run if name in SETTINGS and name not in (*SEEDS, "data.regime")]
    return {name.rpartition(".")[2]: text(run[name]) for name in named}


def group_label(run: Mapping[str, Any]) -> str:
    """What tells a run's group from others, its seeds left out: `natural, weight_decay 0.3`."""
    swept = [f"{name} {value}" for name, value in swept_values(run).items()]
    return ", ".join([str(run["regime"]), *swept])


def _check_traced(name: str, number: int) -> None:
    if name in TRACED:
        return
    if name not in SETTINGS:
        raise UserError(f"sweep row {number}: {unknown_setting(name)}")
    raise UserError(
        f"sweep row {number}: '{name}' shapes the program, so all runs of a population share it;"
        " use grokjax sweep, which trains its values in populations of their own"
    )


def _fixed_by_folder(name: str) -> bool:
    return name.startswith("data.") or name == "seeds.data"
