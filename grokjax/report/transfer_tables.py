"""What finetuning populations say: transfer per category, its cost, and who transfers alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from grokjax.base.names import (
    ANSWER_ACCURACY,
    BRIDGE_CHANCE,
    BRIDGE_FOUND,
    BRIDGE_FOUND_STRICT,
    CATEGORIES,
    END,
    EVENT_AT,
    ID_ATOMIC,
    TEST_INFERRED_IID,
    TRAIN_INFERRED,
)
from grokjax.report.transfer_runs import TransferRuns, flops_per_step, in_order
from grokjax.statistics.events import first_crossing
from grokjax.statistics.intervals import mean_interval, span_of
from grokjax.statistics.permutation import sign_flip_p
from grokjax.statistics.survival import (
    CENSORED,
    EVENT,
    aalen_johansen,
    median_time,
    restricted_mean,
)

OLD = (ID_ATOMIC, TRAIN_INFERRED, TEST_INFERRED_IID)  # what may be forgotten
ASKED = ("atomic_new", *CATEGORIES, "kept_atomic", "kept_inferred", *OLD)
BRIDGE_METRICS = (BRIDGE_FOUND, BRIDGE_CHANCE, BRIDGE_FOUND_STRICT)
LEVELS = (0.5, EVENT_AT)
MARGIN = 0.1  # of an accuracy: within it, two groups transfer alike
# Groups of which none answers this much are at the floor: a margin of half of all that there is
# to compare, or more, says nothing of it.
FLOOR = 2 * MARGIN
EQUIVALENT, DIFFERENT, NOT_SHOWN, AT_FLOOR = "equivalent", "different", "not shown", "floor"
REFERENCE = "both_hop_full"
# Columns: a table has its header even without a row.
ACCURACY = (
    "group", "checkpoint", "variant", "asked", "num_runs", "num_queries", "accuracy", "low", "high",
    "interval", "accuracy_min", "accuracy_median", "accuracy_max", *BRIDGE_METRICS,
)  # fmt: skip
TIMES = (
    "group", "checkpoint", "variant", "asked", "level", "num_runs", "reached", "earliest", "latest",
    "median", "median_low", "median_high", "mean_steps", "low", "high", "interval", "horizon",
)  # fmt: skip
WORTH = (
    "group", "checkpoint", "variant", "asked", "num_runs", "pretraining_flops", "finetuning_flops",
    "accuracy", "low", "high", "gain", "gain_low", "gain_high", "interval", "num_pairs",
)  # fmt: skip
BREAK_EVEN = (
    "group", "variant", "asked", "level", "early", "late", "num_pairs", "only_late", "only_early",
    "neither", "pays", "break_even",
)  # fmt: skip
EQUIVALENCE = (
    "group", "checkpoint", "variant", "asked", "accuracy", "reference_accuracy", "num_pairs",
    "difference", "low", "high", "interval", "margin", "p_equivalent", "p_smallest", "p_different",
    "verdict",
)  # fmt: skip


def accuracy_table(data: TransferRuns) -> pd.DataFrame:
    """What each group answers after finetuning.

    Returns:
      group, checkpoint, variant, asked (a category, or old or new facts and compositions),
      num_runs, num_queries (of one run, mean), accuracy with low and high (mean over runs, bounds
      as `interval` says), accuracy_min, accuracy_median, accuracy_max; bridge_found, bridge_chance,
      bridge_found_strict (means; NaN of facts).
    """
    rows = []
    for cell, own in data.cells():
        last = data.final.loc[own.run_id]
        counts = data.results.runs.set_index("run_id").loc[own.run_id]
        for asked in ASKED:
            if f"{asked}/{ANSWER_ACCURACY}" not in last:
                continue
            values = last[f"{asked}/{ANSWER_ACCURACY}"].to_numpy(float)
            accuracy = mean_interval(values)
            queries = float(counts[f"num_{asked}"].mean())
            row = cell | {"asked": asked, "num_runs": accuracy.n, "num_queries": queries}
            row |= accuracy.columns("accuracy", "") | {"interval": accuracy.kind}
            names = ("accuracy_min", "accuracy_median", "accuracy_max")
            row |= dict(zip(names, span_of(values), strict=True))
            for metric in BRIDGE_METRICS:
                name = f"{asked}/{metric}"
                row[metric] = float(last[name].mean()) if name in last else math.nan
            rows.append(row)
    return pd.DataFrame(rows, columns=ACCURACY)


def crossing_steps(data: TransferRuns, asked: str, level: float) -> pd.Series:
    """By run: the finetuning step from which three evaluations are at the level; inf if none."""
    metric = f"{asked}/{ANSWER_ACCURACY}"
    return pd.Series(
        {
            run_id: first_crossing(own.step.to_numpy(), own[metric].to_numpy(), level)
            for run_id, own in data.curves.items()
        }
    )


def time_table(data: TransferRuns, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """Finetuning steps until an accuracy; runs that end first are censored, not dropped.

    Returns:
      group, checkpoint, variant, asked (new facts or a category), level, num_runs, reached;
      median with median_low and median_high (of the survival curve, inf where it does not get to a
      half); earliest and latest of those that reached it; mean_steps with low and high (restricted
      to `horizon`, which no run that did not get there ended before; bounds as `interval` says).
    """
    end = data.results.curves.groupby("run_id").step.max().astype(float)
    rows = []
    for asked in ("atomic_new", *CATEGORIES):
        for level in levels:
            at = crossing_steps(data, asked, level)
            unseen = end[[r for r in data.members.run_id if not np.isfinite(at[r])]]
            horizon = float(unseen.min() if len(unseen) else end.max())
            for cell, own in data.cells():
                time = at[own.run_id].to_numpy()
                reached = np.isfinite(time)
                cause = np.where(reached, EVENT, CENSORED)
                time = np.where(reached, time, end[own.run_id])
                median = median_time(aalen_johansen(time, cause), len(own))
                mean = restricted_mean(time, cause, horizon)
                earliest, _, latest = span_of(time[reached])
                rows.append(
                    cell
                    | {"asked": asked, "level": level, "num_runs": len(own)}
                    | {"reached": int(reached.sum()), "earliest": earliest, "latest": latest}
                    | median.columns("median")
                    | mean.columns("mean_steps", "")
                    | {"interval": mean.kind, "horizon": horizon}
                )
    return pd.DataFrame(rows, columns=TIMES)


def worth_table(data: TransferRuns) -> pd.DataFrame:
    """Is it worthwhile: what was spent before and in finetuning, and what it answers then.

    Returns:
      group, checkpoint, variant, asked (a category), num_runs, pretraining_flops,
      finetuning_flops (means), accuracy with low and high; gain with gain_low and gain_high: over
      the same seeds' earliest checkpoint in the group (num_pairs; NaN of itself); `interval` says
      what bounds both.
    """
    rows = []
    for (group, variant), own in data.members.groupby(["group", "variant"], sort=False):
        present = in_order(own)
        for asked in CATEGORIES:
            accuracy = data.final[f"{asked}/{ANSWER_ACCURACY}"]
            for checkpoint in present:
                these = own[own.checkpoint == checkpoint]
                pairs = _paired(own, present[0], checkpoint)
                late, early = (accuracy.loc[pairs[f"run_id_{n}"]] for n in ("late", "early"))
                gain = mean_interval(late.to_numpy() - early.to_numpy())
                mean = mean_interval(accuracy.loc[these.run_id].to_numpy())
                row = {
                    "group": group, "checkpoint": checkpoint, "variant": variant,
                    "asked": asked, "num_runs": mean.n,
                    "pretraining_flops": these.pretraining_flops.mean(),
                    "finetuning_flops": these.finetuning_flops.mean(),
                }  # fmt: skip
                row |= mean.columns("accuracy", "") | gain.columns("gain")
                rows.append(row | {"interval": mean.kind, "num_pairs": gain.n})
    return pd.DataFrame(rows, columns=WORTH)


def break_even_table(data: TransferRuns, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """After how many finetunings a longer pretraining has paid for itself.

    Two checkpoints of the same run: the later one costs more once, and may cost less each time that
    new facts are learned to a given accuracy. Break-even: extra pretraining FLOPs over the FLOPs
    saved in a finetuning.

    Returns:
      group, variant, asked, level, early, late (checkpoints), num_pairs (seeds with both),
      only_late, only_early, neither (reached the level), pays (seeds where the later one saves),
      break_even (median number of finetunings among those; NaN if none).
    """
    per_step = flops_per_step(data.results)
    at = {(asked, x): crossing_steps(data, asked, x) for asked in CATEGORIES for x in levels}
    rows = []
    for (group, variant), own in data.members.groupby(["group", "variant"], sort=False):
        for early, late in itertools.combinations(in_order(own), 2):
            pairs = _paired(own, early, late)
            for (asked, level), step in at.items() if len(pairs) else ():
                first, then = (step[pairs[f"run_id_{n}"]].to_numpy() for n in ("early", "late"))
                extra = (pairs.pretraining_flops_late - pairs.pretraining_flops_early).to_numpy()
                reached = np.isfinite(first), np.isfinite(then)
                pays = reached[0] & reached[1] & (first > then) & (extra > 0)
                times = extra[pays] / ((first[pays] - then[pays]) * per_step)
                rows.append(
                    {
                        "group": group, "variant": variant, "asked": asked, "level": level,
                        "early": early, "late": late, "num_pairs": len(pairs),
                        "only_late": int((reached[1] & ~reached[0]).sum()),
                        "only_early": int((reached[0] & ~reached[1]).sum()),
                        "neither": int((~reached[0] & ~reached[1]).sum()),
                        "pays": int(pays.sum()),
                        "break_even": float(np.median(times)) if len(times) else math.nan,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows, columns=BREAK_EVEN)


def _paired(own: pd.DataFrame, early: str, late: str) -> pd.DataFrame:
    """The seeds that have both checkpoints, where those are different steps."""
    parts = [own[own.checkpoint == name] for name in (early, late)]
    suffixes = ("_early", "_late")
    both = parts[0].merge(parts[1], on="seed", suffixes=suffixes, validate="one_to_one")
    return both[both.run_id_early != both.run_id_late]


def equivalence_table(data: TransferRuns, margin: float = MARGIN) -> pd.DataFrame:
    """Whether groups transfer as `both_hop_full` at its end, paired by seed.

    Args:
      data: with at least two groups.
      margin: of the accuracy.

    Returns:
      group, checkpoint, variant, asked, accuracy and reference_accuracy (means), num_pairs,
      difference (less the reference, mean) with low and high (as `interval` says), margin,
      p_equivalent (the larger of two one-sided sign-flip tests against the margin) and p_smallest
      (that as many pairs could give), p_different (two-sided sign flips), verdict: `floor` where
      neither answers `FLOOR`, `equivalent` (p_equivalent below 0.05), `different` (p_different
      below 0.05 and a difference beyond the margin) or `not shown`. No rows without a reference.
    """
    reference = data.members[(data.members.group == REFERENCE) & (data.members.checkpoint == END)]
    rows = []
    for cell, own in data.cells():
        base = reference[reference.variant == cell["variant"]]
        if not len(base) or (cell["group"], cell["checkpoint"]) == (REFERENCE, END):
            continue
        pairs = own.merge(base, on="seed", suffixes=("", "_base"), validate="one_to_one")
        pairs = pairs[pairs.run_id != pairs.run_id_base]
        for asked in CATEGORIES:
            accuracy = data.final[f"{asked}/{ANSWER_ACCURACY}"]
            own_accuracy, base_accuracy = (
                accuracy.loc[pairs[c]].to_numpy(float) for c in ("run_id", "run_id_base")
            )
            rows.append(cell | {"asked": asked} | compared(own_accuracy, base_accuracy, margin))
    return pd.DataFrame(rows, columns=EQUIVALENCE)


def compared(
    accuracy: Float[np.ndarray, " N"], reference: Float[np.ndarray, " N"], margin: float
) -> dict[str, Any]:
    """Columns of `equivalence_table`, of pairs of accuracies."""
    difference = accuracy - reference
    n = len(difference)
    mean = mean_interval(difference)
    found = [float(x.mean()) if n else math.nan for x in (accuracy, reference)]
    equivalent = max(sign_flip_p(difference, -margin), sign_flip_p(-difference, -margin))
    different = 2 * min(sign_flip_p(difference, 0.0), sign_flip_p(-difference, 0.0))
    if not n or max(found) < FLOOR:
        verdict = AT_FLOOR if n else NOT_SHOWN
    elif equivalent < 0.05:
        verdict = EQUIVALENT
    else:
        is_different = different < 0.05 and abs(mean.mean) > margin
        verdict = DIFFERENT if is_different else NOT_SHOWN
    return {
        "accuracy": found[0], "reference_accuracy": found[1], "num_pairs": n,
        "difference": mean.mean, "low": mean.low, "high": mean.high, "interval": mean.kind,
        "margin": margin, "p_equivalent": equivalent, "p_smallest": 0.5**n if n else math.nan,
        "p_different": min(different, 1.0) if n else math.nan, "verdict": verdict,
    }  # fmt: skip
