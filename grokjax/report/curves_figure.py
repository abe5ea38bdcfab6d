"""Curves against training step: of groups of runs, and of several populations side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import pandas as pd

from grokjax.base.errors import UserError
from grokjax.base.files import refuse_links
from grokjax.base.names import (
    OOD_ACCURACY,
    OOD_BRIDGE_CHANCE,
    OOD_BRIDGE_FOUND,
    OOD_BRIDGE_FOUND_STRICT,
    TRAINING_ACCURACY,
)
from grokjax.report.panels import STEPS, Panels, band, chance_line, published_line
from grokjax.report.style import BLACK, BLUE, LINES, ORANGE, Picture, in_style, line, span
from grokjax.results import Results, StoredRuns
from grokjax.sweeps.results import load
from grokjax.workdir.tables import bands

_DRAWN = (
    (TRAINING_ACCURACY, "training accuracy", BLACK, "-"),
    (OOD_ACCURACY, "OOD answer accuracy", BLUE, "-"),
    (OOD_BRIDGE_FOUND, "OOD bridge found", ORANGE, "--"),
)
_PUBLISHED = (("training_accuracy", BLACK), ("bridge_found", ORANGE))  # as the paper's file says
# A decoder says the bridge after the first relation anyway, as the answer of a fact that it knows:
# of different models only the place of the answer can be compared.
_COMPARED = (
    (TRAINING_ACCURACY, "training accuracy"),
    (OOD_ACCURACY, "OOD answer accuracy"),
    (OOD_BRIDGE_FOUND_STRICT, "OOD bridge at the answer"),
)


@in_style
def curves_figure(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    by: str,
    *,
    paper: dict[str, Any] | None = None,
    most: int | None = None,
) -> Picture:
    """A panel per group of runs: a median line and a band for each of three curves, and chance.

    Args:
      runs, curves: tables of a workdir.
      by: the column of `runs` that groups them.
      paper: the published run by group, where the setting is its own.
      most: panels; all by default.
    """
    metrics = [m for m in (*(drawn[0] for drawn in _DRAWN), OOD_BRIDGE_CHANCE) if m in curves]
    table = pd.concat([bands(runs, curves, m, by).assign(metric=m) for m in metrics])
    groups = list(dict.fromkeys(runs[by]))[:most]
    panels = Panels.wrapped(len(groups), 4.1, 2.9, sharey=True)
    for axis, group in zip(panels, groups, strict=True):
        own = table[table[by] == group]
        for metric, label, colour, dashes in _DRAWN:
            curve = own[own.metric == metric]
            band(axis, curve.step / 1000, curve, label=label, color=colour, linestyle=dashes)
        chance_line(axis, own[own.metric == OOD_BRIDGE_CHANCE])
        theirs = (paper or {}).get(group, {})
        for metric, colour in _PUBLISHED if theirs else ():
            curve = metric.replace("_", " ")
            published_line(axis, theirs["step"], theirs[metric], curve, colour)
        num_runs = int(own.n.max()) if len(own) else 0
        axis.set_title(f"{group} ({num_runs} run{'s' * (num_runs != 1)})")
        axis.set_xlim(left=0)
    panels.shares()
    panels.label(STEPS, "share of queries")
    panels.legend()
    ranges = "full range" if not table.n.max() >= 10 else "10th to 90th percentile"
    panels.caption(f"line: median over runs; band: {ranges}; EMA weights")
    return panels.picture(table)


def save_curves(results: Results) -> pathlib.Path:
    """`figures/curves.png`, a panel per regime; `curves_bands.csv` beside it is what is drawn."""
    refuse_links(results.workdir, "figures")
    picture = curves_figure(results.runs, results.curves, "regime")
    return picture.save(results.workdir / "figures" / "curves.png", "curves_bands.csv")


def compare_workdirs(workdirs: Sequence[str]) -> Picture:
    """`grokjax compare`: of each `WORKDIR`, which has its experiment's name, or `NAME=WORKDIR`.

    Raises:
      UserError: as `comparison_figure`, or a workdir is none.
    """
    found, names = [], []
    for text in workdirs:
        name, equals, folder = text.partition("=")
        is_named = bool(equals) and not pathlib.Path(text).exists()
        found.append(load(folder if is_named else text))
        names.append(name if is_named and name else str(found[-1].config.name))
        if not len(found[-1].curves):
            raise UserError(f"{found[-1].workdir}: has no curves yet; train it first")
    return comparison_figure(found, names)


@in_style
def comparison_figure(
    populations: Sequence[StoredRuns], names: Sequence[str] | None = None
) -> Picture:
    """One row per regime, one panel per metric, a line and band per population or sweep.

    Args:
      populations: of any models; regimes are those that all of them have.
      names: of each; `config.name` by default.

    Raises:
      UserError: they have no regime in common, or two share a name.
    """
    names = [str(p.config.name) for p in populations] if names is None else names
    if len(set(names)) < len(names):
        raise UserError(f"compare: two workdirs are named {names}; call them NAME=WORKDIR")
    shared = [set(p.runs.regime) for p in populations]
    regimes = [r for r in dict.fromkeys(populations[0].runs.regime) if all(r in s for s in shared)]
    if not regimes:
        raise UserError("compare: the workdirs have no regime in common; train the same ones")
    table = pd.concat(
        bands(p.runs, p.curves, metric).assign(model=name, metric=metric)
        for p, name in zip(populations, names, strict=True)
        for metric, _ in _COMPARED
    )
    panels = Panels(len(regimes), len(_COMPARED), 3.9, 2.8, sharey=True)
    cells = ((regime, *compared) for regime in regimes for compared in _COMPARED)
    for axis, (regime, metric, label) in zip(panels, cells, strict=True):
        own = table[(table.metric == metric) & (table.regime == regime)]
        for i, name in enumerate(names):
            curve = own[own.model == name]
            style = line(i - 1) | {"linestyle": LINES[i % len(LINES)]}  # the first one black
            band(axis, curve.step / 1000, curve, label=name, **style)
        axis.set_title(f"{label}, {regime}")
    panels.shares()
    panels.label(STEPS, "share of queries")
    panels.legend()
    panels.caption(f"line: median over {span(table.n)} seeds; band: their full range; EMA weights")
    return panels.picture(table)
