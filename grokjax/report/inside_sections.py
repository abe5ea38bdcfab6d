"""What an analysis saw inside: the lens, the patches, and when, as sections of a page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from grokjax.analysis import onset, tables
from grokjax.analysis.store import Analysis
from grokjax.base.names import PATH_AT, TEST_INFERRED_IID, TEST_INFERRED_OOD, TRAIN_INFERRED
from grokjax.report import analysis_figures
from grokjax.report.html import Finding, Illustration, Section
from grokjax.report.wording import PROBES

_MOST = 6  # groups that a sentence names


class Inside(NamedTuple):
    """Sentences, sections and tidy tables."""

    findings: list[Finding]
    sections: list[Section]
    tables: dict[str, pd.DataFrame]


def inside(analysis: Analysis, groups: Sequence[str]) -> Inside:
    """What the lens reads, what patches carry and when."""
    made = _tables(analysis, groups)
    sections = [_lens(made["lens"]), _patching(made["patching"])]
    if "events" in made:
        sections.append(_onset(made))
    return Inside(_holds_bridge(made["bridge_sites"]), sections, made)


def _holds_bridge(sites: pd.DataFrame) -> list[Finding]:
    """In how many runs one site holds the bridge: of all that were patched, not of a chosen one."""
    found = []
    for split, own in sites.dropna(subset=["score"]).groupby("group", sort=False):
        held = (own.score >= PATH_AT).groupby(own.group_of_runs, sort=False).agg(["sum", "size"])
        told = ", ".join(f"{group} {k} of {n}" for group, k, n in held.head(_MOST).itertuples())
        left = f" and {len(held) - _MOST} groups more" if len(held) > _MOST else ""
        text = (
            f"A single state that holds the bridge of {split.upper()} queries (score {PATH_AT:g},"
            f" the best of all {own.num_sites.max()} sites of the streams) is found in: {told}"
            f"{left}."
        )
        found.append(Finding(text, "bridge_sites"))
    return found


def _tables(analysis: Analysis, groups: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Everything as tidy tables; events only where there are several steps."""
    made = {
        "patching_runs": tables.patching_by_run(analysis.patching),
        "lens_runs": tables.lens_by_run(analysis.lens),
        "bridge_sites": onset.bridge_sites(analysis.patching, groups),
        "patching": tables.patching_by_group(analysis.patching, groups),
        "lens": tables.lens_by_group(analysis.lens, groups),
        "rates": tables.rates_by_group(analysis.lens, groups),
    }
    if analysis.lens.sizes["step"] > 1:
        made |= {
            "causal_steps": onset.causal_steps(analysis.patching),
            "readable_steps": onset.readable_steps(analysis.lens),
            "events": onset.order_of_events(analysis.patching, analysis.lens),
        }
    return made


def _lens(table: pd.DataFrame) -> Section:
    last = table[table.step == table.step.max()]
    shown = [
        Illustration(
            f"lens_{kind}",
            functools.partial(analysis_figures.lens_figure, last, kind),
            f"Heat maps of {PROBES[kind]}: first choice by stage and position, for each group",
            f"{PROBES[kind]}",
        )
        for kind in (TEST_INFERRED_OOD, TEST_INFERRED_IID, TRAIN_INFERRED)
        if (last[last.type == kind].num_seeds > 0).any()
    ]
    text = "What each state would say if it were the last: the bridge, or the target."
    return Section("What the lens reads", text, shown)


def _patching(table: pd.DataFrame) -> Section:
    last = table[table.step == table.step.max()]
    shown = []
    for split in dict.fromkeys(last.dropna(subset=["effect"]).group):
        for direction in dict.fromkeys(last.direction):
            for part in ("patching", "blocks"):
                picture = functools.partial(
                    analysis_figures.patching_figure,
                    *(last, split, direction),
                    blocks=part == "blocks",
                )
                what = f"{part} of {split.upper()} queries, {direction}"
                alt = f"Heat maps of effects by site and differing token, {what}"
                shown.append(Illustration(f"{part}_{split}_{direction}", picture, alt, what))
    shown.append(
        Illustration(
            "attribution",
            functools.partial(analysis_figures.attribution_figure, last),
            "Effects that one gradient estimates against exact ones, by split and direction",
            "How good the estimate from one gradient is.",
        )
    )
    text = "The share of the answer that a single state carries from one run into another."
    return Section("What patches carry", text, shown)


def _onset(made: dict[str, pd.DataFrame]) -> Section:
    patching = made["patching"]
    last = patching[patching.step == patching.step.max()]
    shown = [
        Illustration(
            f"movie_{split}",
            functools.partial(analysis_figures.onset_figure, patching, split),
            f"Effects of the strongest sites by training step, {split.upper()} queries",
            f"{split.upper()} queries",
        )
        for split in dict.fromkeys(last.dropna(subset=["effect"]).group)
    ]
    order = functools.partial(analysis_figures.order_figure, made["events"])
    alt = "When the path became readable, when causal, when answers were right, a line per run"
    shown.append(Illustration("order_of_events", order, alt, "Order of events in each run."))
    return Section("What comes when", "At the stored checkpoints that were analysed.", shown)
