"""When runs memorise, form the path and grok, and what few seeds say (docs/protocol.md, section 4).

An event's step is the first of three evaluations at the threshold; it came since the evaluation
before. A run that ends first is right-censored, a diverged one has met a competing event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from grokjax.base import names


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval; NaN bounds where one seed gives none."""

    mean: float
    low: float
    high: float
    n: int

    def columns(self, mean: str, prefix: str | None = None) -> dict[str, float]:
        """Of a table: `mean` and its bounds, `mean_low` and `mean_high` or of another prefix."""
        prefix = f"{mean}_" if prefix is None else prefix
        return {mean: self.mean, f"{prefix}low": self.low, f"{prefix}high": self.high}


def first_crossing(
    steps: ArrayLike,
    values: ArrayLike,
    threshold: float,
    consecutive: int = names.CONSECUTIVE,
) -> float:
    """The first step of `consecutive` evaluations at or above the threshold; inf if never."""
    above = np.asarray(values, float) >= threshold
    for i in range(len(above) - consecutive + 1):
        if above[i : i + consecutive].all():
            return float(np.asarray(steps)[i])
    return math.inf


def student_interval(values: ArrayLike) -> Interval:
    """Mean and two-sided 95 % Student-t interval over seeds."""
    x = np.asarray(values, float)
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def event_table(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    thresholds: Sequence[float] = names.LEVELS,
    consecutive: int = names.CONSECUTIVE,
) -> pd.DataFrame:
    """T_mem, T_path and T_grok of every run that was trained, for several thresholds.

    Returns:
      run_id, regime, event (of names.EVENT_METRICS), threshold; status (observed, censored or
      diverged), step (of the event, or where the run ended), step_before (the evaluation before,
      since which the event came; NaN unless observed).
    """
    rows = []
    by_run = dict(iter(curves.groupby("run_id", sort=False)))
    for run in runs.itertuples():
        if run.run_id not in by_run:
            continue
        own = by_run[run.run_id].sort_values("step")
        steps = own.step.to_numpy()
        diverged = run.status == names.DIVERGED
        end = float(run.step if diverged else steps[-1])
        steps_until = steps <= end
        for event, metric in names.EVENT_METRICS.items():
            values = own[metric].to_numpy(float) if metric in own else np.full(len(own), np.nan)
            for threshold in thresholds:
                at = first_crossing(steps[steps_until], values[steps_until], threshold, consecutive)
                before = math.nan
                status = names.DIVERGED if diverged else names.CENSORED
                if math.isfinite(at):
                    place = int(np.searchsorted(steps, at))
                    before = float(steps[place - 1]) if place else 0.0
                    status = names.OBSERVED
                at = at if math.isfinite(at) else end
                rows.append((run.run_id, run.regime, event, threshold, status, at, before))
    columns = ["run_id", "regime", "event", "threshold", "status", "step", "step_before"]
    return pd.DataFrame(rows, columns=columns)


def grok_table(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    threshold: float = names.EVENT_AT,
    consecutive: int = names.CONSECUTIVE,
    path_at: float = names.PATH_AT,
) -> pd.DataFrame:
    """A row per run: its three times, its delay, and whether its grokking is true or fake.

    Returns:
      run_id, regime, memorised, path, grokked (steps; NaN if not observed), delay (grokked less
      memorised, signed), simultaneous (the intervals of both overlap), grok ("true": path and
      grok observed; "fake": grokked with the path score below `path_at` throughout;
      "unclear"; "none"; "diverged").
    """
    events = event_table(runs, curves, (threshold, path_at), consecutive)
    wanted = dict.fromkeys(names.EVENT_METRICS, threshold) | {names.PATH: path_at}
    events = events[events.threshold == events.event.map(wanted)].drop_duplicates(
        ["run_id", "event"]
    )
    rows = []
    for (run_id, regime), own in events.groupby(["run_id", "regime"], sort=False):
        e = own.set_index("event")
        seen = {name: e.status[name] == names.OBSERVED for name in names.EVENT_METRICS}
        times = {name: float(e.step[name]) if was else math.nan for name, was in seen.items()}
        overlap = (
            seen[names.MEMORISED]
            and seen[names.GROKKED]
            and max(e.step_before[names.MEMORISED], e.step_before[names.GROKKED])
            < min(e.step[names.MEMORISED], e.step[names.GROKKED])
        )
        score = curves.loc[curves.run_id == run_id, names.EVENT_METRICS[names.PATH]]
        if (e.status == names.DIVERGED).any():
            kind = names.DIVERGED
        elif not seen[names.GROKKED]:
            kind = "none"
        elif seen[names.PATH]:
            kind = "true"
        else:
            kind = "fake" if score.max() < path_at else "unclear"
        rows.append(
            {"run_id": run_id, "regime": regime}
            | times
            | {
                "delay": times[names.GROKKED] - times[names.MEMORISED],
                "simultaneous": bool(overlap),
                "grok": kind,
            }
        )
    return pd.DataFrame(rows)
