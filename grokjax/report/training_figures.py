"""The report's pictures; the numbers are those of the tables."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.special import expit

from grokjax.base.names import EVENT_METRICS, PATH_AT
from grokjax.report.curves_figure import curve_bands, curves_panel
from grokjax.report.study import RATIOS, THRESHOLD, Study
from grokjax.report.style import COLOURS, LINES, STYLE, Picture
from grokjax.report.summary import OOD_ACCURACY
from grokjax.report.training_tables import causes
from grokjax.statistics.survival import CENSORED, aalen_johansen
from grokjax.workdir.tables import bands

_PUBLISHED = (("training_accuracy", "#000000"), ("bridge_found", "#D55E00"))
_EVENT_NAMES = {"memorised": "memorised", "path": "path readable (OOD)", "grokked": "grokked (OOD)"}
_MOST_PANELS = 12
_MOST_BANDS = 5  # that can be told apart


def _style(i: int) -> Any:
    """A line style that, with the colour, tells every group apart."""
    return LINES[(i + i // len(LINES)) % len(LINES)]


def curves_picture(data: Study, paper: dict[str, Any] | None = None) -> Picture:
    """A panel per group: median and band of the seeds, and the published run where it applies."""
    groups = data.groups[:_MOST_PANELS]
    table = curve_bands(data.runs, data.curves, "group")
    columns = min(len(groups), 3)
    rows = math.ceil(len(groups) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * columns + 0.3, 2.7 * rows + 0.9))
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis, group in zip(axes.flat, groups, strict=False):
            curves_panel(axis, table[table.group == group])
            if paper and group in paper:
                for metric, colour in _PUBLISHED:
                    steps = np.asarray(paper[group]["step"]) / 1000
                    axis.plot(
                        steps, paper[group][metric], color=colour, linewidth=0.8, alpha=0.7,
                        label=f"published run, {metric.replace('_', ' ')}",
                    )  # fmt: skip
            n = int((data.runs.group == group).sum())
            axis.set_title(f"{group} ({n} runs)", fontsize=9)
        for axis in list(axes.flat)[len(groups) :]:
            axis.set_visible(False)
        for row in axes:
            row[0].set_ylabel("share of queries")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper center", ncols=2 if columns == 1 else 4, frameon=False
        )
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_size_inches()[1]))
    return Picture(figure, table)


def survival_picture(data: Study, threshold: float = THRESHOLD) -> Picture:
    """P(event by step) per group, a panel per event, with 95 % bands; ticks: censored runs."""
    events = data.events[data.events.threshold == threshold]
    tables = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.4, 3.6))
        axes = figure.subplots(1, len(EVENT_METRICS), sharey=True)
        for axis, event in zip(axes, EVENT_METRICS, strict=True):
            for i, group in enumerate(data.groups[:_MOST_PANELS]):
                own = events[(events.group == group) & (events.event == event)]
                if not len(own):
                    continue
                cause = causes(own)
                curve = aalen_johansen(own.step.to_numpy(), cause)
                # Known until the last run that could still have it leaves.
                known = own.step.max() if (cause == CENSORED).any() else data.step
                end = pd.DataFrame([curve.iloc[-1].to_dict() | {"time": float(known)}])
                curve = pd.concat([curve, end], ignore_index=True)
                x, colour = curve.time / 1000, COLOURS[i % len(COLOURS)]
                style = _style(i)
                axis.step(
                    x, curve.probability, where="post", color=colour, linestyle=style, label=group
                )
                # Bands of nobody and of everybody would hide all others: those are in the table.
                between = (curve.probability > 0) & (curve.probability < 1)
                if len(data.groups) <= _MOST_BANDS:
                    axis.fill_between(
                        x, curve.low, curve.high, where=between, step="post", color=colour,
                        alpha=0.12, linewidth=0,
                    )  # fmt: skip
                left = own[cause == CENSORED].step / 1000
                level = float(curve.probability.iloc[-1])
                axis.plot(left, np.full(len(left), level), "|", color=colour, markersize=7)
                tables.append(curve.assign(group=group, event=event))
            axis.set_title(f"{_EVENT_NAMES[event]} at {threshold:g}", fontsize=10)
            axis.set_xlabel("training step (thousands)")
            axis.set_ylim(-0.03, 1.03)
            axis.grid(alpha=0.25, linewidth=0.6)
        axes[0].set_ylabel("share of runs")
        handles, labels = axes[0].get_legend_handles_labels()
        rows = math.ceil(len(labels) / 4)
        figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.2 * rows) / 3.6))
    return Picture(figure, pd.concat(tables, ignore_index=True))


def benefit_picture(data: Study) -> Picture:
    """OOD accuracy against the FLOPs spent: what more compute buys, per group."""
    flops_per_step = data.runs.groupby("group").flops_per_step.first()
    table = bands(data.runs, data.curves, OOD_ACCURACY, "group")
    table["flops"] = table.step * table.group.map(flops_per_step)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 4.2))
        axis = figure.subplots()
        for i, group in enumerate(data.groups[:_MOST_PANELS]):
            one = table[(table.group == group) & (table.flops > 0)]
            colour, style = COLOURS[i % len(COLOURS)], _style(i)
            axis.plot(one.flops, one["median"], linestyle=style, color=colour, label=group)
            axis.fill_between(one.flops, one.low, one.high, color=colour, alpha=0.12, linewidth=0)
        axis.set_xscale("log")
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("training FLOPs of one run")
        axis.set_ylabel("OOD answer accuracy")
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.legend(frameon=False, fontsize=9)
        figure.tight_layout()
    return Picture(figure, table)


def has_phases(data: Study) -> bool:
    """Whether both hop ratios were swept."""
    return all(n in data.runs and data.runs[n].nunique() > 1 for n in RATIOS)


def phase_picture(data: Study) -> Picture:
    """Accuracy, P(grok), P(path), P(fake) in each cell of both ratios, with fitted boundaries."""
    ratios = data.runs.set_index("run_id")[list(RATIOS)]
    table = data.outcomes.join(ratios, on="run_id")
    kinds = {
        "mean OOD accuracy at the end": table.final_ood_accuracy,
        f"P(grok at {THRESHOLD:g})": np.isfinite(table.grokked).astype(float),
        f"P(path at {PATH_AT:g})": np.isfinite(table.path).astype(float),
        "P(fake grok)": (table.grok == "fake").astype(float),
    }
    first, second = (sorted(table[n].unique()) for n in RATIOS)
    cells = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13.4, 3.6), layout="constrained")
        axes = figure.subplots(1, len(kinds), sharey=True)
        for axis, (title, value_of) in zip(axes, kinds.items(), strict=True):
            grouped = table.assign(x=value_of).groupby(list(RATIOS))["x"]
            grid = grouped.mean().unstack().reindex(index=first, columns=second)
            sizes = grouped.size().unstack().reindex(index=first, columns=second)
            image = axis.imshow(
                grid.T, origin="lower", cmap="cividis", vmin=0, vmax=1, aspect="auto"
            )
            for (i, j), value in np.ndenumerate(grid.to_numpy()):
                if np.isfinite(value):
                    colour = "black" if value > 0.6 else "white"
                    text = f"{value:.2f}\nn = {int(sizes.iloc[i, j])}"
                    axis.text(i, j, text, ha="center", va="center", color=colour, fontsize=8)
            fitted = None
            if title.startswith("P("):
                fitted = fit_boundary(table[list(RATIOS)].to_numpy(float), value_of.to_numpy(float))
            if fitted is not None:
                _draw_boundary(axis, fitted, first, second)
            axis.set_xticks(range(len(first)), [f"{v:g}" for v in first])
            axis.set_yticks(range(len(second)), [f"{v:g}" for v in second])
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("OOD facts as hop 1")
            cells.append(grouped.agg(["mean", "size"]).reset_index().assign(kind=title))
        axes[0].set_ylabel("OOD facts as hop 2")
        figure.colorbar(image, ax=list(axes), label="share", fraction=0.02, pad=0.01)
    return Picture(figure, pd.concat(cells, ignore_index=True))


def fit_boundary(x: np.ndarray, happened: np.ndarray) -> np.ndarray | None:
    """Logistic regression of an outcome on both ratios and their product: [1, h1, h2, h1 h2].

    None where all runs agree. A weak ridge (0.05) keeps separable data finite.
    """
    if happened.min() == happened.max():
        return None
    design = _design(x)

    def loss(w):
        z = design @ w
        return np.sum(np.logaddexp(0, z) - happened * z) + 0.05 * np.sum(w[1:] ** 2)

    def slope(w):
        return design.T @ (expit(design @ w) - happened) + 0.1 * np.r_[0, w[1:]]

    return minimize(loss, np.zeros(design.shape[1]), jac=slope).x


def _design(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x[:, 0], x[:, 1], x[:, 0] * x[:, 1]])


def _draw_boundary(axis, weights: np.ndarray, first: list[float], second: list[float]) -> None:
    """Where the fitted probability is 0.5, in the cells' own coordinates."""
    u, v = np.linspace(0, len(first) - 1, 100), np.linspace(0, len(second) - 1, 100)
    a = np.interp(u, range(len(first)), first)
    b = np.interp(v, range(len(second)), second)
    grid = np.array(np.meshgrid(a, b)).reshape(2, -1).T
    z = expit(_design(grid) @ weights).reshape(len(v), len(u))
    if z.min() < 0.5 < z.max():
        axis.contour(u, v, z, levels=[0.5], colors="#D55E00", linewidths=2)
