"""What a population came to: a table per regime, and the curves that it rests on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import pandas as pd

from grokjax.base.names import ANSWERS_AT, EVENT_AT, TRAINING_ACCURACY
from grokjax.base.text import aligned
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import CHANCE, FOUND, Task
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
    num_answering: int  # accuracy on unseen queries over `ANSWERS_AT` at the end
    memorised_at: Span  # steps, of the runs that did
    training_accuracy: Span
    id_accuracy: Span
    ood_accuracy: Span
    path_found: Span
    path_chance: Span

    @property
    def num_usable(self) -> int:
        return self.num_runs - self.num_diverged


def summarize(
    runs: pd.DataFrame, curves: pd.DataFrame, task: Task = COMPOSITION
) -> list[RegimeSummary]:
    """One summary per regime, in the order of the runs.

    Diverged runs are counted, not averaged; rows with the same hash are one run.
    """
    once = runs.drop_duplicates("run_hash") if "run_hash" in runs else runs
    repeated = runs.regime.value_counts() - once.regime.value_counts()
    return [
        _summarize(str(regime), own, int(repeated[regime]), curves, task)
        for regime, own in once.groupby("regime", sort=False)
    ]


def _summarize(
    regime: str, runs: pd.DataFrame, num_repeated: int, curves: pd.DataFrame, task: Task
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
        num_answering=sum(bool(c[task.accuracy].iloc[-1] > ANSWERS_AT) for c in own),
        memorised_at=Span.of(memorised),
        training_accuracy=at_end(TRAINING_ACCURACY),
        id_accuracy=at_end(task.held_out_accuracy),
        ood_accuracy=at_end(task.accuracy),
        path_found=at_end(task.of_path(FOUND)),
        path_chance=at_end(task.of_path(CHANCE)),
    )


def summary_table(summaries: Sequence[RegimeSummary], step: int, task: Task = COMPOSITION) -> str:
    """Text for a terminal; says what its numbers and thresholds are."""
    columns: dict[str, Callable[[RegimeSummary], str]] = {
        "regime": lambda s: s.regime,
        "runs": _count,
        "memorised at (step)": _steps,
    }
    note = (
        f"At step {step:,}: median (lowest to highest run). Memorised: training accuracy {EVENT_AT}"
        " in three evaluations running."
    )
    about = f"{task.short} accuracy"
    if task.held_out:
        columns[f"{_first_word(task)} accuracy"] = lambda s: _shares(s.id_accuracy)
        note += f" {_first_word(task)} accuracy: on {task.familiar}."
    columns[about] = lambda s: _shares(s.ood_accuracy)
    if task.hidden:
        columns[f"{task.path} found"] = lambda s: _shares(s.path_found)
        columns["(chance)"] = lambda s: f"{s.path_chance.median:.2f}"
        hidden = " and ".join(f"{h.name}s" for h in task.hidden)
        about += f" and {task.path} found"
        note += (
            f" {about}: on {task.unseen}, EMA weights; chance: {task.path} found with {hidden}"
            " shuffled among the queries."
        )
    else:
        note += f" {about}: on {task.unseen}, EMA weights."
    rows = [tuple(text(s) for text in columns.values()) for s in summaries]
    rule = ["-" * max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return "\n".join([*aligned([tuple(columns), rule, *rows]), note])


def verdict(summaries: Sequence[RegimeSummary], task: Task = COMPOSITION) -> str:
    """One sentence per regime: whether it answers unseen queries, whatever came out."""

    def sentence(s: RegimeSummary) -> str:
        if not s.num_usable:
            return f"{s.regime}: all of its runs diverged."
        if not s.ood_accuracy.n:
            return f"{s.regime} has no {task.unseen}."
        return (
            f"{s.regime} answers {_shares(s.ood_accuracy)} of {task.unseen}:"
            f" {s.num_answering} of {s.num_usable} runs over {ANSWERS_AT:.2f}."
        )

    return "\n".join(sentence(s) for s in summaries)


def _first_word(task: Task) -> str:
    """`ID` of `held-out ID`."""
    return task.short_familiar.split()[-1]


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
