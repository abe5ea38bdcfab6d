"""Pictures of a workdir. Data are saved beside each picture."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from grokjax.base.errors import UserError
from grokjax.base.files import refuse_links
from grokjax.report.style import COLOURS, LINES, STYLE, band
from grokjax.report.summary import (
    BRIDGE_CHANCE,
    BRIDGE_FOUND,
    BRIDGE_FOUND_STRICT,
    OOD_ACCURACY,
    TRAINING_ACCURACY,
)
from grokjax.results import Results
from grokjax.workdir.tables import bands, usable_runs

CURVES = (
    (TRAINING_ACCURACY, "training accuracy", "#000000", "-"),
    (OOD_ACCURACY, "OOD answer accuracy", "#0072B2", "-"),
    (BRIDGE_FOUND, "OOD bridge found", "#D55E00", "--"),
)
# A decoder says the bridge after the first relation anyway, as the answer of a fact that it knows:
# of different models only the place of the answer can be compared.
_COMPARED = (
    (TRAINING_ACCURACY, "training accuracy"),
    (OOD_ACCURACY, "OOD answer accuracy"),
    (BRIDGE_FOUND_STRICT, "OOD bridge at the answer"),
)
_MODEL_COLOURS = (COLOURS[-1], *COLOURS[:-1])  # the first one black
_CHANCE_COLOUR = "#999999"
_STYLE: Any = STYLE | {"font.size": 11}


def curves_figure(results: Results) -> pathlib.Path:
    """`figures/curves.png`: one panel per regime, a median line and a band of the seeds each.

    Returns:
      The picture's path; `curves_bands.csv` beside it holds what is drawn.
    """
    refuse_links(results.workdir, "figures")
    regimes = list(dict.fromkeys(results.runs.regime))
    data = curve_bands(results.runs, results.curves, "regime")
    columns = min(len(regimes), 3)
    rows = math.ceil(len(regimes) / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.1 * columns, 3.1 * rows + 0.9))
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axis, regime in zip(axes.flat, regimes, strict=False):
            seeds = curves_panel(axis, data[data.regime == regime])
            axis.set_title(f"{regime} ({seeds} seeds)", fontsize=11)
            axis.set_xlim(left=0)
        for axis in list(axes.flat)[len(regimes) :]:
            axis.set_visible(False)
        for row in axes:
            row[0].set_ylabel("share of queries")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(handles), frameon=False)
        n = usable_runs(results.runs).groupby("regime").size()
        band = "full range" if n.max() < 10 else "10th to 90th percentile"
        figure.text(
            0.5,
            0.005,
            f"line: median over seeds; band: {band}; EMA weights",
            ha="center",
            fontsize=9,
        )
        figure.tight_layout(rect=(0, 0.03, 1, 0.92))
        folder = results.workdir / "figures"
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / "curves.png", dpi=150)
    data.to_csv(folder / "curves_bands.csv", index=False)
    return folder / "curves.png"


def comparison_figure(populations: Sequence[Results], path: str | os.PathLike) -> pathlib.Path:
    """One row per regime, one panel per metric, a line and band per population, by `config.name`.

    Args:
      populations: of any models; regimes are those that all of them have.
      path: of the picture; the same name with `.csv` gets what is drawn.

    Raises:
      UserError: they have no regime in common, or two share a name.
    """
    path = pathlib.Path(path)
    names = [str(p.config.name) for p in populations]
    if len(set(names)) < len(names):
        raise UserError(f"compare: two workdirs are named {names}; give each config.name its own")
    shared = [set(p.runs.regime) for p in populations]
    regimes = [r for r in dict.fromkeys(populations[0].runs.regime) if all(r in s for s in shared)]
    if not regimes:
        raise UserError("compare: the workdirs have no regime in common; train the same ones")
    frames = [
        bands(p.runs, p.curves, metric).assign(model=name, metric=metric)
        for p, name in zip(populations, names, strict=True)
        for metric, _ in _COMPARED
    ]
    data = pd.concat(frames)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.9 * len(_COMPARED), 2.8 * len(regimes) + 0.8))
        axes = figure.subplots(len(regimes), len(_COMPARED), sharey=True, squeeze=False)
        for row, regime in zip(axes, regimes, strict=True):
            for axis, (metric, label) in zip(row, _COMPARED, strict=True):
                own = data[(data.metric == metric) & (data.regime == regime)]
                for name, colour, style in zip(names, _MODEL_COLOURS, LINES, strict=False):
                    band(axis, own[own.model == name], name, colour, style)
                axis.set_title(f"{label}, {regime}", fontsize=10)
                axis.set_ylim(-0.03, 1.03)
                axis.grid(alpha=0.25, linewidth=0.6)
            row[0].set_ylabel("share of queries")
        for axis in axes[-1]:
            axis.set_xlabel("training step (thousands)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(handles), frameon=False)
        n = sorted({int(x) for x in data.n})
        seeds = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
        note = f"line: median over {seeds} seeds; band: their full range; EMA weights"
        figure.text(0.5, 0.005, note, ha="center", fontsize=9)
        figure.tight_layout(rect=(0, 0.03, 1, 0.93))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    data.to_csv(path.with_suffix(".csv"), index=False)
    return path


def curve_bands(runs: pd.DataFrame, curves: pd.DataFrame, by: str) -> pd.DataFrame:
    """What `curves_panel` draws, of all groups: rows of `bands`, with their metric."""
    metrics = [m for m in (*(curve[0] for curve in CURVES), BRIDGE_CHANCE) if m in curves]
    return pd.concat([bands(runs, curves, m, by).assign(metric=m) for m in metrics])


def curves_panel(axis, table: pd.DataFrame) -> int:
    """Draws one group's curves against training step.

    Args:
      axis: of matplotlib.
      table: rows of `curve_bands`.

    Returns:
      The number of runs that they are of.
    """
    for metric, label, colour, style in CURVES:
        band(axis, table[table.metric == metric], label, colour, style)
    chance = table[table.metric == BRIDGE_CHANCE]
    label = "bridge, by chance"
    axis.plot(chance.step / 1000, chance["median"], ":", color=_CHANCE_COLOUR, label=label)
    axis.set_xlabel("training step (thousands)")
    axis.set_ylim(-0.03, 1.03)
    axis.grid(alpha=0.25, linewidth=0.6)
    return int(chance.n.max()) if len(chance) else 0
