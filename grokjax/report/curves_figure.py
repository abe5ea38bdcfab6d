"""Curves against training step: of groups of runs, and of several populations side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import pandas as pd

from grokjax.base.errors import UserError
from grokjax.base.files import refuse_links
from grokjax.base.names import TRAINING_ACCURACY
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import CHANCE, CHANCE_STRICT, FOUND, FOUND_STRICT, Task
from grokjax.report.panels import STEPS, Panels, chance_line, lines, published_line
from grokjax.report.style import (
    BAND_FROM,
    BLACK,
    BLUE,
    GREEN,
    LINES,
    ORANGE,
    PINK,
    Picture,
    in_style,
    line,
    span,
)
from grokjax.results import Results, StoredRuns
from grokjax.sweeps.results import load
from grokjax.workdir.tables import bands, held_curves

_CHANCE = {
    CHANCE_STRICT: ("at its site, by chance", (0, (1, 3))),
    CHANCE: ("anywhere, by chance", ":"),
}
# As the paper's file says.
_PUBLISHED = ((0, "training_accuracy", BLACK), (1, "bridge_found", PINK))
Line = tuple[str, str, str, Any]  # metric, in words, colour, dashes


@in_style
def curves_figure(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    by: str,
    *,
    paper: dict[str, Any] | None = None,
    groups: Sequence[str] | None = None,
    task: Task = COMPOSITION,
) -> Picture:
    """Two panels per group of runs, what it answers above what can be read of its path; one where
    nothing is hidden.

    Args:
      runs, curves: tables of a workdir.
      by: the column of `runs` that groups them.
      paper: the published run by group, where the setting is its own.
      groups: that are drawn; all by default.
      task: of the runs.
    """
    names = list(dict.fromkeys(runs[by])) if groups is None else list(groups)
    runs = runs[runs[by].isin(names)]
    path = _path_lines(task, curves)
    drawn = [(row, *one) for row, kind in enumerate((_answer_lines(task), path)) for one in kind]
    drawn = [one for one in drawn if one[1] in curves]
    held = {metric: held_curves(runs, curves, metric, by) for _, metric, *_ in drawn}
    styles = {task.of_path(reading): style for reading, style in _CHANCE.items()}
    chance = {metric: bands(runs, curves, metric, by) for metric in styles if metric in curves}
    rows = 2 if task.hidden else 1
    panels = Panels.wrapped(len(names), 3.9, 2.1, rows=rows, sharex=True, sharey=True)
    panels.label(STEPS)
    about = (task.accuracy, *(metric for metric, *_ in path[:1]))
    for i, name in enumerate(names):
        cell, few = panels.cell(i, rows=rows), int((runs[by] == name).sum()) < BAND_FROM
        for row, metric, label, colour, dashes in drawn:
            own = held[metric][held[metric][by] == name]
            # One band a panel: of what the panel is about.
            each = metric in about or (metric == task.of_path(FOUND) and few)
            lines(cell[row], own, metric, each=each, label=label, color=colour, linestyle=dashes)
        for metric, table in chance.items():
            chance_line(cell[1], table[table[by] == name], *styles[metric])
        theirs = (paper or {}).get(name, {})
        for row, metric, colour in _PUBLISHED if theirs else ():
            curve = metric.replace("_", " ")
            published_line(cell[row], theirs["step"], theirs[metric], curve, colour)
        panels.title(cell[0], f"{name} ({_count(runs[runs[by] == name])})")
        cell[0].set_ylabel("answered" if i % panels.axes.shape[1] == 0 else "")
        if task.hidden:
            cell[1].set_ylabel(f"{task.path} read" if i % panels.axes.shape[1] == 0 else "")
    panels.shares()
    panels.axes[0][0].set_xlim(left=0)
    panels.legend()
    panels.caption(_caption(runs, by))
    drawn_bands = {m: bands(runs, curves, m, by) for m in held} | chance
    return panels.picture(pd.concat([t.assign(metric=m) for m, t in drawn_bands.items()]))


def _answer_lines(task: Task) -> list[Line]:
    """What is answered."""
    familiar = (task.held_out_accuracy, f"{task.short_familiar} accuracy", GREEN, "-.")
    return [
        (TRAINING_ACCURACY, "training accuracy", BLACK, ":"),
        *([familiar] if task.held_out else []),
        (task.accuracy, f"{task.short} accuracy", BLUE, "-"),
    ]


def _path_lines(task: Task, curves: pd.DataFrame) -> list[Line]:
    """What can be read of the path: in a report's curves at the site that a run keeps, in others
    at the best of each step."""
    if not task.hidden:
        return []
    at_site = task.kept_path if task.kept_path in curves else task.of_path(FOUND_STRICT)
    where = "its site" if len(task.hidden) == 1 else "its sites"
    return [
        (at_site, f"{task.short} {task.path} at {where}", ORANGE, "-"),
        (task.of_path(FOUND), f"{task.short} {task.path} anywhere", PINK, "--"),
    ]


def _count(runs: pd.DataFrame) -> str:
    diverged = int((runs.status == "diverged").sum())
    return f"n = {len(runs) - diverged}" + (f", {diverged} diverged" if diverged else "")


def _caption(runs: pd.DataFrame, by: str) -> str:
    sizes = runs.groupby(by).size()
    what = ["Shares of queries, EMA weights. Thick: median, as far as all runs of the group go"]
    if (sizes < BAND_FROM).any():
        what.append("thin: each run")
    if (sizes >= BAND_FROM).any():
        what.append("band: 10th to 90th percentile")
    if (sizes >= 10 * BAND_FROM).any():
        what.append("dark band: 25th to 75th")
    return "; ".join(what)


def save_curves(results: Results) -> pathlib.Path:
    """`figures/curves.png`, a panel per regime; `curves_bands.csv` beside it is what is drawn."""
    refuse_links(results.workdir, "figures")
    picture = curves_figure(results.runs, results.curves, "regime", task=results.task)
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
        found[-1].require_curves()
        if said := found[-1].gaps():
            print(f"{said}; the figure has what is left")
    return comparison_figure(found, names)


def _compared_lines(task: Task) -> list[tuple[str, str]]:
    """What several models are compared by, in words.

    A decoder says the bridge after the first relation anyway, as the answer of a fact that it
    knows: of different models only the place of the answer can be compared.
    """
    lines = [
        (TRAINING_ACCURACY, "training accuracy"),
        (task.accuracy, f"{task.short} accuracy"),
    ]
    if task.hidden:
        lines.append((task.of_path(FOUND_STRICT), f"{task.short} {task.path} at the answer"))
    return lines


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
    task = populations[0].task
    if any(p.task != task for p in populations):
        raise UserError(
            "compare: the workdirs have different tasks; their curves mean other things"
        )
    compared = _compared_lines(task)
    panels = Panels(len(regimes), len(compared), 3.9, 2.6, sharex=True, sharey=True)
    cells = ((regime, *one) for regime in regimes for one in compared)
    for axis, (regime, metric, label) in zip(panels, cells, strict=True):
        for i, (name, p) in enumerate(zip(names, populations, strict=True)):
            own = held_curves(p.runs[p.runs.regime == regime], p.curves, metric)
            style = line(i - 1) | {"linestyle": LINES[i % len(LINES)]}  # the first one black
            lines(axis, own, metric, label=name, **style)
        panels.title(axis, f"{regime}: {label}")
    table = pd.concat(
        bands(p.runs, p.curves, metric).assign(model=name, metric=metric)
        for p, name in zip(populations, names, strict=True)
        for metric, _ in compared
    )
    panels.shares()
    panels.label(STEPS, "share of queries")
    panels.legend()
    panels.caption(f"Thick: median of {span(table.n)} runs; thin: each run; EMA weights")
    return panels.picture(table)
