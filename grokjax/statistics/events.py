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
from scipy import stats

CONSECUTIVE = 3
THRESHOLDS = (0.95, 0.5, 0.9, 0.99)
PATH_AT = 0.5  # path score from which a path is there; below it throughout, grokking is fake
METRICS = {
    "memorised": "training_accuracy",
    "path": "test_inferred_ood/bridge_found_strict",
    "grokked": "test_inferred_ood/answer_accuracy",
}
OBSERVED, CENSORED, DIVERGED = "observed", "censored", "diverged"


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval; NaN bounds where one seed gives none."""

    mean: float
    low: float
    high: float
    n: int


def first_crossing(
    steps: Sequence[int],
    values: Sequence[float],
    threshold: float,
    consecutive: int = CONSECUTIVE,
) -> float:
    """The first step of `consecutive` evaluations at or above the threshold; inf if never."""
    above = np.asarray(values, float) >= threshold
    for i in range(len(above) - consecutive + 1):
        if above[i : i + consecutive].all():
            return float(np.asarray(steps)[i])
    return math.inf


def student_interval(values: Sequence[float]) -> Interval:
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
    thresholds: Sequence[float] = THRESHOLDS,
    consecutive: int = CONSECUTIVE,
) -> pd.DataFrame:
    """T_mem, T_path and T_grok of every run that was trained, for several thresholds.

    Returns:
      run_id, regime, event (of METRICS), threshold; status (observed, censored or diverged), step
      (of the event, or where the run ended), step_before (the evaluation before, since which the
      event came; NaN unless observed).
    """
    rows = []
    by_run = dict(iter(curves.groupby("run_id", sort=False)))
    for run in runs.itertuples():
        if run.run_id not in by_run:
            continue
        own = by_run[run.run_id].sort_values("step")
        steps = own.step.to_numpy()
        diverged = run.status == "diverged"
        end = float(run.step if diverged else steps[-1])
        steps_until = steps <= end
        for event, metric in METRICS.items():
            values = own[metric].to_numpy(float) if metric in own else np.full(len(own), np.nan)
            for threshold in thresholds:
                at = first_crossing(steps[steps_until], values[steps_until], threshold, consecutive)
                before = math.nan
                status = DIVERGED if diverged else CENSORED
                if math.isfinite(at):
                    place = int(np.searchsorted(steps, at))
                    before = float(steps[place - 1]) if place else 0.0
                    status = OBSERVED
                at = at if math.isfinite(at) else end
                rows.append((run.run_id, run.regime, event, threshold, status, at, before))
    columns = ["run_id", "regime", "event", "threshold", "status", "step", "step_before"]
    return pd.DataFrame(rows, columns=columns)


def grok_table(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    threshold: float = 0.95,
    consecutive: int = CONSECUTIVE,
    path_at: float = PATH_AT,
) -> pd.DataFrame:
    """A row per run: its three times, its delay, and whether its grokking is true or fake.

    Returns:
      run_id, regime, memorised, path, grokked (steps; NaN if not observed), delay (grokked less
      memorised, signed), simultaneous (the intervals of both overlap), grok ("true": path and
      grok observed; "fake": grokked with the path score below `path_at` throughout;
      "unclear"; "none"; "diverged").
    """
    events = event_table(runs, curves, (threshold, path_at), consecutive)
    wanted = events.event.map({name: path_at if name == "path" else threshold for name in METRICS})
    events = events[events.threshold == wanted].drop_duplicates(["run_id", "event"])
    path_metric = METRICS["path"]
    rows = []
    for (run_id, regime), own in events.groupby(["run_id", "regime"], sort=False):
        e = own.set_index("event")
        seen = {name: e.status[name] == OBSERVED for name in METRICS}
        times = {name: float(e.step[name]) if seen[name] else math.nan for name in METRICS}
        overlap = (
            seen["memorised"]
            and seen["grokked"]
            and max(e.step_before["memorised"], e.step_before["grokked"])
            < min(e.step["memorised"], e.step["grokked"])
        )
        score = curves.loc[curves.run_id == run_id, path_metric]
        if (e.status == DIVERGED).any():
            kind = "diverged"
        elif not seen["grokked"]:
            kind = "none"
        elif seen["path"]:
            kind = "true"
        else:
            kind = "fake" if score.max() < path_at else "unclear"
        rows.append(
            {"run_id": run_id, "regime": regime}
            | times
            | {
                "delay": times["grokked"] - times["memorised"],
                "simultaneous": bool(overlap),
                "grok": kind,
            }
        )
    return pd.DataFrame(rows)
