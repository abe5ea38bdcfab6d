"""Path identity on a page: of one analysis, or of those of several populations together."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from grokjax.analysis import tables
from grokjax.analysis.pairs import SPLITS
from grokjax.analysis.path_identity import LENS, PATCHING, Paths, compare_paths
from grokjax.analysis.store import Analysis
from grokjax.data.task import Task
from grokjax.report.html import (
    Column,
    Finding,
    Illustration,
    Section,
    Shown,
    around,
    count_of,
    number,
    show,
)
from grokjax.report.path_identity_figure import path_identity_figure
from grokjax.report.wording import split_names

TABLE, PAIRS = "path_identity", "path_pairs"
_MOST_SENTENCES = 6
_COLUMNS: dict[str, Column] = {
    "paths": "paths",
    "reading": "reading",
    "a": "group_a",
    "b": "group_b",
    "pairs within": count_of("within", "num_pairs"),
    "share": around("share"),
    "distance, least": number("distance_min"),
    "median": number("distance_median"),
    "most": number("distance_max"),
    "two seeds of a group, least": number("floor_min"),
    "median ": number("floor_median"),
    "most ": number("floor_max"),
    "p": number("p_value", ".2g"),
    "smallest p": number("p_smallest", ".2g"),
    "p, Holm": number("p_holm", ".2g"),
    "family": "family",
    "verdict": "verdict",
    "the other reading's": "other_verdict",
    "beyond": "outside",
    "dropped": "dropped",
}


class Analysed(NamedTuple):
    """An analysis of one population.

    population: its name, empty where there is one. groups, runs: of each analysed run, its group
    and what the page calls it.
    """

    population: str
    analysis: Analysis
    groups: Sequence[str]
    runs: Sequence[int]
    task: Task


class PathsCompared(NamedTuple):
    """What a page says: sentences, a section, tables, and a line for a terminal of each row."""

    findings: Sequence[Finding]
    section: Section
    tables: Mapping[str, pd.DataFrame]
    lines: Sequence[str]


def comparable(analysed: Sequence[Analysed]) -> list[list[Analysed]]:
    """The populations that have the same sites and were asked in the same way, together."""
    found: dict[Hashable, list[Analysed]] = {}
    for each in analysed:
        found.setdefault((each.task, _asked(each.analysis)), []).append(each)
    return list(found.values())


def _asked(analysis: Analysis) -> Hashable:
    """Sites, stages and settings: where these agree, a path is the same vector."""
    sites = tuple(tuple(analysis.patching[name].to_numpy().tolist()) for name in tables.SITE)
    names = ("type", "stream", "stage", "position")
    profile = tuple(tuple(analysis.lens[name].to_numpy().tolist()) for name in names)
    settings = {name: x for name, x in analysis.settings.items() if name != "population"}
    return sites, profile, tuple(sorted(settings.items()))


def compare(
    analysed: Sequence[Analysed], margin: float, *, note: str = "", suffix: str = ""
) -> PathsCompared:
    """Every two groups of some comparable analyses, each at its last step.

    Args:
      analysed: one, or those of several populations that `comparable` gave together.
      margin: of a pair of runs, a share of a path's size.
      note: what the section says besides.
      suffix: of the tables' names.
    """
    last = [each.analysis.last() for each in analysed]
    found = compare_paths(
        _paths(analysed[0].task, last),
        [group for each in analysed for group in each.groups],
        runs=[run for each in analysed for run in each.runs],
        # Runs of one seed share graph, pairs, initialisation and order, whatever their regime.
        blocks=[str(x) for own in last for x in own.lens.seeds.to_numpy()],
        margin=margin,
    )
    lines = [sentence(two) for two in found.table.itertuples()]
    shown = []
    if len(found.pairs):
        told = "; ".join(line for line, n in zip(lines, found.table.num_pairs, strict=True) if n)
        draw = functools.partial(path_identity_figure, found.table, found.pairs)
        alt = f"Distances of pairs of runs: {told}"
        shown = [Illustration(TABLE + suffix, draw, alt, "")]
    about = (
        f"Within: pairs nearer than {margin:g} of the path's size, with a 95 % Wilson interval. p:"
        " that runs of two groups are no further apart than seeds of one, their labels exchanged;"
        " smallest p: that these runs could have given; Holm: over all groups' rows of one kind of"
        " path, its family."
    )
    table = Shown(TABLE + suffix, show(found.table, _COLUMNS), about)
    title = "Do groups answer along the same path?"
    section = Section(title, _text(analysed, last, note), shown, [table])
    made = {TABLE + suffix: found.table, PAIRS + suffix: found.pairs}
    return PathsCompared(_findings(found.table, TABLE + suffix), section, made, lines)


def _paths(task: Task, analyses: Sequence[Analysis]) -> dict[str, Paths]:
    """How paths are read, a row per run: by patching, and where something is hidden by the lens."""
    found, called = {}, split_names(task)
    for split in SPLITS:
        maps = [tables.effect_maps(a.patching, split)[0] for a in analyses]
        found[f"effects on {called[split]} queries"] = Paths(PATCHING, np.concatenate(maps))
    kinds = (task.site_types[0], task.generalisation) if task.site_types else ()
    for split, kind in zip(SPLITS, kinds, strict=False):
        profiles = [tables.hidden_profiles(a.lens, kind, task) for a in analyses]
        title = f"{task.path} by site, {called[split]}"
        found[title] = Paths(LENS, np.concatenate(profiles))
    return found


def _text(analysed: Sequence[Analysed], last: Sequence[Analysis], note: str) -> str:
    text = (
        "Distances between single runs of one seed, beside those of two seeds of one group: a"
        " minority that goes another way shows, and groups whose runs are no further apart than"
        " seeds are do not count as different."
    )
    steps = [f"{int(own.lens.step[-1]):,}" for own in last]
    if len(set(steps)) > 1:
        told = zip(analysed, steps, strict=True)
        text += " Steps: " + ", ".join(f"{x.population} at {step}" for x, step in told) + "."
    return f"{text} {note}".strip()


def sentence(two: Any) -> str:
    """One line of a comparison: the verdict, and what it rests on."""
    start = f"{two.paths}, {two.group_a} (n = {two.n_a}) and {two.group_b} (n = {two.n_b}): "
    dropped = f"; dropped: {two.dropped}" if two.dropped else ""
    if not two.num_pairs:
        return start + two.verdict + (f" ({two.dropped})" if two.dropped else "")
    other = f", by the other reading {two.other_verdict}" if two.other_verdict else ""
    return start + (
        f"{two.verdict}, {two.within} of {two.num_pairs} pairs of runs within {two.margin:g} of a"
        f" path's size (median {two.distance_median:.2f}{_floor(two)}){other}{dropped}"
    )


def _floor(two: Any) -> str:
    """What two seeds of one group differ in, and whether the groups differ in more."""
    if np.isnan(two.floor_median):
        return ""
    text = f"; two seeds of a group {two.floor_median:.2f}"
    if np.isnan(two.p_holm):
        return text
    by_holm = f", {two.p_holm:.2g} by Holm" if two.p_holm > two.p_value else ""
    return f"{text}, p = {two.p_value:.2g} (at best {two.p_smallest:.2g}){by_holm}"


def _findings(table: pd.DataFrame, name: str) -> list[Finding]:
    """A sentence for each two groups, both readings in it; of many groups, for each kind."""
    by_groups = table.groupby(["group_a", "group_b"], sort=False)
    if not len(table):
        nothing = "Same path? One group was analysed: there is nothing to compare."
        return [Finding(nothing, name)]
    if by_groups.ngroups > _MOST_SENTENCES:
        return [
            Finding(
                f"Same path as {own.group_a.iloc[0]}, by {kind}? Of {len(own)} groups"
                f" {_counted(own.verdict)}.", name,
            )
            for kind, own in table.groupby("paths", sort=False)
        ]  # fmt: skip
    found = []
    for (a, b), own in by_groups:
        parts = [
            f"{two.paths} {two.verdict} ({two.within} of {two.num_pairs} pairs)"
            for two in own.itertuples()
        ]
        found.append(Finding(f"Same path, {a} and {b}? {'; '.join(parts)}.", name))
    return found


def _counted(verdicts: pd.Series) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in verdicts.value_counts().items())
