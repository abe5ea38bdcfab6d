"""What an analysis saw inside: the lens, the patches, and when, as sections of a page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from grokjax.analysis import onset, tables
from grokjax.analysis.store import Analysis
from grokjax.base.names import PATH_AT
from grokjax.data.task import Task
from grokjax.model import BLOCK_COMPONENTS
from grokjax.report import analysis_figures
from grokjax.report.html import Finding, Illustration, Section
from grokjax.report.wording import PROBES, split_names

_MOST = 6  # groups that a sentence names


class Inside(NamedTuple):
    """Sentences, sections and tidy tables."""

    findings: list[Finding]
    sections: list[Section]
    tables: dict[str, pd.DataFrame]


def inside(analysis: Analysis, groups: Sequence[str], task: Task) -> Inside:
    """What the lens reads, what patches carry and when."""
    made = _tables(analysis, groups, task)
    sections = [_lens(made["lens"], task), _patching(made["patching"], task)]
    if "events" in made:
        sections.append(_onset(made, task))
    held = _holds(made["hidden_sites"], task) if task.hidden else []
    return Inside(held, sections, made)


def _holds(sites: pd.DataFrame, task: Task) -> list[Finding]:
    """In how many runs one site holds what is hidden: of all that were patched, not of a chosen
    one."""
    found, called = [], split_names(task)
    known = sites.dropna(subset=["score"])
    for (split, token), own in known.groupby(["group", "token"], sort=False):
        held = (own.score >= PATH_AT).groupby(own.group_of_runs, sort=False).agg(["sum", "size"])
        told = ", ".join(f"{group} {k} of {n}" for group, k, n in held.head(_MOST).itertuples())
        left = f" and {len(held) - _MOST} groups more" if len(held) > _MOST else ""
        text = (
            f"A single state that holds the {token} of {called[split]} queries (score {PATH_AT:g},"
            f" the best of all {own.num_sites.max()} sites of the streams) is found in: {told}"
            f"{left}."
        )
        found.append(Finding(text, "hidden_sites"))
    return found


def _tables(analysis: Analysis, groups: Sequence[str], task: Task) -> dict[str, pd.DataFrame]:
    """Everything as tidy tables; events only where there are several steps."""
    made = {
        "patching_runs": tables.patching_by_run(analysis.patching),
        "lens_runs": tables.lens_by_run(analysis.lens),
        "patching": tables.patching_by_group(analysis.patching, groups),
        "lens": tables.lens_by_group(analysis.lens, groups, task),
        "rates": tables.rates_by_group(analysis.lens, groups, task),
    }
    several_steps = analysis.lens.sizes["step"] > 1
    if task.hidden:
        made["hidden_sites"] = onset.hidden_sites(analysis.patching, groups, task)
    if several_steps:
        made |= {
            "causal_steps": onset.causal_steps(analysis.patching),
            "events": onset.order_of_events(analysis.patching, analysis.lens, task),
        }
    if several_steps and task.hidden:
        made["readable_steps"] = onset.readable_steps(analysis.lens, task=task)
    return made


def _lens(table: pd.DataFrame, task: Task) -> Section:
    last = table[table.step == table.step.max()]
    shown = [
        Illustration(
            f"lens_{kind}",
            functools.partial(analysis_figures.lens_figure, last, kind),
            f"Heat maps of {PROBES.get(kind, kind)}: first choice by stage and position, by group",
            PROBES.get(kind, kind),
        )
        for kind in (task.generalisation, task.held_out, *task.trained[::-1])
        if (last[last.type == kind].num_seeds > 0).any()
    ]
    wanted = ", or ".join(f"the {name}" for name in (*(h.name for h in task.hidden), "target"))
    text = f"What each state would say if it were the last: {wanted}."
    return Section("What the lens reads", text, shown)


def _patching(table: pd.DataFrame, task: Task) -> Section:
    last = table[table.step == table.step.max()]
    shown = []
    for split in dict.fromkeys(last.dropna(subset=["effect"]).group):
        for direction in dict.fromkeys(last.direction):
            inside = last.component.isin(BLOCK_COMPONENTS)
            for part in ("patching", "blocks") if inside.any() else ("patching",):
                picture = functools.partial(
                    analysis_figures.patching_figure,
                    *(last, split, direction),
                    blocks=part == "blocks",
                    task=task,
                )
                what = f"{part} of {split_names(task)[split]} queries, {direction}"
                alt = f"Heat maps of effects by site and differing token, {what}"
                shown.append(Illustration(f"{part}_{split}_{direction}", picture, alt, what))
    shown.append(
        Illustration(
            "attribution",
            functools.partial(analysis_figures.attribution_figure, last, task),
            "Effects that one gradient estimates against exact ones, by split and direction",
            "How good the estimate from one gradient is.",
        )
    )
    text = "The share of the answer that a single state carries from one run into another."
    return Section("What patches carry", text, shown)


def _onset(made: dict[str, pd.DataFrame], task: Task) -> Section:
    patching = made["patching"]
    last = patching[patching.step == patching.step.max()]
    shown = [
        Illustration(
            f"movie_{split}",
            functools.partial(analysis_figures.onset_figure, patching, split, task=task),
            f"Effects of the strongest sites by training step, {split_names(task)[split]} queries",
            f"{split_names(task)[split]} queries",
        )
        for split in dict.fromkeys(last.dropna(subset=["effect"]).group)
    ]
    order = functools.partial(analysis_figures.order_figure, made["events"], task)
    alt = "When the path became readable, when causal, when answers were right, a line per run"
    shown.append(Illustration("order_of_events", order, alt, "Order of events in each run."))
    return Section("What comes when", "At the stored checkpoints that were analysed.", shown)
