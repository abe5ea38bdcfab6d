"""The answer in a few sentences, read from the report's tables: each names its n and its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
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
from grokjax.report.training_comparisons import DECLARED, NO_BOUND
from grokjax.report.training_runs import TrainingRuns

ALPHA = 0.05
_AT = ORDER_LEVELS[0]
_LEVEL = f"{_AT:g}"
_SAME = 0.05  # of an accuracy: nearer than that, OOD and ID are answered alike
_MOST_NAMES, _MOST_CLAUSES = 3, 6
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
        found.append(_memorised(usable))
        found += [_order(usable, data.task)] if data.task.hidden else []
        found.append(_answers(usable, tables["times"], data.task))
        found += _in_distribution(usable, data.task)
        found += _costs(tables["costs"])
        found += _comparisons(tables["comparisons"])
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
        return f"{_none_of(own)} by step {_steps(own.end_step)}"
    return f"{len(seen)} of {len(own)} by step {seen.max():,.0f}"


def _order(outcomes: pd.DataFrame, task: Task) -> Finding:
    column = f"order_{_LEVEL}"

    def told(own: pd.DataFrame) -> str:
        parts = []
        for order in (o for o in ORDERS if (own[column] == o).any()):
            these, n = own[own[column] == order], len(own)
            text = f"{order} in {len(these)} of {n}"
            if order == UNDECIDED:
                text += f" (neither by step {_steps(these.end_step)})"
            elif order == ANSWER_FIRST:
                text += _unread(these[these[f"path_{_LEVEL}"].isna()], task)
            parts.append(text)
        return ", ".join(parts)

    groups = outcomes.groupby("group", sort=False)
    if groups.ngroups > _MOST_CLAUSES:
        only = {str(g): set(own[column]) for g, own in groups}
        by_order = {
            f"{order} in all runs of": [g for g, found in only.items() if found == {order}]
            for order in ORDERS
        }
        by_order["mixed:"] = [g for g, found in only.items() if len(found) > 1]
        shown = "; ".join(f"{what} {_names(who, only)}" for what, who in by_order.items() if who)
    else:
        shown = _shortened(_clauses(outcomes, told))
    return Finding(f"Path or answer first (both at {_LEVEL}): {shown}.", "order")


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
            text = f"{_none_of(own)} by step {_steps(own.end_step)}"
        if len(seen) < n:
            half = int(own[f"answer_{_LEVEL}"].notna().sum())
            text += f", {half} of {n} reach {_LEVEL}"
        return text

    shown = _per_group(outcomes, f"answer_{EVENT_AT:g}", told)
    what = f"Who answers {task.unseen} (accuracy {EVENT_AT:g})"
    return Finding(f"{what}: {shown}.", "times")


def _in_distribution(outcomes: pd.DataFrame, task: Task) -> list[Finding]:
    """Where accuracy on unseen queries equals that on familiar ones, and where it does not."""
    unseen, familiar = f"{task.short} accuracy", f"{task.short_familiar} accuracy"
    short = f"{task.short[0].upper()}{task.short[1:]}"
    known = outcomes.dropna(subset=["final_iid_accuracy", "final_ood_accuracy"])
    if not len(known):
        return []
    apart = (known.final_iid_accuracy - known.final_ood_accuracy).abs()
    learned = known.final_iid_accuracy >= _AT
    same = (learned & (apart <= _SAME)).groupby(known.group, sort=False).agg(["sum", "size"])
    members = [str(g) for g in same.index[same["sum"] == same["size"]]]
    some = same[(same["sum"] > 0) & (same["sum"] < same["size"])]
    found = []
    if members:
        own = known[known.group.isin(members)]
        who = _names(members, [*map(str, same.index)])
        text = (
            f"{who} {'has' if len(members) == 1 else 'have'} made {task.short} queries"
            f" in-distribution: {unseen} equals {familiar} within {_SAME:g} in"
            f" {len(own)} of {len(own)} runs (medians {_medians(own)})."
        )
        found.append(Finding(text, "outcomes"))
    if len(some):
        parts = [f"{k} of {n} of {_bracketed(str(g))}" for g, k, n in some.itertuples()]
        what = f"{task.short} queries become in-distribution"
        text = f"In some runs alone have {what}: {_shortened(parts)}."
        found.append(Finding(text, "outcomes"))
    rest = known[~known.group.isin(members)]
    if 0 < rest.group.nunique() <= _MOST_CLAUSES:
        told = _clauses(rest, lambda own: f"{_medians(own)} (n = {len(own)})")
        found.append(
            Finding(
                f"{short} against {familiar} at the end, medians: {_shortened(told)}.",
                "outcomes",
            )
        )  # fmt: skip
    elif len(rest):
        ood = rest.groupby("group", sort=False).final_ood_accuracy.median()
        text = (
            f"In {len(ood)} groups {unseen} stays below {familiar}"
            f" ({rest.final_iid_accuracy.median():.2f}): medians from {ood.min():.2f}"
            f" ({_names([str(ood.idxmin())])}) to {ood.max():.2f} ({_names([str(ood.idxmax())])})."
        )
        found.append(Finding(text, "outcomes"))
    return found


def _medians(own: pd.DataFrame) -> str:
    return f"{own.final_ood_accuracy.median():.2f} and {own.final_iid_accuracy.median():.2f}"


def _costs(costs: pd.DataFrame) -> list[Finding]:
    own = costs[(costs.unit == "FLOP") & (costs.level == _AT)]
    if not len(own):
        return []
    reached = own[own.reached > 0]
    if not len(reached):
        text = f"What answering costs: no run's accuracy reached {_LEVEL}, so no cost is known."
        return [Finding(text, "costs")]
    first = str(own.group.iloc[0])
    if len(own) > _MOST_CLAUSES:
        ends = dict.fromkeys((reached.earliest.idxmin(), reached.latest.idxmax()))
        parts = [_cost(own.loc[i], first) for i in ends]
        never = len(own) - len(reached)
        parts += [f"no run of {never} groups got there"] if never else []
        what = f"FLOP until accuracy {_LEVEL}, cheapest and dearest"
    else:
        parts = [_cost(row, first) for _, row in own.iterrows()]
        what = f"FLOP until accuracy {_LEVEL}, of the runs that got there"
    return [Finding(f"{what}: {'; '.join(parts)}.", "costs")]


def _cost(row: pd.Series, first: str) -> str:
    text = f"{_bracketed(str(row.group))} {row.reached:.0f} of {row.n:.0f}"
    if row.reached:
        text += f", {row.earliest:.1e}"
        text += f" to {row.latest:.1e}" if row.latest > row.earliest else ""
    bound = row.ratio_bound if isinstance(row.ratio_bound, str) else ""
    if str(row.group) != first and math.isfinite(row.ratio) and bound != NO_BOUND:
        times = f"{bound} {row.ratio:.2g}".strip()
        text += f" ({times} times the mean of {_bracketed(first)})"
    return text


def _comparisons(table: pd.DataFrame) -> list[Finding]:
    known = table[table.p.notna()]
    family = known[known.family == DECLARED]
    if not len(family):
        return []
    shown = family[family.p_holm < ALPHA]
    out_of_reach = int((family.p_smallest >= ALPHA).sum())
    what = " and ".join(dict.fromkeys(family.quantity))
    text = (
        f"Of the {len(family)} declared comparisons ({what}), {len(shown)} hold after Holm's"
        " correction"
    )
    if len(shown):
        named = [
            f"{row.quantity}{'' if math.isnan(row.level) else f' {row.level:g}'},"
            f" {_bracketed(row.group_a)} and {_bracketed(row.group_b)}, p = {row.p_holm:.2g}"
            for row in shown.itertuples()
        ]
        text += f": {_shortened(named)}"
    if out_of_reach:
        text += (
            f"; {out_of_reach} could not have: the smallest p that their runs can give is"
            f" {family.p_smallest[family.p_smallest >= ALPHA].min():.2g} or more"
        )
    if len(others := known[known.family != DECLARED]):
        held = int((others.p_holm < ALPHA).sum())
        text += f". Of {len(others)} others, corrected by themselves, {held}"
    return [Finding(text + ".", "comparisons")]


def _undecided(data: TrainingRuns, tables: Tables) -> Iterator[tuple[str, str]]:
    """What cannot be said, and why."""
    outcomes, runs = tables["outcomes"], data.runs
    pending = runs[runs.status == PENDING]
    if len(pending):
        where = f" of population {_listed(pending.population)}" if "population" in pending else ""
        yield (
            f"Not trained yet: {len(pending)} runs{where}. Nothing is said of"
            f" {_names(dict.fromkeys(map(str, pending.group)))} in them.",
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
        told = _shortened(_clauses(diverged, lambda own: f"{len(own)}"))
        yield (
            f"Diverged, which competes with every event: {told} (of {len(outcomes)} runs in all).",
            "outcomes",
        )
    open_ended = outcomes[~outcomes.status.isin((DONE, STOPPED, DIVERGED))]
    if len(open_ended):
        every = len(open_ended) == len(outcomes)
        who = "No run has" if every else f"{len(open_ended)} of {len(outcomes)} runs have not"
        yield (
            f"{who} finished (they stand at step {_steps(open_ended.end_step)}): what has"
            " not come by then may still come.",
            "outcomes",
        )
    ends = outcomes[outcomes.status != DIVERGED].groupby("group", sort=False).end_step.max()
    if ends.nunique() > 1:
        longest, shortest = ends.idxmax(), ends.idxmin()
        yield (
            f"Groups were trained for different lengths, {_bracketed(str(shortest))} to step"
            f" {ends.min():,.0f} and {_bracketed(str(longest))} to {ends.max():,.0f}: times are"
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
    yield from _used_elsewhere(outcomes)


def _used_elsewhere(outcomes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    if "copies" in outcomes and (outcomes.copies > 1).any():
        n = int((outcomes.copies - 1).sum())
        yield f"{n} rows repeat a run that is here already; each run counts once.", "outcomes"
    if "also_in" in outcomes and (outcomes.also_in.fillna("").astype(str) != "").any():
        shared = outcomes[outcomes.also_in.fillna("").astype(str) != ""]
        places = dict.fromkeys(p for text in shared.also_in for p in str(text).split(", "))
        yield (
            f"{len(shared)} of {len(outcomes)} runs are also runs of {_names(places)}: the same"
            " evidence, not new.",
            "outcomes",
        )


def _per_group(table: pd.DataFrame, event: str, told: Callable[[pd.DataFrame], str]) -> str:
    """What is told of each group; of many groups, in which of them all, some or no runs had it."""
    groups = table.groupby("group", sort=False)
    if groups.ngroups <= _MOST_CLAUSES:
        return _shortened(_clauses(table, told))
    share = groups[event].apply(lambda steps: steps.notna().mean())
    parts = (
        ("all runs of", share[share == 1]),
        ("some of", share[(share > 0) & (share < 1)]),
        ("none of", share[share == 0]),
    )
    among = [*map(str, share.index)]
    return "; ".join(
        f"{what} {_names([*map(str, own.index)], among)}" for what, own in parts if len(own)
    )


def _clauses(table: pd.DataFrame, told: Callable[[pd.DataFrame], str]) -> list[str]:
    """What is told of each group; groups of which the same is told stand together."""
    by_text: dict[str, list[str]] = {}
    for group, own in table.groupby("group", sort=False):
        by_text.setdefault(told(own), []).append(str(group))
    return [f"{_names(members)} {text}" for text, members in by_text.items()]


def _shortened(parts: list[str]) -> str:
    left = len(parts) - _MOST_CLAUSES
    return "; ".join(parts[:_MOST_CLAUSES]) + (
        f"; and {left} more in the table" if left > 0 else ""
    )


def _names(groups: Iterable[str], among: Iterable[str] = ()) -> str:
    """`a, b, c and 4 others`; or `phi 2 or 3`, where that tells them from all that they are among.

    Args:
      groups: whose names.
      among: all groups, if there may be something that just these have in common.
    """
    groups, among = list(groups), list(among)
    if len(among) > _MOST_CLAUSES and 1 < len(groups) < len(among):
        for setting in _settings(groups[0]):
            values = dict.fromkeys(_settings(g).get(setting) for g in groups)
            if {g for g in among if _settings(g).get(setting) in values} == set(groups):
                return f"{setting} {' or '.join(map(str, values))}".strip()
    named = [_bracketed(g) for g in groups]
    left = len(named) - _MOST_NAMES
    if left > 1:
        named = [*named[:_MOST_NAMES], f"{left} others"]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def _settings(group: str) -> dict[str, str]:
    """`phi 2, layers 3` taken apart; a regime has no setting's name."""
    return {part.rpartition(" ")[0]: part.rpartition(" ")[2] for part in group.split(", ")}


def _bracketed(group: str) -> str:
    """A name that has commas of its own stands in brackets."""
    return f"({group})" if "," in group else group


def _listed(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(values.astype(str)))


def _none_of(own: pd.DataFrame) -> str:
    return f"none of {len(own)}"


def _steps(values: pd.Series) -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
