"""Pictures of an analysis, from the tidy tables that are stored beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from grokjax.analysis.pairs import SLOTS
from grokjax.model import BLOCK_COMPONENTS
from grokjax.model.lens import lens_stream
from grokjax.report.style import STYLE, Picture, span, wrap

_READ: Any = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0}
_EFFECT: Any = {"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0}
_SLOT_TITLES = {
    "head": "head differs",
    "relation1": "relation 1 differs",
    "relation2": "relation 2 differs",
}
_SHORT = {"head": "h", "relation1": "r1", "relation2": "r2", "answer": "ans", "end": "end"}
GROUP_NAMES = {"id": "ID", "ood": "OOD"}


def lens_figure(table: pd.DataFrame, kind: str) -> Picture:
    """Heat maps, stage by position: how often the lens's first choice is the bridge, the target.

    Of each stage, the stream that it has just written. A row per group of runs.

    Args:
      table: from `lens_by_group`, of one step.
      kind: probe type.
    """
    own = table[(table.type == kind) & (table.num_seeds > 0)]
    stages, positions = (list(dict.fromkeys(own[c])) for c in ("stage", "position"))
    streams = own.stage.map(lens_stream) if "z_L" in set(own.stream) else "z_H"
    own = own[own.stream == streams]
    groups, tokens = list(dict.fromkeys(own.group_of_runs)), ("bridge", "target")
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(groups), 2, 1.5 + 0.75 * len(positions), 0.9 + 0.3 * len(stages))
        for row, group in zip(axes, groups, strict=True):
            for axis, token in zip(row, tokens, strict=True):
                cells = own[(own.group_of_runs == group) & (own.token == token)]
                grid = cells.pivot(index="stage", columns="position", values="top1")
                image = _heat(axis, grid.reindex(index=stages, columns=positions), _READ)
                axis.set_title(f"{group}: {token}", fontsize=10)
        caption = (
            f"Share of {kind} queries (bridge neither head nor answer) whose first choice, read by"
            f" the output head, is the bridge or the target; {_at_step(own)}mean of"
            f" {span(own.num_seeds)} seeds, {span(own.num_queries.round())} queries each;"
            f" 95 % intervals ({_widest(own, 'top1')}) in the table beside"
        )
        return _finish(figure, image, "share of queries", caption, own)


def patching_figure(
    table: pd.DataFrame, group: str, direction: str, *, blocks: bool = False
) -> Picture:
    """Heat maps, stage by stream and position: each site's effect, a column per differing token.

    Args:
      table: from `patching_by_group`, of one step.
      group: of the pairs.
      direction: of the patches.
      blocks: what blocks compute instead of the streams.
    """
    inside = table.component.isin(BLOCK_COMPONENTS)
    own = table[(table.group == group) & (table.direction == direction) & (inside == blocks)]
    groups, slots = (list(dict.fromkeys(own[c])) for c in ("group_of_runs", "slot"))
    components = list(dict.fromkeys(own.component))
    names = {c: list(dict.fromkeys(_column(own[own.component == c]))) for c in components}
    columns = [(c, name) for c in components for name in names[c]]
    stages = list(dict.fromkeys(own.place))
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(
            len(groups), len(slots), 1.2 + 0.27 * len(columns), 1.1 + 0.3 * len(stages)
        )
        for row, name in zip(axes, groups, strict=True):
            for axis, slot in zip(row, slots, strict=True):
                cells = own[(own.group_of_runs == name) & (own.slot == slot)]
                cells = cells.assign(column=list(zip(cells.component, _column(cells), strict=True)))
                grid = cells.pivot(index="place", columns="column", values="effect")
                image = _heat(
                    axis, grid.reindex(index=stages, columns=columns), _EFFECT, _tick_label
                )
                _separate(axis, columns)
                axis.set_title(f"{name}: {_SLOT_TITLES[slot]}", fontsize=10)
        what = (
            "clean state into the corrupted run"
            if direction == "denoising"
            else "corrupted state into the clean run"
        )
        caption = (
            f"{direction.capitalize()} ({what}), {GROUP_NAMES[group]} queries: share of the logit"
            f" difference that one site carries; 1 all, 0 none; {_at_step(own)}"
            f" {span(own.num_seeds)} seeds, {span(own.num_pairs.round())} pairs each, ratio of"
            f" means; 95 % intervals ({_widest(own, 'effect')}) in the table beside"
        )
        return _finish(figure, image, "effect", caption, own)


def movie_figure(table: pd.DataFrame, group: str, *, num_sites: int = 8) -> Picture:
    """Denoising effects against training step, of the sites that become most causal."""
    own = table[(table.group == group) & (table.direction == "denoising")]
    own = own[~own.component.isin((*BLOCK_COMPONENTS, "embedding"))].dropna(subset=["effect"])
    own = own.assign(site=own.component + " " + own.place + " " + own.position)
    groups = list(dict.fromkeys(own.group_of_runs))
    slots = [slot for slot in SLOTS if slot in set(own.slot)]
    strongest = own.groupby("site").effect.max().sort_values(ascending=False)
    chosen = set(strongest.index[:num_sites])
    sites = [s for s in dict.fromkeys(own.site) if s in chosen]
    steps = sorted(set(own.step))
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(
            len(groups), len(slots), 1.3 + 0.3 * len(steps), 0.9 + 0.27 * len(sites)
        )
        for row, name in zip(axes, groups, strict=True):
            for axis, slot in zip(row, slots, strict=True):
                cells = own[(own.group_of_runs == name) & (own.slot == slot) & own.site.isin(sites)]
                grid = cells.pivot(index="site", columns="step", values="effect")
                image = _heat(
                    axis, grid.reindex(index=sites, columns=steps), _EFFECT, lambda s: f"{s:,}", 7
                )
                axis.set_title(f"{name}: {_SLOT_TITLES[slot]}", fontsize=10)
        for axis in axes[-1]:
            axis.set_xlabel("training step")
        caption = (
            f"Denoising effect of the {len(sites)} strongest sites at stored checkpoints,"
            f" {GROUP_NAMES[group]} queries, {span(own.num_seeds)} seeds,"
            f" {span(own.num_pairs.round())} pairs each"
        )
        return _finish(figure, image, "effect", caption, own[own.site.isin(sites)])


def panels(rows: int, columns: int, width: float, height: float, sharey: bool = True):
    size = (width * columns + 0.8, height * rows + 0.7)
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row" if sharey else False)


def _heat(
    axis,
    grid: pd.DataFrame,
    scale: dict,
    label=lambda name: _SHORT.get(name, str(name)),
    size: float = 6.5,
):
    image = axis.imshow(np.ma.masked_invalid(grid.to_numpy(float)), aspect="auto", **scale)
    axis.set_facecolor("#dddddd")  # not defined
    for (y, x), value in np.ndenumerate(grid.to_numpy(float)):
        if abs(value) >= 0.1:
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            text = f"{value:.1f}".replace("0.", ".")
            axis.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "black",
            )
    axis.set_xticks(range(grid.shape[1]), [label(c) for c in grid.columns], fontsize=7)
    axis.set_yticks(range(grid.shape[0]), grid.index, fontsize=8)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)
    return image


def _column(cells: pd.DataFrame) -> list[str]:
    heads = ["" if head < 0 else f" {head}" for head in cells["head"]]
    return [p + h for p, h in zip(cells.position, heads, strict=True)]


def _tick_label(column: tuple[str, str]) -> str:
    position, _, head = column[1].partition(" ")
    return _SHORT.get(position, position.replace("register", "p")) + (f"\n{head}" if head else "")


def _separate(axis, columns: Sequence[tuple[str, str]]) -> None:
    """Names of the components under their columns, and a line between them."""
    starts = [i for i, c in enumerate(columns) if i == 0 or c[0] != columns[i - 1][0]]
    for start, end in zip(starts, [*starts[1:], len(columns)], strict=True):
        if start:
            axis.axvline(start - 0.5, color="black", linewidth=0.8)
        axis.annotate(
            columns[start][0], ((start + end - 1) / 2, 0), xycoords=("data", "axes fraction"),
            xytext=(0, -20), textcoords="offset points", ha="center", fontsize=8,
            annotation_clip=False,
        )  # fmt: skip


def _finish(figure: Figure, image, unit: str, caption: str, table: pd.DataFrame) -> Picture:
    """A caption below the panels and one colour bar for all."""
    width, height = figure.get_size_inches()
    lines = wrap(caption, int(17 * width))
    figure.text(0.01, 0.05 / height, lines, ha="left", va="bottom", fontsize=8)
    bottom = (0.25 + 0.14 * (lines.count("\n") + 1)) / height
    figure.tight_layout(rect=(0, bottom, 1 - 1.05 / width, 1))
    bar = figure.add_axes((1 - 0.95 / width, 0.3, 0.12 / width, 0.4))
    figure.colorbar(image, cax=bar, label=unit)
    return Picture(figure, table)


def _at_step(table: pd.DataFrame) -> str:
    """Of a network that nobody knows the step of, nothing."""
    step = int(table.step.iloc[0])
    return f"step {step:,}, " if step >= 0 else ""


def _widest(table: pd.DataFrame, value: str) -> str:
    width = ((table.high - table.low) / 2).max()
    return "one seed: none" if math.isnan(width) else f"at most +-{width:.2f}"
