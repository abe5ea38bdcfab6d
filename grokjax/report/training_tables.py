"""The report's tables: times, costs and certainty per group."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokjax.base.names import EVENT_AT, EVENT_METRICS, GROKKED, MEMORISED, OBSERVED
from grokjax.report.training_runs import TrainingRuns, causes
from grokjax.settings.declarations import SEEDS
from grokjax.statistics.events import Interval, student_interval
from grokjax.statistics.survival import (
    CENSORED,
    COMPETING,
    aalen_johansen,
    log_rank,
    paired_ratio,
    restricted_mean,
    variance_components,
    wilson,
)


def times_table(data: TrainingRuns, threshold: float = EVENT_AT) -> pd.DataFrame:
    """Per group and event: how many runs had it, were censored or diverged; when.

    Returns:
      group, event, num_runs, observed, censored, diverged; probability with low and high
      (Aalen-Johansen); mean_steps with mean_low and mean_high (restricted to the shortest training
      without the event, of any group; diverged runs censored where they ended); p_value (log-rank
      against the first group).
    """
    events = data.events[data.events.threshold == threshold]
    unseen = events[causes(events) == CENSORED].groupby("event").step.min()
    by_cell = dict(iter(events.groupby(["group", "event"])))
    rows = []
    for group, event in itertools.product(data.groups, EVENT_METRICS):
        if (group, event) not in by_cell:
            continue
        own = by_cell[group, event]
        ends, (times, seen) = causes(own), _times(own)
        last = aalen_johansen(times, ends).iloc[-1]
        horizon = float(unseen.get(event, data.step))
        mean = restricted_mean(times, seen, horizon)
        base = by_cell.get((data.groups[0], event), own[:0])
        p = math.nan if group == data.groups[0] else log_rank(*_times(base), times, seen).p_value
        row = {
            "group": group, "event": event, "num_runs": len(own), "observed": int(seen.sum()),
            "censored": int((ends == CENSORED).sum()),
            "diverged": int((ends == COMPETING).sum()),
            "probability": last.probability, "low": last.low, "high": last.high,
        }  # fmt: skip
        row |= mean.columns("mean_steps", "mean_") | {"horizon": horizon, "p_value": p}
        rows.append(row)
    return pd.DataFrame(rows)


def _times(events: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """When each run had the event or ended, and whether it had it."""
    return events.step.to_numpy(), (events.status == OBSERVED).to_numpy()


def cost_table(data: TrainingRuns, levels: Sequence[float] = (0.5, 0.9, EVENT_AT)) -> pd.DataFrame:
    """Per group and OOD accuracy: FLOPs until it, of the runs that got there; against the first.

    Returns:
      group, ood_accuracy, num_runs, reached; flops with flops_low and flops_high (mean and 95 %
      Student-t interval over the runs that reached it), seconds and evaluation_seconds (their mean
      device-seconds, of training and of evaluation), ratio with ratio_low and ratio_high: to the
      first group's, over the seeds where both reached it (num_pairs; bootstrap over them).
    """
    by_run = data.runs.set_index("run_id")
    rows = []
    for level in levels:
        events = data.events[data.events.threshold == level]
        grok = events[events.event == GROKKED].set_index("run_id")
        reached = grok[grok.status == OBSERVED]
        flops = (reached.step * by_run.loc[reached.index, "flops_per_step"]).rename("flops")
        seconds, evaluation_seconds = (
            reached.step * by_run.loc[reached.index, name]
            for name in ("seconds_per_step", "evaluation_seconds_per_step")
        )
        seeds = _seeds(by_run)
        base = None
        for group in data.groups:
            own = [r for r in reached.index if by_run.group[r] == group]
            mean = student_interval(flops.loc[own].to_numpy())
            costs = pd.Series(flops.loc[own].to_numpy(), index=[seeds[r] for r in own])
            ratio = Interval(math.nan, math.nan, math.nan, 0)
            if base is None:
                base = costs
            else:
                both = [s for s in costs.index if s in base.index]
                ratio = paired_ratio(costs.loc[both].to_numpy(), base.loc[both].to_numpy())
            counts = {"num_runs": int((grok.group == group).sum()), "reached": len(own)}
            times = {
                "seconds": seconds.loc[own].mean(),
                "evaluation_seconds": evaluation_seconds.loc[own].mean(),
            }
            rows.append(
                {"group": group, "ood_accuracy": level}
                | counts
                | mean.columns("flops")
                | times
                | ratio.columns("ratio")
                | {"num_pairs": ratio.n}
            )
    return pd.DataFrame(rows)


def seed_variance(data: TrainingRuns) -> pd.DataFrame:
    """Where the seeds of a group are crossed: what share of the variance each brings.

    Returns:
      group, quantity (final OOD accuracy; memorised, in steps), a column per seed that varies, rest
      (interactions and noise), num_runs. No rows where seeds change together.
    """
    table = data.outcomes
    by_run = data.runs.set_index("run_id")
    rows = []
    for group in data.groups:
        own = table[table.group == group]
        names = [n for n in SEEDS if n in by_run and by_run[n].loc[own.run_id].nunique() > 1]
        factors = {n: by_run[n].loc[own.run_id].tolist() for n in names}
        for quantity in ("final_ood_accuracy", MEMORISED):
            values = own[quantity].to_numpy(float)
            if len(names) < 2 or not np.isfinite(values).all():
                continue
            try:
                parts = variance_components(values, factors)
            except ValueError:  # not crossed
                continue
            total = sum(parts.values())
            shares = {n: x / total if total else 0.0 for n, x in parts.items()}
            rows.append({"group": group, "quantity": quantity} | shares | {"num_runs": len(own)})
    return pd.DataFrame(rows)


def grok_kinds(data: TrainingRuns) -> pd.DataFrame:
    """Per group: shares of true and fake grokking, of the path, with 95 % Wilson intervals."""
    table = data.outcomes
    rows = []
    for group in data.groups:
        own = table[table.group == group]
        n = len(own)
        row = {"group": group, "num_runs": n}
        for name, count in (
            ("grok", int(np.isfinite(own.grokked).sum())),
            ("path", int(np.isfinite(own.path).sum())),
            ("true", int((own.grok == "true").sum())),
            ("fake", int((own.grok == "fake").sum())),
        ):
            row |= wilson(count, n).columns(name)
        row["delay"] = own.delay.mean()
        row["simultaneous"] = int(own.simultaneous.sum())
        rows.append(row)
    return pd.DataFrame(rows)


def _seeds(by_run: pd.DataFrame) -> pd.Series:
    """What pairs runs of different groups: all their seeds."""
    names = [n for n in SEEDS if n in by_run]
    return by_run[names].astype(str).agg("/".join, axis=1) if names else pd.Series("", by_run.index)
