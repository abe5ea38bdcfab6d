"""Groups and numbers in the sentences of a report: few words of many groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

MOST_NAMES, MOST_CLAUSES = 3, 6


def clauses(table: pd.DataFrame, told: Callable[[pd.DataFrame], str]) -> list[str]:
    """What is told of each group; groups of which the same is told stand together."""
    by_text: dict[str, list[str]] = {}
    for group, own in table.groupby("group", sort=False):
        by_text.setdefault(told(own), []).append(str(group))
    return [f"{names_of(members)} {text}" for text, members in by_text.items()]


def shortened(parts: list[str]) -> str:
    left = len(parts) - MOST_CLAUSES
    return "; ".join(parts[:MOST_CLAUSES]) + (f"; and {left} more in the table" if left > 0 else "")


def names_of(groups: Iterable[str], among: Iterable[str] = ()) -> str:
    """`a, b, c and 4 others`; or `phi 2 or 3`, where that tells them from all that they are among.

    Args:
      groups: whose names.
      among: all groups, if there may be something that just these have in common.
    """
    groups, among = list(groups), list(among)
    if len(among) > MOST_CLAUSES and 1 < len(groups) < len(among):
        for setting in _settings(groups[0]):
            values = dict.fromkeys(_settings(g).get(setting) for g in groups)
            if {g for g in among if _settings(g).get(setting) in values} == set(groups):
                return f"{setting} {' or '.join(map(str, values))}".strip()
    named = [bracketed(g) for g in groups]
    left = len(named) - MOST_NAMES
    if left > 1:
        named = [*named[:MOST_NAMES], f"{left} others"]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def _settings(group: str) -> dict[str, str]:
    """`phi 2, layers 3` taken apart; a regime has no setting's name."""
    return {part.rpartition(" ")[0]: part.rpartition(" ")[2] for part in group.split(", ")}


def bracketed(group: str) -> str:
    """A name that has commas of its own stands in brackets."""
    return f"({group})" if "," in group else group


def listed(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(values.astype(str)))


def none_of(own: pd.DataFrame) -> str:
    return f"none of {len(own)}"


def steps_of(values: pd.Series) -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
