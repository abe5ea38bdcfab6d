"""Committed tables, and how a page shows what is in them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

REGIMES = ("natural", "second_hop_full", "both_hop_full")  # in the order that pages have
RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"


def table(experiment: str, name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / experiment / f"{name}.csv", keep_default_na=True)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return body.replace("| --- ", "|---").replace("--- |", "---|").replace("---||", "---|") + "\n"


def spread(values: Iterable[float], form: str = ".2f") -> str:
    """`0.14 (0.05 to 0.61)`: median, lowest, highest."""
    x = np.asarray(list(values), float)
    return f"{np.median(x):{form}} ({x.min():{form}} to {x.max():{form}})"


def span(values: Iterable[float]) -> str:
    """`2,500 to 3,000`, or one number."""
    x = pd.Series(list(values)).dropna()
    if not len(x):
        return "none"
    low, high = f"{x.min():,.0f}", f"{x.max():,.0f}"
    return low if low == high else f"{low} to {high}"


def how_many(values: pd.Series) -> str:
    seen = values.dropna()
    count = f"{len(seen)} of {len(values)}"
    return f"{count}: {span(seen)}" if len(seen) else f"none of {len(values)}"


def listed(values: Iterable[float]) -> str:
    return ", ".join(f"{x:.2f}" for x in values)
