"""Pictures that compare: estimates with exact effects, events with each other, groups of runs."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from grokjax.analysis.onset import EVENTS
from grokjax.report.analysis_figures import GROUP_NAMES, panels
from grokjax.report.style import COLOURS, MARKERS, STYLE, Picture, span, wrap


def attribution_figure(table: pd.DataFrame) -> Picture:
    """The first-order estimate of each effect against the exact one, by direction and group."""
    cells = [(g, d) for g in dict.fromkeys(table.group) for d in dict.fromkeys(table.direction)]
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(1, len(cells), 3.0, 2.9)
        for axis, (group, direction) in zip(axes[0], cells, strict=True):
            own = table[(table.group == group) & (table.direction == direction)].dropna(
                subset=["effect"]
            )
            for component, colour, marker in zip(
                dict.fromkeys(own.component), COLOURS, MARKERS, strict=False
            ):
                one = own[own.component == component]
                axis.plot(
                    one.effect, one.attributed_effect, marker, color=colour, markersize=3.5,
                    alpha=0.6, markeredgewidth=0, label=component,
                )  # fmt: skip
            low, high = np.nanmin([own.effect.min(), -0.1]), np.nanmax([own.effect.max(), 1.0])
            axis.plot([low, high], [low, high], color="#999999", linewidth=1, label="equal")
            r = np.corrcoef(own.effect, own.attributed_effect)[0, 1] if len(own) > 2 else math.nan
            axis.set_title(f"{GROUP_NAMES[group]}, {direction}: r = {r:.2f}", fontsize=10)
            axis.set_xlabel("exact effect")
            axis.grid(alpha=0.25, linewidth=0.6)
        axes[0][0].set_ylabel("attributed effect (one gradient)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(handles), frameon=False)
        caption = (
            f"A point per group of runs, differing token and site; step {table.step.iloc[0]:,}"
        )
        figure.text(0.5, 0.01, caption, ha="center", fontsize=8)
        figure.tight_layout(rect=(0, 0.04, 1, 0.92))
        return Picture(figure, table)


def order_figure(events: pd.DataFrame) -> Picture:
    """When the path became readable and causal and the answer right, a line per run."""
    groups = list(dict.fromkeys(events.group))
    finite = events[np.isfinite(events.step)]
    end = max(finite.step.max() if len(finite) else 1.0, 1.0)
    runs = events[["run", "regime"]].drop_duplicates()
    labels = [f"{regime} {run}" for run, regime in zip(runs.run, runs.regime, strict=True)]
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(1, len(groups), 4.6, 0.8 + 0.26 * len(runs))
        for axis, group in zip(axes[0], groups, strict=True):
            own = events[events.group == group]
            for i, (event, colour, marker) in enumerate(
                zip(EVENTS, COLOURS, MARKERS, strict=False)
            ):
                one = own[own.event == event].set_index("run").loc[runs.run]
                place = np.arange(len(runs)) + 0.22 * (i - 1)
                never = ~np.isfinite(one.step.to_numpy())
                at = np.where(never, 1.12 * end, one.step)
                before = np.where(never | one.step_before.isna(), at, one.step_before)
                axis.hlines(place, before, at, color=colour, linewidth=1.2)
                axis.plot(
                    at[~never], place[~never], marker, color=colour, markersize=5, label=event
                )
                axis.plot(
                    at[never], place[never], marker, color=colour, markersize=5, fillstyle="none"
                )
            axis.axvline(1.06 * end, color="#999999", linewidth=0.8, linestyle=":")
            axis.set_yticks(range(len(runs)), labels, fontsize=8)
            axis.set_ylim(len(runs) - 0.5, -0.5)
            axis.set_xlabel("training step")
            axis.set_title(f"{GROUP_NAMES[group]} compositions", fontsize=10)
            axis.grid(axis="x", alpha=0.25, linewidth=0.6)
        handles = [
            Line2D([], [], color=c, marker=m, linestyle="-", label=e)
            for e, c, m in zip(EVENTS, COLOURS, MARKERS, strict=False)
        ]
        figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False)
        caption = (
            "Each at 0.5; bar: since the analysed checkpoint before; hollow, beyond the dotted"
            " line: at none of the analysed ones"
        )
        figure.text(0.5, 0.01, caption, ha="center", fontsize=8)
        figure.tight_layout(rect=(0, 0.05, 1, 0.92))
        return Picture(figure, events)


def identity_figure(
    tables: dict[str, pd.DataFrame],
    nulls: dict[str, dict[tuple[str, str], np.ndarray]],
) -> Picture:
    """Per kind of path: a matrix of distances, floors on its diagonal, and each pair's null.

    Args:
      tables: from `path_identity`, by what is compared.
      nulls: distances under permuted labels, for each two groups.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(tables), 2, 5.0, 2.9, sharey=False)
        for row, (title, table) in zip(axes, tables.items(), strict=True):
            _identity_matrix(row[0], table, title)
            _identity_nulls(row[1], table, nulls[title])
        n = pd.concat(tables.values())
        caption = (
            "Left: distance between groups' mean paths relative to a path's size, [95 % interval],"
            f" permutation p and verdict (margin {n.margin.iloc[0]:g}); floor: two seeds of one"
            " group. Right, dot: the distance; bar: 95 % of it under permuted labels; dashed: the"
            f" margin. {span(pd.concat([n.n_a, n.n_b]))} seeds a group"
        )
        figure.text(0.01, 0.01, wrap(caption, 150), fontsize=8)
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        joined = pd.concat([t.assign(paths=title) for title, t in tables.items()])
        return Picture(figure, joined)


def _identity_matrix(axis, table: pd.DataFrame, title: str) -> None:
    names = list(dict.fromkeys([*table.group_a, *table.group_b]))
    grid = pd.DataFrame(np.nan, index=names, columns=names)
    for row in table.itertuples():
        grid.loc[row.group_b, row.group_a] = row.distance
    top = max(np.nanmax(grid.to_numpy(), initial=0.0), 2 * float(table.margin.max()))
    axis.imshow(grid, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    axis.set_facecolor("#eeeeee")
    for row in table.itertuples():
        x, y = names.index(row.group_a), names.index(row.group_b)
        bright = row.distance > 0.6 * top
        interval = f"{row.distance:.2f} [{row.distance_low:.2f}, {row.distance_high:.2f}]"
        text = f"{interval}\np = {row.p_value:.3f}\n{row.verdict}"
        axis.text(
            x, y, text, ha="center", va="center", fontsize=7, color="black" if bright else "white"
        )
        axis.text(
            y, x, f"floor {row.floor:.2f}", ha="center", va="center", fontsize=7, color="#555555"
        )
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_title(title, fontsize=10)


def _identity_nulls(axis, table: pd.DataFrame, nulls: dict[tuple[str, str], np.ndarray]) -> None:
    for i, row in enumerate(table.itertuples()):
        null = nulls.get((row.group_a, row.group_b), np.array([]))
        if len(null):
            axis.hlines(i, 0, np.percentile(null, 95), color="#999999", linewidth=6, alpha=0.6)
        axis.plot(row.distance, i, "o", color="#D55E00")
    labels = [f"{r.group_a}\nvs {r.group_b}" for r in table.itertuples()]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(float(table.margin.max()), color="#0072B2", linestyle="--", linewidth=1)
    axis.set_xlim(left=-0.01)
    axis.set_xlabel("distance")
