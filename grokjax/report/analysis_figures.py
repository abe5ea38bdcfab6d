"""Figures of an analysis, from its tidy tables: what the lens reads, what patches carry, and when.

A *split* of pairs is "id" or "ood", the tables' column `group`, and is called as its task calls it;
groups are of runs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from grokjax.analysis.onset import EVENTS
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import Task
from grokjax.model import BLOCK_COMPONENTS
from grokjax.model.lens import lens_stream
from grokjax.report.panels import STEPS, Panels, event_strip, heat_map
from grokjax.report.style import (
    COLOURS,
    EFFECT,
    GREY,
    MARKERS,
    SHARE,
    Picture,
    in_style,
    span,
)
from grokjax.report.wording import PROBES, split_names

_SHORT = {"head": "h", "relation1": "r1", "relation2": "r2", "answer": "a", "end": "e"}


@in_style
def lens_figure(table: pd.DataFrame, kind: str) -> Picture:
    """Heat maps, stage by position: how often the lens says a hidden token, or the target.

    Of each stage, the stream that it has just written. A row per group of runs.

    Args:
      table: from `lens_by_group`, of one step.
      kind: probe type.
    """
    own = table[(table.type == kind) & (table.num_seeds > 0)]
    stages, positions = sorted(set(own.stage), key=_stage_order), _in_order(own.position)
    streams = own.stage.map(lens_stream) if "z_L" in set(own.stream) else "z_H"
    own = own[own.stream == streams]
    tokens = _in_order(own.token)
    cells = list(itertools.product(_in_order(own.group_of_runs), tokens))
    width, height = 1.5 + 0.75 * len(positions), 0.7 + 0.3 * len(stages)
    panels = Panels(len(cells) // len(tokens), len(tokens), width, height, sharey="row")
    for axis, (group, token) in zip(panels, cells, strict=True):
        cell = own[(own.group_of_runs == group) & (own.token == token)]
        grid = cell.pivot(index="stage", columns="position", values="top1")
        grid = grid.reindex(index=stages, columns=positions)
        image = heat_map(axis, grid, SHARE, columns=[_SHORT.get(p, p) for p in positions])
        panels.title(axis, f"{group}: {token} (n = {span(cell.num_seeds)})")
    # Nothing is computed before the first stage: what it says is said by chance.
    panels.colour_bar(image, "share of queries", float(own.top1[own.stage == stages[0]].max()))
    panels.caption(
        f"Share of {PROBES.get(kind, f'{kind} queries')}{_apart(tokens)} whose first choice, read"
        f" by the output head, is the {' or the '.join(tokens)}; {_at_step(own)}mean of"
        f" {span(own.num_seeds)} seeds, {span(own.num_queries.round())} queries each; null: most"
        f" that {stages[0]} says; 95 % intervals ({_widest(own, 'top1')}) in the table beside"
    )
    return panels.picture(own)


@in_style
def patching_figure(
    table: pd.DataFrame,
    split: str,
    direction: str,
    *,
    blocks: bool = False,
    task: Task = COMPOSITION,
) -> Picture:
    """Heat maps, stage by stream and position: each site's effect, a column per differing token.

    Args:
      table: from `patching_by_group`, of one step.
      split: of the pairs.
      direction: of the patches.
      blocks: what blocks compute instead of the streams.
      task: whose splits have names.
    """
    inside = table.component.isin(BLOCK_COMPONENTS)
    own = table[(table.group == split) & (table.direction == direction) & (inside == blocks)]
    heads = own["head"].map(lambda head: "" if head < 0 else f" {head}")
    own = own.assign(column=list(zip(own.component, own.position + heads, strict=True)))
    columns = [
        column for c in _in_order(own.component)
        for column in _in_order(own[own.component == c].column)
    ]  # fmt: skip
    labels, places = [_tick_label(name) for _, name in columns], _in_order(own.place)
    size = 1.2 + 0.27 * len(columns), 0.95 + 0.3 * len(places)
    panels, cells = _by_group_and_slot(own, *size)
    for axis, cell in cells:
        grid = cell.pivot(index="place", columns="column", values="effect")
        image = heat_map(axis, grid.reindex(index=places, columns=columns), EFFECT, columns=labels)
        _strike_nulls(axis, cell, places, columns)
        _name_components(axis, [component for component, _ in columns])
    panels.colour_bar(image, "effect", float(own.null_effect.max()))
    what = (
        "clean state into the corrupted run"
        if direction == "denoising"
        else "corrupted state into the clean run"
    )
    panels.caption(
        f"{direction.capitalize()} ({what}), {split_names(task)[split]} queries: share of the logit"
        f" difference that one site carries; 1 all, 0 none; {_at_step(own)}"
        f"{span(own.num_seeds)} seeds, {span(own.num_pairs.round())} pairs each, ratio of"
        f" means; {_null(own)}; 95 % intervals ({_widest(own, 'effect')}) in the table beside"
    )
    return panels.picture(own.drop(columns="column"))


@in_style
def onset_figure(
    table: pd.DataFrame, split: str, *, num_sites: int = 8, task: Task = COMPOSITION
) -> Picture:
    """Denoising effects against training step, of the sites that become most causal."""
    own = table[(table.group == split) & (table.direction == "denoising")]
    own = own[~own.component.isin((*BLOCK_COMPONENTS, "embedding"))].dropna(subset=["effect"])
    own = own.assign(site=own.component + " " + own.place + " " + own.position)
    strongest = own.groupby("site").effect.max().sort_values(ascending=False)
    own = own[own.site.isin(strongest.index[:num_sites])]
    sites, steps = _in_order(own.site), sorted(set(own.step))
    panels, cells = _by_group_and_slot(own, 1.3 + 0.3 * len(steps), 0.7 + 0.27 * len(sites))
    for axis, cell in cells:
        grid = cell.pivot(index="site", columns="step", values="effect")
        labels = [f"{step / 1000:g}" for step in steps]
        image = heat_map(axis, grid.reindex(index=sites, columns=steps), EFFECT, columns=labels)
    panels.label("thousand steps")
    panels.colour_bar(image, "effect")
    panels.caption(
        f"Denoising effect of the {len(sites)} strongest sites at stored checkpoints,"
        f" {split_names(task)[split]} queries, {span(own.num_seeds)} seeds,"
        f" {span(own.num_pairs.round())} pairs each"
    )
    return panels.picture(own)


@in_style
def attribution_figure(table: pd.DataFrame, task: Task = COMPOSITION) -> Picture:
    """The first-order estimate of each effect against the exact one, by direction and split."""
    cells = list(itertools.product(_in_order(table.group), _in_order(table.direction)))
    panels = Panels(1, len(cells), 3.0, 2.9, sharey="row")
    for axis, (split, direction) in zip(panels, cells, strict=True):
        own = table[(table.group == split) & (table.direction == direction)]
        own = own.dropna(subset=["effect"])
        drawn = zip(_in_order(own.component), COLOURS, MARKERS, strict=False)
        for component, colour, marker in drawn:
            one = own[own.component == component]
            axis.plot(
                one.effect, one.attributed_effect, marker, color=colour, markersize=3.5,
                alpha=0.6, markeredgewidth=0, label=component,
            )  # fmt: skip
        ends = np.nanmin([own.effect.min(), -0.1]), np.nanmax([own.effect.max(), 1.0])
        axis.plot(ends, ends, color=GREY, linewidth=1, label="equal")
        r = np.corrcoef(own.effect, own.attributed_effect)[0, 1] if len(own) > 2 else math.nan
        panels.title(axis, f"{split_names(task)[split]}, {direction}: r = {r:.2f}")
        axis.set_xlabel("exact effect")
    panels.axes[0][0].set_ylabel("attributed effect (one gradient)")
    panels.legend()
    panels.caption(
        f"A point per group of runs, differing token and site; step {table.step.iloc[0]:,}"
    )
    return panels.picture(table)


@in_style
def order_figure(events: pd.DataFrame, task: Task = COMPOSITION) -> Picture:
    """When the path became readable and causal and the answer right, a line per run."""
    finite = events[np.isfinite(events.step)]
    end = max(finite.step.max() if len(finite) else 1.0, 1.0)
    runs = events[["run", "regime"]].drop_duplicates()
    several = runs.regime.nunique() > 1
    labels = [f"{r.regime if several else 'run'} {r.run}" for r in runs.itertuples()]
    splits = _in_order(events.group)
    height = 0.6 + 0.26 * len(runs)
    panels = Panels(1, len(splits), 4.6, height, sharey="row", sharex=True)
    shown = [event for event in EVENTS if event in set(events.event)]
    styles = [x for x in zip(EVENTS, COLOURS, MARKERS, strict=False) if x[0] in shown]
    for axis, split in zip(panels, splits, strict=True):
        own = events[events.group == split]
        for i, (event, colour, marker) in enumerate(styles):
            one = own[own.event == event].set_index("run").loc[runs.run]
            places = np.arange(len(runs)) + 0.22 * (i - 1)
            steps, before = one.step.to_numpy() / 1000, one.step_before.to_numpy() / 1000
            event_strip(axis, places, steps, before, end / 1000, colour, marker)
        axis.set_yticks(range(len(runs)), labels, fontsize="small")
        axis.set_ylim(len(runs) - 0.5, -0.5)
        axis.set_xlim(0, 1.2 * end / 1000)
        axis.set_xlabel(STEPS)
        panels.title(axis, f"{split_names(task)[split]} queries")
        axis.grid(False, axis="y")
    panels.legend(handles=[Line2D([], [], color=c, marker=m, label=e) for e, c, m in styles])
    panels.caption(
        "Each at 0.5; bar: since the analysed checkpoint before; hollow, beyond the dotted"
        " line: at none of the analysed ones"
    )
    return panels.picture(events)


def _by_group_and_slot(table: pd.DataFrame, width: float, height: float):
    """Panels, a row per group of runs and a column per differing token, each with its cells."""
    groups = _in_order(table.group_of_runs)
    slots = _in_order(table.slot)
    width = max(width, 0.1 * max(len(f"{g}: {_slot_title(s)}") for g in groups for s in slots))
    panels = Panels(len(groups), len(slots), width, height, sharey="row")
    cells = []
    for axis, (group, slot) in zip(panels, itertools.product(groups, slots), strict=True):
        panels.title(axis, f"{group}: {_slot_title(slot)}")
        cells.append((axis, table[(table.group_of_runs == group) & (table.slot == slot)]))
    return panels, cells


def _strike_nulls(axis: Axes, cell: pd.DataFrame, places: list, columns: list) -> None:
    """A stroke through sites that carry something, but not surely more than a random donor's."""
    no_more = cell[(cell.effect >= 0.1) & (cell.low <= cell.null_effect)]
    for site in no_more.itertuples():
        x, y = columns.index(site.column), places.index(site.place)
        axis.plot([x - 0.42, x + 0.42], [y + 0.42, y - 0.42], color=GREY, linewidth=1)


def _apart(tokens: Sequence[str]) -> str:
    """Whose hidden tokens are not given away."""
    hidden = " and ".join(tokens[:-1])
    return f" ({hidden} neither asked with nor answered)" if hidden else ""


def _slot_title(slot: str) -> str:
    return f"{_SHORT[slot] if slot.startswith('relation') else slot} differs"


def _null(table: pd.DataFrame) -> str:
    if table.null_effect.isna().all():
        return "no null was measured"
    return (
        f"null: a random donor's state, at most {table.null_effect.max():.2f}; stroke: interval"
        " reaches its site's null"
    )


def _tick_label(name: str) -> str:
    position, _, head = name.partition(" ")
    return _SHORT.get(position, position.replace("register", "p")) + (f"\n{head}" if head else "")


def _name_components(axis: Axes, components: Sequence[str]) -> None:
    """Names of the components under their columns, and a line between them."""
    for component in _in_order(components):
        start, count = components.index(component), components.count(component)
        if start:
            axis.axvline(start - 0.5, color="black", linewidth=0.8)
        axis.annotate(
            component, (start + (count - 1) / 2, 0), xycoords=("data", "axes fraction"),
            xytext=(0, -1.8), textcoords="offset fontsize", ha="center", va="top", fontsize="small",
            annotation_clip=False,
        )  # fmt: skip


def _stage_order(name: str) -> tuple[float, ...]:
    """`Init`, `H0_L0_Thinking`, ..., `H0_Commit`, `H1_L0_Thinking`, ...; a decoder's by number."""
    numbers = [float(x) for x in re.findall(r"\d+", name)]
    return (*numbers, math.inf) if numbers else (-1.0,)


def _in_order(values: Iterable) -> list:
    """Each value once, in the order in which they come."""
    return list(dict.fromkeys(values))


def _at_step(table: pd.DataFrame) -> str:
    """Of a network that nobody knows the step of, nothing."""
    step = int(table.step.iloc[0])
    return f"step {step:,}, " if step >= 0 else ""


def _widest(table: pd.DataFrame, value: str) -> str:
    width = ((table.high - table.low) / 2).max()
    return "one seed: none" if math.isnan(width) else f"at most ±{width:.2f}"
