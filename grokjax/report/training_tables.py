"""The report's tables: what came when and in which order, per group (docs/tables.md)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from grokjax.base.names import (
    DIVERGED,
    LEVELS,
    MEMORISED,
    ORDER_LEVELS,
    ORDERS,
)
from grokjax.report.training_runs import TrainingRuns
from grokjax.settings.declarations import SEEDS
from grokjax.statistics.intervals import Interval, span_of, wilson
from grokjax.statistics.survival import (
    CENSORED,
    COMPETING,
    EVENT,
    aalen_johansen,
    median_time,
    restricted_mean,
)
from grokjax.statistics.variance import variance_shares

TIMES = [
    "group", "event", "level", "n", "observed", "censored", "diverged",
    "probability", "probability_low", "probability_high", "median", "median_low", "median_high",
    "earliest", "middle", "latest", "restricted_mean", "restricted_mean_low",
    "restricted_mean_high", "interval", "horizon", "resolution",
]  # fmt: skip
ORDER = [
    "group", "reading", "level", "order", "n", "count", "share", "share_low", "share_high",
    "lag_n", "lag_min", "lag_median", "lag_max",
]  # fmt: skip
VARIANCE = [
    "group", "quantity", "source", "num_levels", "n", "share", "share_low", "share_high", "swept",
]  # fmt: skip
_READINGS = {"strict": "", "any": "any_"}


def times_table(data: TrainingRuns, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """A row per group, event and level: who had it, when, and how sure that is; columns TIMES."""
    rows = []
    cells = dict(iter(data.events.groupby(["group", "event", "threshold"], sort=False)))
    for group, event, level in itertools.product(
        data.groups, data.task.event_metrics, sorted(levels)
    ):
        if (group, event, level) not in cells:
            continue
        own = cells[group, event, level]
        row = {"group": group, "event": event, "level": level}
        rows.append(row | _times(own, data.horizons[event, level]))
    return pd.DataFrame(rows, columns=TIMES)


def _times(events: pd.DataFrame, until: float) -> dict[str, Any]:
    cause, step = events.cause.to_numpy(), events.step.to_numpy(float)
    had = step[cause == EVENT]
    curve = aalen_johansen(step, cause)
    last = curve.iloc[-1]
    chance = Interval(last.probability, last.low, last.high, len(events))
    row: dict[str, Any] = {
        "n": len(events),
        "observed": len(had),
        "censored": int((cause == CENSORED).sum()),
        "diverged": int((cause == COMPETING).sum()),
    }
    row |= chance.columns("probability")
    row |= median_time(curve, len(events)).columns("median")
    row |= dict(zip(("earliest", "middle", "latest"), span_of(had), strict=True))
    mean = restricted_mean(step, cause, until)
    width = (events.step - events.step_before)[cause == EVENT]
    return (
        row
        | mean.columns("restricted_mean")
        | {
            "interval": mean.kind,
            "horizon": until,
            "resolution": float(width.max()) if len(width) else math.nan,
        }
    )


def order_shares(data: TrainingRuns) -> pd.DataFrame:
    """A row per group, reading of the path, level and order word: its share; columns ORDER."""
    rows = []
    if not data.task.hidden:
        return pd.DataFrame(columns=ORDER)
    own_groups = dict(iter(data.outcomes.groupby("group", sort=False)))
    cells = itertools.product(data.groups, _READINGS, ORDER_LEVELS, ORDERS)
    for group, reading, level, word in cells:
        if group not in own_groups:
            continue
        own, prefix = own_groups[group], _READINGS[reading]
        these = own[own[f"{prefix}order_{level:g}"] == word]
        share = wilson(len(these), len(own))
        known = these[f"{prefix}lag_{level:g}"].dropna().to_numpy(float)
        lags = span_of(known)
        rows.append(
            {"group": group, "reading": reading, "level": level, "order": word}
            | {"n": len(own), "count": len(these)}
            | share.columns("share")
            | {"lag_n": len(known)}
            | dict(zip(("lag_min", "lag_median", "lag_max"), lags, strict=True))
        )
    return pd.DataFrame(rows, columns=ORDER)


def seed_variance(data: TrainingRuns) -> pd.DataFrame:
    """What share of the variance each seed that was swept brings; columns VARIANCE.

    Seeds that change together are one source, and what they bring cannot be told apart. Where two
    sources are not crossed, a quantity is not there in every run, or all runs have the same one,
    the shares are NaN, and `swept` says why.
    """
    rows = []
    for group in data.groups:
        own = data.outcomes[(data.outcomes.group == group) & (data.outcomes.status != DIVERGED)]
        sources = _sources(own)
        for quantity in ("final_ood_accuracy", MEMORISED):
            named = {"group": group, "quantity": quantity}
            for source, share, levels, swept in _shares(own, quantity, sources):
                row = {"source": source, "num_levels": levels, "n": len(own), "swept": swept}
                rows.append(named | row | share.columns("share"))
    return pd.DataFrame(rows, columns=VARIANCE)


def _sources(own: pd.DataFrame) -> dict[str, list[int]]:
    """Seeds that vary, by name; those that change together under one."""
    codes: dict[tuple[int, ...], list[str]] = {}
    for name in SEEDS:
        if own[name].nunique() > 1:
            codes.setdefault(tuple(pd.factorize(own[name])[0].tolist()), []).append(name)
    return {" + ".join(seeds): list(code) for code, seeds in codes.items()}


def _shares(
    own: pd.DataFrame, quantity: str, sources: dict[str, list[int]]
) -> list[tuple[str, Interval, int, str]]:
    """(source, share, levels, what was swept) of one group and quantity."""
    values = own[quantity].to_numpy(float)
    nothing = Interval(math.nan, math.nan, math.nan, len(own))
    levels = {name: len(set(x)) for name, x in sources.items()}
    if not sources:
        return [("", nothing, 1, "no seed")]
    swept = " x ".join(sources)
    missing = int(np.isnan(values).sum())
    if missing:
        why = f"{swept}; {missing} of {len(own)} runs have no {quantity}"
        return [(name, nothing, n, why) for name, n in levels.items()]
    alike = [(name, nothing, n, f"{swept}; all runs alike") for name, n in levels.items()]
    if len(sources) == 1:
        if not np.ptp(values):
            return alike
        all_of_it = Interval(1.0, math.nan, math.nan, len(own))
        ((name, n),) = levels.items()
        together = "together: not to be told apart" if "+" in name else "alone: with all the rest"
        return [(name, all_of_it, n, f"{swept}, {together}")]
    try:
        shares = variance_shares(values, sources)
    except ValueError:
        return [(name, nothing, n, f"{swept}, not crossed") for name, n in levels.items()]
    if not np.ptp(values):
        return alike
    return [(name, share, levels.get(name, 0), swept) for name, share in shares.items()]
