"""What an answer costs, and which groups differ: ratios, bounds, exact tests (docs/tables.md)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from grokjax.base.names import (
    ANSWER,
    DIVERGED,
    FINAL_ACCURACY,
    FINAL_HELD_OUT_ACCURACY,
    MEMORISED,
    ORDER_LEVELS,
    PATH,
    STEPS_TO_ANSWER,
    STEPS_TO_MEMORISE,
    STEPS_TO_PATH,
)
from grokjax.data.task import Task
from grokjax.report.training_runs import TrainingRuns
from grokjax.settings.own_functions import values_of
from grokjax.statistics.intervals import Interval, difference_interval, ratio_interval, span_of
from grokjax.statistics.permutation import (
    Permutation,
    compared_groups,
    holm,
    log_rank_scores,
    permutation_test,
)
from grokjax.statistics.survival import (
    CENSORED,
    COMPETING,
    EVENT,
    aalen_johansen,
    median_time,
    restricted_mean,
    restricted_times,
)

COSTS = [
    "group", "unit", "level", "n", "reached", "median", "median_low", "median_high",
    "restricted_mean", "restricted_mean_low", "restricted_mean_high", "interval", "horizon",
    "earliest", "latest", "ratio", "ratio_low", "ratio_high", "ratio_interval", "ratio_bound",
    "num_pairs",
]  # fmt: skip
COMPARISONS = [
    "quantity", "level", "group_a", "group_b", "measure", "estimate", "low", "high", "interval",
    "bound", "n_a", "n_b", "censored_a", "censored_b", "diverged_a", "diverged_b", "horizon",
    "num_pairs", "method", "num_permutations", "p", "p_smallest", "family", "family_size",
    "p_holm",
]  # fmt: skip
UNITS = {"FLOP": "flops_per_step", "device-seconds": "seconds_per_step"}
_ACCURACIES = {
    FINAL_ACCURACY: "final_ood_accuracy",
    FINAL_HELD_OUT_ACCURACY: "final_iid_accuracy",
}
AT_MOST, AT_LEAST, NO_BOUND = "at most", "at least", "no bound"
# Families of p-values that Holm's correction takes together.
DECLARED, OTHERS = "declared", "not declared"


@dataclasses.dataclass(frozen=True)
class Times:
    """When runs had an event or ended, in any unit, and how far all of them are known."""

    time: np.ndarray
    cause: np.ndarray
    seed: np.ndarray
    known: np.ndarray  # of each run: its time up to the common horizon

    @property
    def censored(self) -> int:
        """Runs whose time is only known to be later."""
        return int((self.cause == CENSORED).sum())


def cost_table(data: TrainingRuns) -> pd.DataFrame:
    """A row per group, unit and level: what the answer costs; columns COSTS.

    The ratio is of restricted means, to the first group. A censored run costs more than it shows:
    the ratio is then a bound.
    """
    rows = []
    for unit, level in itertools.product(UNITS, ORDER_LEVELS):
        groups, until = _costs(data, unit, level)
        first = next(iter(groups.values()), None)
        for group, own in groups.items():
            had = own.time[own.cause == EVENT]
            median = median_time(aalen_johansen(own.time, own.cause), len(own.time))
            mean = restricted_mean(own.time, own.cause, until)
            earliest, _, latest = span_of(had)
            row: dict[str, Any] = {"group": group, "unit": unit, "level": level}
            row |= {"n": len(own.time), "reached": len(had), "horizon": until}
            row |= {"interval": mean.kind, "earliest": earliest, "latest": latest}
            row |= median.columns("median") | mean.columns("restricted_mean")
            if first is not None and own is not first:
                test = _test(own, first)
                ratio = _estimate(own, first, ratio_interval)
                row |= ratio.columns("ratio") | {"ratio_interval": ratio.kind}
                row |= {"ratio_bound": bound(own, first), "num_pairs": test.num_pairs}
            rows.append(row)
    return pd.DataFrame(rows, columns=COSTS)


def _costs(data: TrainingRuns, unit: str, level: float) -> tuple[dict[str, Times], float]:
    """Of each group, in a unit; the horizon is the least that a censored run has cost."""
    scale = data.runs.set_index("run_id")[UNITS[unit]]
    events = data.events[(data.events.event == ANSWER) & (data.events.threshold == level)]
    events = events.assign(step=events.step * scale.loc[events.run_id].to_numpy())
    events = events.dropna(subset=["step"])
    if not len(events):
        return {}, math.nan
    unseen = events[events.cause == CENSORED].step
    until = float(unseen.min() if len(unseen) else events.step.max())
    return _by_group(data, events, until), until


def _by_group(data: TrainingRuns, events: pd.DataFrame, until: float) -> dict[str, Times]:
    runs = data.runs.set_index("run_id")
    seeds = runs["seeds.data"] if "seeds.data" in runs else pd.Series(0, runs.index)
    found = {}
    for group, own in events.groupby("group", sort=False):
        time, cause = own.step.to_numpy(float), own.cause.to_numpy()
        known = restricted_times(time, cause, until)
        found[str(group)] = Times(time, cause, seeds.loc[own.run_id].to_numpy(), known)
    return found


def bound(a: Times, b: Times) -> str:
    """What censored runs make of a's mean less, or over, b's."""
    if a.censored and b.censored:
        return NO_BOUND
    return AT_LEAST if a.censored else AT_MOST if b.censored else ""


def _test(a: Times, b: Times) -> Permutation:
    time, cause = np.concatenate([a.time, b.time]), np.concatenate([a.cause, b.cause])
    is_a = np.arange(len(time)) < len(a.time)
    strata = [*a.seed.tolist(), *b.seed.tolist()]
    return permutation_test(log_rank_scores(time, cause), is_a, strata)


def _estimate(a: Times, b: Times, interval: Any) -> Interval:
    pairs = _pairs(a.seed, b.seed)
    if pairs is None:
        return interval(a.known, b.known, paired=False)
    return interval(a.known[pairs[0]], b.known[pairs[1]], paired=True)


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[list[int], list[int]] | None:
    """Places of the runs of common seeds; None where a seed has several runs, or none is shared."""
    place_a, place_b = ({s: i for i, s in enumerate(x.tolist())} for x in (a, b))
    common = [s for s in place_a if s in place_b]
    if not common or len(place_a) < len(a) or len(place_b) < len(b):
        return None
    return [place_a[s] for s in common], [place_b[s] for s in common]


def comparison_table(data: TrainingRuns) -> pd.DataFrame:
    """A row per quantity and two groups; columns COMPARISONS.

    Every group against the first one; all pairs where there are at most four groups. The family
    that `report.family` declares has Holm's correction of its own, and so has everything else.
    """
    pairs = compared_groups(data.groups)
    rows = [
        *(row for a, b in pairs for row in _time_rows(data, a, b)),
        *(row for a, b in pairs for row in _accuracy_rows(data, a, b)),
    ]
    table = pd.DataFrame(rows, columns=COMPARISONS)
    table["family"], table["family_size"] = _families(table, data), 0
    for _, own in table.groupby("family"):
        table.loc[own.index, "family_size"] = int(own.p.notna().sum())
        table.loc[own.index, "p_holm"] = holm(own.p.to_numpy(float))
    return table.sort_values(["quantity", "level"], kind="stable", ignore_index=True)


def _families(table: pd.DataFrame, data: TrainingRuns) -> list[str]:
    """What the experiment declared to compare with its first group, and everything else."""
    declared = [_in_words(name, data.task) for name in values_of(data.config.report.family)]
    first = (data.groups or [""])[0]
    return [
        DECLARED if not declared or (row.quantity in declared and row.group_a == first) else OTHERS
        for row in table.itertuples()
    ]


def _in_words(quantity: str, task: Task) -> str:
    """A quantity as a task's reader calls it."""
    adjective = {
        FINAL_ACCURACY: task.short,
        FINAL_HELD_OUT_ACCURACY: task.short_familiar.split()[-1],
    }
    return f"final {adjective[quantity]} accuracy" if quantity in adjective else quantity


def _time_rows(data: TrainingRuns, first: str, second: str) -> Iterator[dict[str, Any]]:
    """Steps to each event: b over a, so that a ratio below 1 is a group that is faster."""
    quantities = {
        STEPS_TO_MEMORISE: (MEMORISED, ORDER_LEVELS[-1:]),
        STEPS_TO_PATH: (PATH, ORDER_LEVELS),
        STEPS_TO_ANSWER: (ANSWER, ORDER_LEVELS),
    }
    for quantity, (event, levels) in quantities.items():
        if event not in data.task.event_metrics:
            continue
        for level in levels:
            events = data.events[(data.events.event == event) & (data.events.threshold == level)]
            until = data.horizons.get((event, level), 0.0)
            groups = _by_group(data, events, until)
            if first not in groups or second not in groups or until <= 0:
                continue
            a, b = groups[first], groups[second]
            ratio = _estimate(b, a, ratio_interval)
            yield _row(quantity, level, first, second, "ratio", ratio, _test(a, b)) | {
                "bound": bound(b, a),
                "n_a": len(a.time), "n_b": len(b.time),
                "censored_a": a.censored, "censored_b": b.censored,
                "diverged_a": int((a.cause == COMPETING).sum()),
                "diverged_b": int((b.cause == COMPETING).sum()),
                "horizon": until,
            }  # fmt: skip


def _accuracy_rows(data: TrainingRuns, first: str, second: str) -> Iterator[dict[str, Any]]:
    """Accuracies at the end, of runs that have not diverged: b less a."""
    by_group = dict(iter(data.outcomes.groupby("group")))
    if first not in by_group or second not in by_group:
        return
    for name, column in _ACCURACIES.items():
        quantity = _in_words(name, data.task)
        if name == FINAL_HELD_OUT_ACCURACY and not data.task.held_out:
            continue
        a, b = (by_group[g] for g in (first, second))
        diverged = [int((own.status == DIVERGED).sum()) for own in (a, b)]
        a, b = (own[(own.status != DIVERGED) & own[column].notna()] for own in (a, b))
        x, y = (own[column].to_numpy(float) for own in (a, b))
        if not (len(x) and len(y)):
            continue
        seeds = [own["seeds.data"].to_numpy() for own in (a, b)]
        pairs = _pairs(*seeds)
        chosen = (x, y) if pairs is None else (x[pairs[0]], y[pairs[1]])
        difference = difference_interval(chosen[1], chosen[0], paired=pairs is not None)
        is_a = np.arange(len(x) + len(y)) < len(x)
        test = permutation_test(np.concatenate([x, y]), is_a, [*seeds[0], *seeds[1]])
        yield _row(quantity, math.nan, first, second, "difference", difference, test) | {
            "bound": "", "n_a": len(x), "n_b": len(y), "censored_a": 0, "censored_b": 0,
            "diverged_a": diverged[0], "diverged_b": diverged[1], "horizon": math.nan,
        }  # fmt: skip


def _row(
    quantity: str,
    level: float,
    first: str,
    second: str,
    measure: str,
    estimate: Interval,
    test: Permutation,
) -> dict[str, Any]:
    return {
        "quantity": quantity, "level": level, "group_a": first, "group_b": second,
        "measure": measure, "estimate": estimate.mean, "low": estimate.low,
        "high": estimate.high, "interval": estimate.kind, "num_pairs": test.num_pairs,
        "method": test.method, "num_permutations": test.num_labellings, "p": test.p,
        "p_smallest": test.smallest,
    }  # fmt: skip
