"""What an experiment file resolves to, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grokjax.base.text import aligned
from grokjax.settings.config import flatten, with_settings
from grokjax.settings.declarations import SETTINGS
from grokjax.settings.experiment import read_experiment
from grokjax.settings.validation import validate

_MOST_VALUES = 6


def list_settings(path: str, overrides: Sequence[str] = ()) -> list[str]:
    """A line for each setting: name, value (or values), static or per run, what it is.

    Args:
      path: an experiment file, `FILE` or `FILE:ARG`.
      overrides: `--config.SECTION.NAME=VALUE`.

    Raises:
      UserError: the file, or a setting of one of its rows, is wrong.
    """
    config, rows = read_experiment(path, overrides)
    for row in rows or [{}]:
        validate(with_settings(config, row))
    flat = flatten(config)
    swept = list(dict.fromkeys(name for row in rows for name in row))
    table = [("setting", "value", "kind", "what it is")]
    for name, setting in SETTINGS.items():
        values = [row.get(name, flat[name]) for row in rows] if name in swept else [flat[name]]
        kind = "per run" if setting.traced else "static"
        table.append((name, _shown(values), kind + ", swept" * (name in swept), setting.help))
    varies = f"; the sweep varies {', '.join(swept)}" if swept else ""
    return [*aligned(table), "", f"runs: {max(len(rows), 1)}{varies}"]


def _shown(values: Sequence[Any]) -> str:
    """Each value once; of many the first ones and the last."""
    texts = list(dict.fromkeys("''" if value == "" else str(value) for value in values))
    if len(texts) > _MOST_VALUES:
        texts = [*texts[: _MOST_VALUES - 2], "...", texts[-1]]
    return ", ".join(texts)
