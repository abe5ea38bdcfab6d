"""What a population came to: a table per regime, and the curves that it rests on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from grokjax.base.names import (
    ANSWERS_AT,
    EVENT_AT,
    ID_ACCURACY,
    OOD_ACCURACY,
    OOD_BRIDGE_CHANCE,
    OOD_BRIDGE_FOUND,
    TRAINING_ACCURACY,
)
from grokjax.base.text import aligned
from grokjax.statistics.events import first_crossing
from grokjax.workdir.tables import usable_runs


@dataclasses.dataclass(frozen=True)
class Span:
    """The median of some runs, their lowest and highest, and how many they are."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Span:
        known = pd.Series(values, dtype=float).dropna()
        return cls(float(known.median()), float(known.min()), float(known.max()), len(known))


@dataclasses.dataclass(frozen=True)
class RegimeSummary:
    """One regime at the end of training: median, lowest and highest of its runs."""

    regime: str
    num_runs: int
    num_diverged: int
    num_repeated: int  # rows that are a run given before; each counts once
    num_memorised: int
    num_answering: int  # OOD accuracy over `ANSWERS_AT` at the end
    memorised_at: Span  # steps, of the runs that did
    training_accuracy: Span
    id_accuracy: Span
    ood_accuracy: Span
    bridge_found: Span
    bridge_chance: Span

    @property
    def num_usable(self) -> int:
        return self.num_runs - self.num_diverged


def summarize(runs: pd.DataFrame, curves: pd.DataFrame) -> list[RegimeSummary]:
    """One summary per regime, in the order of the runs.

    Diverged runs are counted, not averaged; rows with the same hash are one run.
    """
    once = runs.drop_duplicates("run_hash") if "run_hash" in runs else runs
    repeated = runs.regime.value_counts() - once.regime.value_counts()
    return [
        _summarize(str(regime), own, int(repeated[regime]), curves)
        for regime, own in once.groupby("regime", sort=False)
    ]


def _summarize(
    regime: str, runs: pd.DataFrame, num_repeated: int, curves: pd.DataFrame
) -> RegimeSummary:
    usable = usable_runs(runs)
    own = [curves[curves.run_id == run_id] for run_id in usable.run_id]
    crossings = [first_crossing(c.step, c[TRAINING_ACCURACY], EVENT_AT) for c in own]
    memorised = [step for step in crossings if math.isfinite(step)]

    def at_end(metric: str) -> Span:
        return Span.of([c[metric].iloc[-1] if metric in c else math.nan for c in own])

    return RegimeSummary(
        regime=regime,
        num_runs=len(runs),
        num_diverged=len(runs) - len(usable),
        num_repeated=num_repeated,
        num_memorised=len(memorised),
        num_answering=sum(bool(c[OOD_ACCURACY].iloc[-1] > ANSWERS_AT) for c in own),
        memorised_at=Span.of(memorised),
        training_accuracy=at_end(TRAINING_ACCURACY),
        id_accuracy=at_end(ID_ACCURACY),
        ood_accuracy=at_end(OOD_ACCURACY),
        bridge_found=at_end(OOD_BRIDGE_FOUND),
        bridge_chance=at_end(OOD_BRIDGE_CHANCE),
    )


def summary_table(summaries: Sequence[RegimeSummary], step: int) -> str:
    """Text for a terminal; says what its numbers and thresholds are."""
    header = (
        "regime", "runs", "memorised at (step)", "ID accuracy", "OOD accuracy", "bridge found",
        "(chance)",
    )  # fmt: skip
    rows = [
        (
            s.regime,
            _count(s),
            _steps(s),
            _shares(s.id_accuracy),
            _shares(s.ood_accuracy),
            _shares(s.bridge_found),
            f"{s.bridge_chance.median:.2f}",
        )
        for s in summaries
    ]
    rule = ["-" * max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = aligned([header, rule, *rows])
    note = (
        f"At step {step:,}: median (lowest to highest run). Memorised: training accuracy {EVENT_AT}"
        " in three evaluations running. ID accuracy: on held-out ID compositions. OOD accuracy and"
        " bridge found: on OOD compositions, EMA weights; chance: bridge found with bridges"
        " shuffled among the queries."
    )
    return "\n".join([*lines, note])


def verdict(summaries: Sequence[RegimeSummary]) -> str:
    """One sentence per regime: whether it answers OOD compositions, whatever came out."""

    def sentence(s: RegimeSummary) -> str:
        if not s.num_usable:
            return f"{s.regime}: all of its runs diverged."
        if not s.ood_accuracy.n:
            return f"{s.regime} has no OOD compositions."
        return (
            f"{s.regime} answers {_shares(s.ood_accuracy)} of OOD compositions:"
            f" {s.num_answering} of {s.num_usable} runs over {ANSWERS_AT:.2f}."
        )

    return "\n".join(sentence(s) for s in summaries)


def _count(s: RegimeSummary) -> str:
    notes = []
    if s.num_diverged:
        notes.append(f"+{s.num_diverged} diverged")
    if s.num_repeated:
        notes.append(f"{s.num_repeated} repeated")
    return f"{s.num_usable}" + (f" ({', '.join(notes)})" if notes else "")


def _shares(span: Span) -> str:
    if not span.n:
        return "-"
    return f"{span.median:.2f}" + (f" ({span.low:.2f} to {span.high:.2f})" if span.n > 1 else "")


def _steps(s: RegimeSummary) -> str:
    if not s.num_memorised:
        return f"0 of {s.num_usable}"
    span = s.memorised_at
    text = f"{span.median:,.0f}" + (f" ({span.low:,.0f} to {span.high:,.0f})" if span.n > 1 else "")
    missing = s.num_usable - span.n
    return text + (f"; {missing} did not" if missing else "")
