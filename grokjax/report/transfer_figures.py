"""Figures of finetuning: what transfers, what it cost, and at which dose it starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from grokjax.base.names import ANSWER_ACCURACY, BRIDGE_CHANCE, BRIDGE_FOUND, CATEGORIES
from grokjax.report.panels import Panels, band, chance_line, published_line
from grokjax.report.style import (
    COLOURS,
    LINES,
    Picture,
    in_style,
    marked_line,
)
from grokjax.report.transfer_runs import EARLY, TransferRuns, in_order
from grokjax.report.transfer_tables import accuracy_table, worth_table
from grokjax.workdir.tables import bands

NAMES = {name: name.replace("_", " ") for name in CATEGORIES}
_CURVES = {
    "new facts": f"atomic_new/{ANSWER_ACCURACY}",
    "final answer": f"{{asked}}/{ANSWER_ACCURACY}",
    "bridge found (anywhere)": f"{{asked}}/{BRIDGE_FOUND}",
}
_CHANCE = "bridge, by chance"
_PUBLISHED_AS = {EARLY: "control_group", "control_atomic": "control_group"}


@in_style
def transfer_figure(data: TransferRuns, paper: dict[str, Any] | None = None) -> Picture:
    """Groups by categories: new facts learned, final answer, bridge found, against step.

    Args:
      data: each group is drawn from its end, or its dearest checkpoint; of variants the first.
      paper: the published finetuning curves, where the setting is theirs.
    """
    table = _transfer_bands(data)
    groups = list(dict.fromkeys(table.group))
    panels = Panels(len(groups), len(CATEGORIES), 3.4, 2.1, sharex=True, sharey=True)
    cells = ((group, asked) for group in groups for asked in CATEGORIES)
    for axis, (group, asked) in zip(panels, cells, strict=True):
        own = table[(table.group == group) & (table.asked == asked)]
        for label, colour, dashes in zip(_CURVES, COLOURS, LINES, strict=False):
            curve = own[own.curve == label]
            band(axis, curve.step / 1000, curve, label=label, color=colour, linestyle=dashes)
        chance_line(axis, own[own.curve == _CHANCE])
        theirs = (paper or {}).get(_PUBLISHED_AS.get(group, group))
        if theirs:
            _draw_published(axis, theirs, asked)
        axis.set_title(f"{group}: {NAMES[asked]}", fontsize=9)
    panels.shares()
    panels.label("finetuning step (thousands)", "share of queries")
    panels.legend()
    return panels.picture(table)


def _transfer_bands(data: TransferRuns) -> pd.DataFrame:
    members = data.members
    parts = []
    for _, own in members[members.variant == members.variant.iloc[0]].groupby("group", sort=False):
        names = in_order(own)
        parts.append(own[own.checkpoint == ("end" if "end" in names else names[-1])])
    frames = []
    for asked in CATEGORIES:
        for label, metric in (_CURVES | {_CHANCE: f"{{asked}}/{BRIDGE_CHANCE}"}).items():
            for own in parts:
                runs = data.results.runs[data.results.runs.run_id.isin(own.run_id)]
                runs = runs.assign(group=own.group.iloc[0])
                drawn = bands(runs, data.results.curves, metric.format(asked=asked), "group")
                frames.append(drawn.assign(asked=asked, curve=label))
    return pd.concat(frames, ignore_index=True)


def _draw_published(axis: Axes, theirs: dict[str, Any], asked: str) -> None:
    curves = (
        theirs["new_fact_accuracy"],
        theirs["final_answer_accuracy"][asked],
        theirs["bridge_found"][asked],
    )
    for curve, label, colour in zip(curves, _CURVES, COLOURS, strict=False):
        published_line(axis, theirs["step"], curve, label, colour)


@in_style
def worth_figure(data: TransferRuns) -> Picture:
    """Accuracy of each category against all FLOPs spent; a line joins a group's checkpoints."""
    table = worth_table(data)
    # control_early is natural's own saturation.
    table = table[(table.group != EARLY) & (table.variant == table.variant.iloc[0])]
    groups = list(dict.fromkeys(table.group))
    power = int(np.log10((table.pretraining_flops + table.finetuning_flops).max()))
    panels = Panels(1, len(CATEGORIES), 3.5, 3.4, sharex=True)
    for axis, asked in zip(panels, CATEGORIES, strict=True):
        for i, group in enumerate(groups):
            own = table[(table.group == group) & (table.asked == asked)]
            own = own.sort_values("pretraining_flops")
            flops = own.pretraining_flops + own.finetuning_flops
            # Groups that cost the same stand side by side.
            place = flops / 10**power * (1 + 0.012 * (i - (len(groups) - 1) / 2))
            error = np.nan_to_num([own.accuracy - own.low, own.high - own.accuracy])
            axis.errorbar(place, own.accuracy, error, capsize=3, label=group, **marked_line(i))
        axis.set_title(NAMES[asked])
        axis.set_xlabel(f"pretraining and finetuning (10$^{{{power}}}$ FLOP)")
        axis.set_ylim(bottom=0)
    panels.axes[0][0].set_ylabel("accuracy after finetuning")
    panels.legend()
    return panels.picture(table)


def has_doses(data: TransferRuns) -> bool:
    """Whether the share of new-fact compositions in training was varied."""
    return data.members.dose.nunique() > 1


@in_style
def dose_figure(data: TransferRuns) -> Picture:
    """Accuracy of held-out compositions against the share of their kind that was trained on."""
    table = accuracy_table(data)
    doses = data.members.drop_duplicates(["variant"]).set_index("variant").dose
    table = table[(table.checkpoint == "end") & table.asked.isin(CATEGORIES)]
    table = table.assign(dose=doses.loc[table.variant].to_numpy())
    panels = Panels(1, len(CATEGORIES), 3.4, 3.2, sharey=True)
    for axis, asked in zip(panels, CATEGORIES, strict=True):
        for i, group in enumerate(dict.fromkeys(table.group)):
            own = table[(table.group == group) & (table.asked == asked)].sort_values("dose")
            band(axis, own.dose, own, "accuracy", label=group, **marked_line(i))
        axis.set_title(NAMES[asked])
        axis.set_xlabel("share of new compositions in training")
    panels.shares()
    panels.axes[0][0].set_ylabel("accuracy on those held out")
    panels.legend()
    return panels.picture(table)
