"""Where unseen queries are answered like familiar ones: by exposure, or by generalisation."""

from __future__ import annotations

import pandas as pd

from grokjax.base.names import ORDER_LEVELS
from grokjax.data.task import Task
from grokjax.report.html import Finding
from grokjax.report.sentences import MOST_CLAUSES, clauses, names_of, shortened
from grokjax.report.training_runs import TrainingRuns

_AT = ORDER_LEVELS[0]
_SAME = 0.05  # of an accuracy: nearer than that, OOD and ID are answered alike


def likeness_findings(data: TrainingRuns, outcomes: pd.DataFrame) -> list[Finding]:
    """Where accuracy on unseen queries equals that on familiar ones, and where it does not.

    Where training has items of their kind (`Task.exposing`), equal accuracies say that the queries
    are no longer unseen; where it has none, that the model generalises.
    """
    known = outcomes.dropna(subset=["final_iid_accuracy", "final_ood_accuracy"])
    if not len(known):
        return []
    apart = (known.final_iid_accuracy - known.final_ood_accuracy).abs()
    learned = known.final_iid_accuracy >= _AT
    same = (learned & (apart <= _SAME)).groupby(known.group, sort=False).agg(["sum", "size"])
    exposed, exposure = _exposed(data).reindex(same.index), data.task.exposure
    found = [
        Finding(_alike(data.task, known, same, chosen, why), "outcomes")
        for chosen, why in (
            (exposed.eq(1.0), f"{exposure} were trained on there, so the queries have become"
             " in-distribution"),
            (exposed.eq(0.0), f"no {exposure} were trained on there, so this is generalisation"),
            (exposed.isna(), ""),
        )
        if (chosen & (same["sum"] > 0)).any()
    ]  # fmt: skip
    members = same.index[same["sum"] == same["size"]]
    return found + _apart(data.task, known[~known.group.isin(members)])


def _exposed(data: TrainingRuns) -> pd.Series:
    """Whether a group's training had what unseen queries ask: 1 or 0, NaN where no table tells."""
    added = data.runs.reindex(columns=[*data.task.exposing]).apply(pd.to_numeric, errors="coerce")
    composed = added.sum(axis=1, min_count=1).gt(0).astype(float).where(added.notna().any(axis=1))
    return composed.groupby(data.runs.group, sort=False).max()


def _alike(task: Task, known: pd.DataFrame, same: pd.DataFrame, chosen: pd.Series, why: str) -> str:
    among = [*map(str, same.index)]
    members = [str(g) for g in same.index[chosen & (same["sum"] == same["size"])]]
    some = same[chosen & (same["sum"] > 0) & (same["sum"] < same["size"])]
    parts = []
    if members:
        own = known[known.group.isin(members)]
        parts.append(f"all {len(own)} runs of {names_of(members, among)} (medians {_medians(own)})")
    by_share: dict[str, list[str]] = {}
    for group, k, n in some.itertuples():
        by_share.setdefault(f"{k} of {n} runs of", []).append(str(group))
    parts += [
        f"{share} {'each of ' if len(groups) > 1 else ''}{names_of(groups, among)}"
        for share, groups in by_share.items()
    ]
    equal = f"{task.short} accuracy equals {task.short_familiar} accuracy within {_SAME:g}"
    return f"{equal} in {shortened(parts)}{why and f': {why}'}."


def _apart(task: Task, rest: pd.DataFrame) -> list[Finding]:
    unseen, familiar = f"{task.short} accuracy", f"{task.short_familiar} accuracy"
    if not len(rest):
        return []
    if rest.group.nunique() <= MOST_CLAUSES:
        short = f"{task.short[0].upper()}{task.short[1:]}"
        told = clauses(rest, lambda own: f"{_medians(own)} (n = {len(own)})")
        text = f"{short} against {familiar} at the end, medians: {shortened(told)}."
        return [Finding(text, "outcomes")]
    ood = rest.groupby("group", sort=False).final_ood_accuracy.median()
    text = (
        f"In {len(ood)} groups {unseen} stays below {familiar}"
        f" ({rest.final_iid_accuracy.median():.2f}): medians from {ood.min():.2f}"
        f" ({names_of([str(ood.idxmin())])}) to {ood.max():.2f} ({names_of([str(ood.idxmax())])})."
    )
    return [Finding(text, "outcomes")]


def _medians(own: pd.DataFrame) -> str:
    return f"{own.final_ood_accuracy.median():.2f} and {own.final_iid_accuracy.median():.2f}"
