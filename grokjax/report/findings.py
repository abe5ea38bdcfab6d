"""The answer in a few sentences, read from the report's tables: each names its n and its table."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from grokjax.base.names import (
    ANSWER,
    ANSWER_FIRST,
    DIVERGED,
    DONE,
    EVENT_AT,
    ORDER_LEVELS,
    ORDERS,
    PENDING,
    STOPPED,
    UNDECIDED,
)
from grokjax.data.task import Task
from grokjax.report.html import Finding
from grokjax.report.likeness import likeness_findings
from grokjax.report.sentences import (
    MOST_CLAUSES,
    bracketed,
    clauses,
    listed,
    names_of,
    none_of,
    shortened,
    steps_of,
)
from grokjax.report.training_runs import TrainingRuns
from grokjax.report.worth import comparison_finding, cost_finding, worth_finding

_LEVEL = f"{ORDER_LEVELS[0]:g}"
Tables = Mapping[str, pd.DataFrame]


def findings(data: TrainingRuns, tables: Tables) -> list[Finding]:
    """Who memorised, whose path came first, who answers by when, at what cost, what is undecided.

    Args:
      data: the runs.
      tables: outcomes, times, costs, comparisons as docs/tables.md has them.
    """
    outcomes = tables["outcomes"]
    usable = outcomes[outcomes.status != DIVERGED]
    found: list[Finding] = []
    if len(usable):
        found += worth_finding(tables["costs"], tables["comparisons"])
        found.append(_memorised(usable))
        found += [_order(usable, data.task)] if data.task.hidden else []
        found.append(_answers(usable, tables["times"], data.task))
        found += likeness_findings(data, usable)
        found += cost_finding(tables["costs"])
        found += comparison_finding(tables["comparisons"])
    return [*found, *(Finding(text, table) for text, table in _undecided(data, tables))]


def _memorised(outcomes: pd.DataFrame) -> Finding:
    what = f"training accuracy {EVENT_AT:g} in three evaluations running"
    if outcomes.memorised.notna().all():
        who = f"All {len(outcomes)} runs memorise" if len(outcomes) > 1 else "The run memorises"
        text = f"{who} ({what}), by step {outcomes.memorised.max():,.0f}."
    else:
        text = f"Who memorises ({what}): {_per_group(outcomes, 'memorised', _who_memorised)}."
    return Finding(text, "outcomes")


def _who_memorised(own: pd.DataFrame) -> str:
    seen = own.memorised.dropna()
    if not len(seen):
        return f"{none_of(own)} by step {steps_of(own.end_step)}"
    return f"{len(seen)} of {len(own)} by step {seen.max():,.0f}"


def _order(outcomes: pd.DataFrame, task: Task) -> Finding:
    column = f"order_{_LEVEL}"

    def told(own: pd.DataFrame) -> str:
        parts = []
        for order in (o for o in ORDERS if (own[column] == o).any()):
            these, n = own[own[column] == order], len(own)
            text = f"{order} in {len(these)} of {n}"
            if order == UNDECIDED:
                text += f" (neither by step {steps_of(these.end_step)})"
            elif order == ANSWER_FIRST:
                text += _unread(these[these[f"path_{_LEVEL}"].isna()], task)
            parts.append(text)
        return ", ".join(parts)

    groups = outcomes.groupby("group", sort=False)
    if groups.ngroups > MOST_CLAUSES:
        only = {str(g): set(own[column]) for g, own in groups}
        by_order = {
            f"{order} in all runs of": [g for g, found in only.items() if found == {order}]
            for order in ORDERS
        }
        by_order["mixed:"] = [g for g, found in only.items() if len(found) > 1]
        shown = "; ".join(f"{what} {names_of(who, only)}" for what, who in by_order.items() if who)
    else:
        shown = shortened(clauses(outcomes, told))
    strict = f"both at {_LEVEL}, strict: the {task.path} at the run's site"
    anywhere = _read_anywhere(outcomes, task)
    return Finding(f"Path or answer first ({strict}): {shown}. {anywhere}", "order")


def _read_anywhere(outcomes: pd.DataFrame, task: Task) -> str:
    """In how many runs the study's reading tells another order, and which."""
    strict, anywhere = (outcomes[f"{prefix}order_{_LEVEL}"] for prefix in ("", "any_"))
    what = f"The {task.path} anywhere gives"
    changed = [f"{b}, not {a}" for a, b in zip(strict, anywhere, strict=True) if a != b]
    if not changed:
        return f"{what} all of them the same order."
    kinds = shortened([f"{k} {kind}" for kind, k in collections.Counter(changed).items()])
    return f"{what} {len(changed)} of {len(outcomes)} runs another order ({kinds})."


def _unread(runs: pd.DataFrame, task: Task) -> str:
    """Runs whose path's site reads nothing, and whether another does: one site is not all."""
    if not len(runs):
        return ""
    elsewhere = int(runs[f"any_path_{_LEVEL}"].notna().sum())
    hidden = task.path
    other = f"the {hidden} is read elsewhere in {elsewhere}" if elsewhere else "nor is it elsewhere"
    return f" (in {len(runs)} no {hidden} is read at the path's site by the end; {other})"


def _answers(outcomes: pd.DataFrame, times: pd.DataFrame, task: Task) -> Finding:
    answer = times[times.event == ANSWER].set_index(["group", "level"])

    def told(own: pd.DataFrame) -> str:
        group, n = own.group.iloc[0], len(own)
        seen = own[f"answer_{EVENT_AT:g}"].dropna()
        if len(seen):
            median = answer["median"].get((group, EVENT_AT), math.nan)
            text = f"{len(seen)} of {n} by step {seen.max():,.0f}"
            text += f" (median {median:,.0f})" if math.isfinite(median) and len(seen) > 1 else ""
        else:
            text = f"{none_of(own)} by step {steps_of(own.end_step)}"
        if len(seen) < n:
            half = int(own[f"answer_{_LEVEL}"].notna().sum())
            text += f", {half} of {n} reach {_LEVEL}"
        return text

    shown = _per_group(outcomes, f"answer_{EVENT_AT:g}", told)
    what = f"Who answers {task.unseen} (accuracy {EVENT_AT:g})"
    return Finding(f"{what}: {shown}.", "times")


def _undecided(data: TrainingRuns, tables: Tables) -> Iterator[tuple[str, str]]:
    """What cannot be said, and why."""
    outcomes, runs = tables["outcomes"], data.runs
    pending = runs[runs.status == PENDING]
    if len(pending):
        where = f" of population {listed(pending.population)}" if "population" in pending else ""
        yield (
            f"Not trained yet: {len(pending)} runs{where}. Nothing is said of"
            f" {names_of(dict.fromkeys(map(str, pending.group)))} in them.",
            "runs",
        )
    diverged = outcomes[outcomes.status == DIVERGED]
    if len(diverged) == len(outcomes):
        yield (
            f"All {len(outcomes)} runs diverged: there is no time, no cost and no comparison.",
            "outcomes",
        )
        return
    if len(diverged):
        told = shortened(clauses(diverged, lambda own: f"{len(own)}"))
        yield (
            f"Diverged, which competes with every event: {told} (of {len(outcomes)} runs in all).",
            "outcomes",
        )
    open_ended = outcomes[~outcomes.status.isin((DONE, STOPPED, DIVERGED))]
    if len(open_ended):
        every = len(open_ended) == len(outcomes)
        who = "No run has" if every else f"{len(open_ended)} of {len(outcomes)} runs have not"
        yield (
            f"{who} finished (they stand at step {steps_of(open_ended.end_step)}): what has"
            " not come by then may still come.",
            "outcomes",
        )
    ends = outcomes[outcomes.status != DIVERGED].groupby("group", sort=False).end_step.max()
    if ends.nunique() > 1:
        longest, shortest = ends.idxmax(), ends.idxmin()
        yield (
            f"Groups were trained for different lengths, {bracketed(str(shortest))} to step"
            f" {ends.min():,.0f} and {bracketed(str(longest))} to {ends.max():,.0f}: times are"
            " compared up to a horizon that all reach.",
            "times",
        )
    sizes = outcomes.groupby("group", sort=False).size()
    if len(outcomes) == 1:
        yield "One run: it has no spread, no interval and nothing to be compared with.", "outcomes"
    elif sizes.max() == 1:
        yield "One run a group: no group has a spread, and no difference can be shown.", "outcomes"
    elif len(sizes) == 1:
        yield "One group: there is nothing to compare it with.", "outcomes"
    yield from _same_seed(outcomes[outcomes.status != DIVERGED])
    yield from _used_elsewhere(outcomes)


def _same_seed(outcomes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The data seeds whose runs alone fail, where they are the same in all groups that mix."""
    never = outcomes[f"answer_{_LEVEL}"].isna()
    failing = {
        str(group): frozenset(own["seeds.data"][never.loc[own.index]])
        for group, own in outcomes.groupby("group", sort=False)
    }
    sizes = outcomes.groupby("group", sort=False)["seeds.data"].nunique().to_dict()
    mixed = {group for group, seeds in failing.items() if len(seeds) < sizes[group]}
    found = {failing[group] for group in mixed}
    if len(mixed) < 2 or len(found) > 1 or len(seeds := next(iter(found))) != 1:
        return
    who = "both groups" if len(failing) == 2 else f"all {len(failing)} groups"
    if len(mixed) < len(failing):
        who = f"the {len(mixed)} groups where some answer"
    (seed,) = seeds
    yield (
        f"In {who} the runs that never reach {_LEVEL} are those of data seed {seed}: one graph,"
        f" not {len(mixed)} chances.",
        "outcomes",
    )


def _used_elsewhere(outcomes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    if "copies" in outcomes and (outcomes.copies > 1).any():
        n = int((outcomes.copies - 1).sum())
        yield f"{n} rows repeat a run that is here already; each run counts once.", "outcomes"
    if "also_in" in outcomes and (outcomes.also_in.fillna("").astype(str) != "").any():
        shared = outcomes[outcomes.also_in.fillna("").astype(str) != ""]
        places = dict.fromkeys(p for text in shared.also_in for p in str(text).split(", "))
        yield (
            f"{len(shared)} of {len(outcomes)} runs are also runs of {names_of(places)}: the same"
            " evidence, not new.",
            "outcomes",
        )


def _per_group(table: pd.DataFrame, event: str, told: Callable[[pd.DataFrame], str]) -> str:
    """What is told of each group; of many groups, in which of them all, some or no runs had it."""
    groups = table.groupby("group", sort=False)
    if groups.ngroups <= MOST_CLAUSES:
        return shortened(clauses(table, told))
    share = groups[event].apply(lambda steps: steps.notna().mean())
    parts = (
        ("all runs of", share[share == 1]),
        ("some of", share[(share > 0) & (share < 1)]),
        ("none of", share[share == 0]),
    )
    among = [*map(str, share.index)]
    return "; ".join(
        f"{what} {names_of([*map(str, own.index)], among)}" for what, own in parts if len(own)
    )
