"""Figures of finetuning: what transfers, what it cost, and at which dose it starts."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from grokjax.base.names import (
    ANSWER_ACCURACY,
    BRIDGE_CHANCE,
    BRIDGE_FOUND,
    BRIDGE_FOUND_STRICT,
    CATEGORIES,
    END,
)
from grokjax.report.panels import Panels, chance_line, lines, published_line
from grokjax.report.style import BLACK, BLUE, ORANGE, PINK, Picture, in_style, span, styles
from grokjax.report.transfer_runs import EARLY, TransferRuns, in_order
from grokjax.workdir.tables import bands, held_curves

NAMES = {name: name.replace("_", " ") for name in CATEGORIES}
_CURVES = {
    "new facts": (f"atomic_new/{ANSWER_ACCURACY}", BLACK, ":"),
    "answer": (f"{{asked}}/{ANSWER_ACCURACY}", BLUE, "-"),
    "bridge at its site": (f"{{asked}}/{BRIDGE_FOUND_STRICT}", ORANGE, "-"),
    "bridge anywhere": (f"{{asked}}/{BRIDGE_FOUND}", PINK, "--"),
}
_CHANCE = f"{{asked}}/{BRIDGE_CHANCE}"
_PUBLISHED_AS = {EARLY: "control_group", "control_atomic": "control_group"}


@in_style
def transfer_figure(data: TransferRuns, paper: dict[str, Any] | None = None) -> Picture:
    """Groups by categories: new facts learned, answer, bridge found, against finetuning step.

    Args:
      data: each group is drawn from its end, or its dearest checkpoint; of variants the first.
      paper: the published finetuning curves, where the setting is theirs.
    """
    parts = _drawn_runs(data)
    panels = Panels(len(parts), len(CATEGORIES), 3.4, 1.9, sharex=True, sharey=True)
    panels.label("finetuning step (thousands)", "share of queries")
    tables = []
    cells = ((runs, asked) for runs in parts for asked in CATEGORIES)
    for axis, (runs, asked) in zip(panels, cells, strict=True):
        group = runs.group.iloc[0]
        for label, (metric, colour, dashes) in _CURVES.items():
            name = metric.format(asked=asked)
            if name not in data.results.curves:
                continue
            own = held_curves(runs, data.results.curves, name, "group")
            each = label != "new facts"
            lines(axis, own, name, each=each, label=label, color=colour, linestyle=dashes)
            table = bands(runs, data.results.curves, name, "group")
            tables.append(table.assign(asked=asked, curve=label))
        chance = bands(runs, data.results.curves, _CHANCE.format(asked=asked), "group")
        chance_line(axis, chance, "bridge anywhere, by chance")
        tables.append(chance.assign(asked=asked, curve="by chance"))
        theirs = (paper or {}).get(_PUBLISHED_AS.get(group, group))
        if theirs:
            _draw_published(axis, theirs, asked)
        panels.title(axis, f"{group}: {NAMES[asked]} (n = {runs.run_id.nunique()})")
    panels.shares()
    panels.legend()
    panels.caption("Thick: median of the runs; thin: each run. EMA weights")
    return panels.picture(pd.concat(tables, ignore_index=True))


def _drawn_runs(data: TransferRuns) -> list[pd.DataFrame]:
    """Of each group, the runs that start from its end or its dearest checkpoint."""
    members = data.members
    parts = []
    for group, own in members[members.variant == members.variant.iloc[0]].groupby(
        "group", sort=False
    ):
        names = in_order(own)
        chosen = own[own.checkpoint == (END if END in names else names[-1])]
        runs = data.results.runs[data.results.runs.run_id.isin(chosen.run_id)]
        parts.append(runs.assign(group=group))
    return parts


def _draw_published(axis: Axes, theirs: dict[str, Any], asked: str) -> None:
    curves = {
        "new facts": theirs["new_fact_accuracy"],
        "answer": theirs["final_answer_accuracy"][asked],
        "bridge anywhere": theirs["bridge_found"][asked],
    }
    for label, curve in curves.items():
        published_line(axis, theirs["step"], curve, label, _CURVES[label][1])


@in_style
def worth_figure(data: TransferRuns) -> Picture:
    """Accuracy of each category against all FLOPs spent: every run, its checkpoints joined."""
    table = runs_table(data)
    # control_early is natural's own saturation.
    table = table[(table.group != EARLY) & (table.variant == table.variant.iloc[0])]
    table = table.assign(flops=table.pretraining_flops + table.finetuning_flops)
    style = styles(table.group)
    panels = Panels(1, len(CATEGORIES), 3.5, 3.2, sharex=True, sharey=True)
    for axis, asked in zip(panels, CATEGORIES, strict=True):
        for group, own in table[table.asked == asked].groupby("group", sort=False):
            look = style[str(group)]
            for _, run in own.sort_values("flops").groupby("seed"):
                axis.plot(run.flops, run.accuracy, **look | {"linewidth": 0.5, "markersize": 3})
            middle = own.groupby("checkpoint")[["flops", "accuracy"]].median().sort_values("flops")
            axis.plot(middle.flops, middle.accuracy, label=group, **look)
        panels.title(axis, NAMES[asked])
        axis.set_xlabel("pretraining and finetuning FLOPs")
    panels.axes[0][0].set_ylim(-0.02, min(1.02, 1.15 * float(table.accuracy.max()) + 0.02))
    panels.axes[0][0].set_ylabel("accuracy after finetuning")
    panels.legend()
    counts = f"; {_sizes(table)} runs a group and checkpoint"
    panels.caption("Large: median of the runs from one checkpoint; small: each by seed" + counts)
    return panels.picture(table)


def has_doses(data: TransferRuns) -> bool:
    """Whether the share of new-fact compositions in training was varied."""
    return data.members.dose.nunique() > 1


@in_style
def dose_figure(data: TransferRuns) -> Picture:
    """Accuracy of held-out compositions against the share of their kind that was trained on."""
    table = runs_table(data)
    table = table[table.checkpoint == END]
    style = styles(table.group)
    panels = Panels(1, len(CATEGORIES), 3.4, 3.0, sharey=True)
    for axis, asked in zip(panels, CATEGORIES, strict=True):
        for group, own in table[table.asked == asked].groupby("group", sort=False):
            look = style[str(group)]
            for _, run in own.sort_values("dose").groupby("seed"):
                axis.plot(run.dose, run.accuracy, **look | {"linewidth": 0.5, "markersize": 3})
            middle = own.groupby("dose").accuracy.median()
            axis.plot(middle.index, middle, label=group, **look)
        panels.title(axis, NAMES[asked])
        axis.set_xlabel("share of new compositions in training")
    panels.shares()
    panels.axes[0][0].set_ylabel("accuracy on those held out")
    panels.legend()
    counts = f"; {_sizes(table)} runs a group and share"
    panels.caption("Large: median of the runs; small: each run, by seed" + counts)
    return panels.picture(table)


def _sizes(table: pd.DataFrame) -> str:
    """Runs under each large point."""
    return span(table.groupby(["group", "checkpoint", "dose"]).run_id.nunique())


def runs_table(data: TransferRuns) -> pd.DataFrame:
    """A row per finetuned run, group that it belongs to, and category.

    Returns:
      group, checkpoint, variant, run_id, seed, dose, pretraining_flops, finetuning_flops; asked,
      accuracy at the end of finetuning.
    """
    tables = []
    for asked in CATEGORIES:
        accuracy = data.final[f"{asked}/{ANSWER_ACCURACY}"]
        accuracies = accuracy.loc[data.members.run_id].to_numpy()
        tables.append(data.members.assign(asked=asked, accuracy=accuracies))
    return pd.concat(tables, ignore_index=True)
