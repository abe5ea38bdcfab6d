"""What a population came to: a table per regime, and the curves that it rests on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from grokjax.base.names import (
    ANSWERS_AT,
    EVENT_AT,
    OOD_ACCURACY,
    OOD_BRIDGE_CHANCE,
    OOD_BRIDGE_FOUND,
    TRAINING_ACCURACY,
)
from grokjax.base.text import aligned
from grokjax.statistics.events import Interval, first_crossing, student_interval
from grokjax.workdir.tables import usable_runs


@dataclasses.dataclass(frozen=True)
class RegimeSummary:
    """One regime at the end of training; intervals are 95 % Student-t over seeds."""

    regime: str
    num_runs: int
    num_diverged: int
    num_memorised: int
    memorised_at: Interval  # steps, over the runs that did
    training_accuracy: Interval
    ood_accuracy: Interval
    bridge_found: Interval
    bridge_chance: Interval


def summarize(runs: pd.DataFrame, curves: pd.DataFrame) -> list[RegimeSummary]:
    """One summary per regime, in the order of the runs. Diverged runs are counted, not averaged."""
    usable = usable_runs(runs)
    return [
        _summarize(str(regime), own, usable[usable.regime == regime], curves)
        for regime, own in runs.groupby("regime", sort=False)
    ]


def _summarize(
    regime: str, runs: pd.DataFrame, usable: pd.DataFrame, curves: pd.DataFrame
) -> RegimeSummary:
    own = [curves[curves.run_id == run_id] for run_id in usable.run_id]
    crossings = [first_crossing(c.step, c[TRAINING_ACCURACY], EVENT_AT) for c in own]
    memorised = [step for step in crossings if math.isfinite(step)]

    def at_end(metric: str) -> Interval:
        return student_interval([c[metric].iloc[-1] for c in own])

    return RegimeSummary(
        regime=regime,
        num_runs=len(runs),
        num_diverged=len(runs) - len(usable),
        num_memorised=len(memorised),
        memorised_at=student_interval(memorised),
        training_accuracy=at_end(TRAINING_ACCURACY),
        ood_accuracy=at_end(OOD_ACCURACY),
        bridge_found=at_end(OOD_BRIDGE_FOUND),
        bridge_chance=at_end(OOD_BRIDGE_CHANCE),
    )


def summary_table(summaries: Sequence[RegimeSummary], step: int) -> str:
    """Text for a terminal; says what its intervals and thresholds are."""
    header = ("regime", "seeds", "memorised at (step)", "OOD accuracy", "bridge found", "(chance)")
    rows = [
        (
            s.regime,
            f"{s.num_runs - s.num_diverged}"
            + (f" (+{s.num_diverged} diverged)" * (s.num_diverged > 0)),
            _steps(s),
            _share(s.ood_accuracy),
            _share(s.bridge_found),
            f"{s.bridge_chance.mean:.2f}",
        )
        for s in summaries
    ]
    rule = ["-" * max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = aligned([header, rule, *rows])
    note = (
        f"At step {step:,}; mean [95 % Student-t interval over seeds]. Memorised: training accuracy"
        f" {EVENT_AT} in three evaluations running. OOD accuracy and bridge found: on OOD"
        " compositions, EMA weights; chance: bridge found with bridges shuffled among the queries."
    )
    return "\n".join([*lines, note])


def verdict(summaries: Sequence[RegimeSummary]) -> str:
    """One sentence per regime: whether it answers OOD compositions, whatever came out."""

    def sentence(s: RegimeSummary) -> str:
        if not s.ood_accuracy.n:
            return f"{s.regime}: all of its runs diverged."
        if math.isnan(s.ood_accuracy.mean):
            return f"{s.regime} has no OOD compositions."
        over = "over" if s.ood_accuracy.mean > ANSWERS_AT else "not over"
        answers = _share(s.ood_accuracy)
        return f"{s.regime} answers {answers} of OOD compositions: {over} {ANSWERS_AT:.2f}."

    return "\n".join(sentence(s) for s in summaries)


def _share(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} [{max(interval.low, 0):.2f}, {min(interval.high, 1):.2f}]"


def _steps(s: RegimeSummary) -> str:
    if not s.num_memorised:
        return f"0 of {s.num_runs - s.num_diverged}"
    mean, low, high, n = s.memorised_at
    text = f"{mean:,.0f}"
    if not math.isnan(low):
        text += f" [{max(low, 0):,.0f}, {high:,.0f}]"
    missing = s.num_runs - s.num_diverged - n
    return text + (f" ({missing} did not)" if missing else "")
