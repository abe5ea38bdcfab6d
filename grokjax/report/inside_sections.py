"""What an analysis saw inside: the lens, the patches, and when, as sections of a page."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pandas as pd

from grokjax.analysis import onset, tables
from grokjax.analysis.store import Analysis
from grokjax.base.names import TEST_INFERRED_IID, TEST_INFERRED_OOD, TRAIN_INFERRED
from grokjax.report import analysis_figures
from grokjax.report.html import Illustration, Section


def inside(
    analysis: Analysis, groups: Sequence[str]
) -> tuple[list[Section], dict[str, pd.DataFrame]]:
    """What the lens reads, what patches carry and when, as sections and tidy tables."""
    made = _tables(analysis, groups)
    sections = [_lens(made["lens"]), _patching(made["patching"])]
    if "events" in made:
        sections.append(_onset(made))
    return sections, made


def _tables(analysis: Analysis, groups: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Everything as tidy tables; events only where there are several steps."""
    made = {
        "patching_runs": tables.patching_by_run(analysis.patching),
        "lens_runs": tables.lens_by_run(analysis.lens),
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
            f"Heat maps of {kind} queries: first choice by stage and position, for each group",
            f"{kind} queries",
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
