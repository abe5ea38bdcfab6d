"""The phase diagram: what share of runs groks, and how, by the ratios of OOD facts in both hops."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.optimize import minimize
from scipy.special import expit

from grokjax.base.names import ANSWER_FIRST, EVENT_AT, PATH_AT
from grokjax.report.panels import Panels, heat_map
from grokjax.report.style import ORANGE, SHARE, Picture, in_style
from grokjax.report.training_runs import RATIOS, TrainingRuns


def has_phases(data: TrainingRuns) -> bool:
    """Whether both hop ratios were swept."""
    return all(n in data.runs and data.runs[n].nunique() > 1 for n in RATIOS)


@in_style
def phase_diagram(data: TrainingRuns) -> Picture:
    """Accuracy, P(answer), P(path), P(answer first) by both ratios, with fitted boundaries."""
    ratios = data.runs.set_index("run_id")[list(RATIOS)]
    table = data.outcomes.join(ratios, on="run_id")
    kinds = {
        "mean OOD accuracy at the end": table.final_ood_accuracy,
        f"P(answer at {EVENT_AT:g})": np.isfinite(table[f"answer_{EVENT_AT:g}"]).astype(float),
        f"P(path at {PATH_AT:g})": np.isfinite(table[f"path_{PATH_AT:g}"]).astype(float),
        f"P(answer first at {PATH_AT:g})": (table[f"order_{PATH_AT:g}"] == ANSWER_FIRST).astype(
            float
        ),
    }
    first, second = (sorted(table[n].unique()) for n in RATIOS)
    cells = []
    panels = Panels(1, len(kinds), 3.2, 3.3, sharey=True)
    for axis, (title, values) in zip(panels, kinds.items(), strict=True):
        by_cell = table.assign(x=values).groupby(list(RATIOS))["x"].agg(["mean", "size"])
        means, sizes = (
            by_cell[n].unstack(0).reindex(index=second, columns=first) for n in ("mean", "size")
        )
        counts = sizes.map(lambda n: f"\nn = {n:.0f}")
        texts = (means.map("{:.2f}".format) + counts).where(means.notna(), "")
        names = [f"{ratio:g}" for ratio in first]
        image = heat_map(axis, means, SHARE, texts=texts, columns=names, size=8)
        axis.set_yticks(range(len(second)), [f"{ratio:g}" for ratio in second])
        weights = None
        if title.startswith("P("):
            weights = fit_boundary(table[list(RATIOS)].to_numpy(float), values.to_numpy(float))
        if weights is not None:
            _draw_boundary(axis, weights, first, second)
        axis.set_title(title)
        axis.set_xlabel("OOD facts as hop 1 (ratio)")
        cells.append(by_cell.reset_index().assign(kind=title))
    panels.axes[0][0].invert_yaxis()  # shared by all: the smallest ratios come first
    panels.axes[0][0].set_ylabel("OOD facts as hop 2 (ratio)")
    panels.colour_bar(image, "share")
    return panels.picture(pd.concat(cells, ignore_index=True))


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


def _draw_boundary(
    axis: Axes, weights: np.ndarray, first: list[float], second: list[float]
) -> None:
    """Where the fitted probability is 0.5, in the cells' own coordinates."""
    u, v = np.linspace(0, len(first) - 1, 100), np.linspace(0, len(second) - 1, 100)
    a = np.interp(u, range(len(first)), first)
    b = np.interp(v, range(len(second)), second)
    grid = np.array(np.meshgrid(a, b)).reshape(2, -1).T
    z = expit(_design(grid) @ weights).reshape(len(v), len(u))
    if z.min() < 0.5 < z.max():
        axis.contour(u, v, z, levels=[0.5], colors=ORANGE, linewidths=2)
