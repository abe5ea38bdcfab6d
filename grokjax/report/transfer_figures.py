"""Pictures of finetuning: what transfers, what it cost, and at which dose it starts."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from grokjax.base.names import CATEGORIES
from grokjax.report.style import COLOURS, LINES, MARKERS, STYLE, Picture, band, span
from grokjax.report.transfer_tables import EARLY, Transfers, accuracy_table, in_order, worth_table
from grokjax.workdir.tables import bands

NAMES = {name: name.replace("_", " ") for name in CATEGORIES}
_PUBLISHED_AS = {EARLY: "control_group", "control_atomic": "control_group"}


def grid_picture(data: Transfers, paper: dict[str, Any] | None = None) -> Picture:
    """Groups by categories: new facts learned, final answer, bridge found, against step.

    Args:
      data: each group is drawn from its end, or its dearest checkpoint; of variants the first.
      paper: the published finetuning curves, where the setting is theirs.
    """
    table = _grid_table(data)
    groups = list(dict.fromkeys(table.group))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 2.1 * len(groups) + 1.0))
        axes = figure.subplots(len(groups), len(CATEGORIES), squeeze=False, sharex=True)
        for row, group in zip(axes, groups, strict=True):
            for axis, asked in zip(row, CATEGORIES, strict=True):
                own = table[(table.group == group) & (table.asked == asked)]
                for (label, _), colour, style in zip(_CURVES, COLOURS, LINES, strict=False):
                    band(axis, own[own.curve == label], label, colour, style)
                chance = own[own.curve == "bridge, by chance"]
                axis.plot(
                    chance.step / 1000, chance["median"], ":", color="#999999",
                    label="bridge, by chance",
                )  # fmt: skip
                if paper:
                    _published(axis, paper, _PUBLISHED_AS.get(group, group), asked)
                axis.set_ylim(-0.03, 1.03)
                axis.grid(alpha=0.25, linewidth=0.6)
                axis.set_title(f"{group}: {NAMES[asked]}", fontsize=9)
            row[0].set_ylabel("share of queries")
        for axis in axes[-1]:
            axis.set_xlabel("finetuning step (thousands)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_size_inches()[1]))
    return Picture(figure, table)


_CURVES = (
    ("new facts", "atomic_new/answer_accuracy"),
    ("final answer", "{asked}/answer_accuracy"),
    ("bridge found (anywhere)", "{asked}/bridge_found"),
)


def _grid_table(data: Transfers) -> pd.DataFrame:
    members = data.members
    parts = []
    for _, own in members[members.variant == members.variant.iloc[0]].groupby("group", sort=False):
        names = in_order(own)
        parts.append(own[own.checkpoint == ("end" if "end" in names else names[-1])])
    shown = pd.concat(parts)
    frames = []
    for asked in CATEGORIES:
        for label, metric in (*_CURVES, ("bridge, by chance", "{asked}/bridge_chance")):
            for group, own in shown.groupby("group", sort=False):
                runs = data.results.runs[data.results.runs.run_id.isin(own.run_id)]
                drawn = bands(
                    runs.assign(group=group),
                    data.results.curves,
                    metric.format(asked=asked),
                    "group",
                )
                frames.append(drawn.assign(asked=asked, curve=label))
    return pd.concat(frames, ignore_index=True)


def _published(axis: Any, paper: dict[str, Any], group: str, asked: str) -> None:
    if group not in paper:
        return
    own = paper[group]
    steps = np.asarray(own["step"]) / 1000
    curves = (
        own["new_fact_accuracy"],
        own["final_answer_accuracy"][asked],
        own["bridge_found"][asked],
    )
    for curve, (label, _), colour in zip(curves, _CURVES, COLOURS, strict=False):
        axis.plot(
            steps, curve, color=colour, linewidth=0.8, alpha=0.7, label=f"published run, {label}"
        )


def worth_picture(data: Transfers) -> Picture:
    """Accuracy of each category against all FLOPs spent; a line joins a group's checkpoints."""
    table = worth_table(data)
    # control_early is natural's own saturation.
    table = table[(table.group != EARLY) & (table.variant == table.variant.iloc[0])]
    groups = list(dict.fromkeys(table.group))
    power = int(np.log10((table.pretraining_flops + table.finetuning_flops).max()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.6, 3.9))
        axes = figure.subplots(1, len(CATEGORIES), sharex=True)
        for axis, asked in zip(axes, CATEGORIES, strict=True):
            for i, group in enumerate(groups):
                own = table[(table.group == group) & (table.asked == asked)]
                own = own.sort_values("pretraining_flops")
                flops = own.pretraining_flops + own.finetuning_flops
                # Groups that cost the same stand side by side.
                place = flops / 10**power * (1 + 0.012 * (i - (len(groups) - 1) / 2))
                error = np.nan_to_num([own.accuracy - own.low, own.high - own.accuracy])
                axis.errorbar(place, own.accuracy, error, capsize=3, label=group, **_style(i))
            axis.set_xlabel(f"pretraining and finetuning (10$^{{{power}}}$ FLOP)")
            axis.set_ylim(bottom=0)
        _finish(figure, axes, "accuracy after finetuning")
    return Picture(figure, table)


def has_doses(data: Transfers) -> bool:
    """Whether the share of new-fact compositions in training was varied."""
    return data.members.dose.nunique() > 1


def dose_picture(data: Transfers) -> Picture:
    """Accuracy of held-out compositions against the share of their kind that was trained on."""
    table = accuracy_table(data)
    doses = data.members.drop_duplicates(["variant"]).set_index("variant").dose
    table = table[(table.checkpoint == "end") & table.asked.isin(CATEGORIES)]
    table = table.assign(dose=doses.loc[table.variant].to_numpy())
    groups = list(dict.fromkeys(table.group))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 3.7))
        axes = figure.subplots(1, len(CATEGORIES), sharey=True)
        for axis, asked in zip(axes, CATEGORIES, strict=True):
            for i, group in enumerate(groups):
                own = table[(table.group == group) & (table.asked == asked)].sort_values("dose")
                style = _style(i)
                axis.plot(own.dose, own.accuracy, label=group, **style)
                axis.fill_between(
                    own.dose, own.low, own.high, color=style["color"], alpha=0.15, linewidth=0
                )
            axis.set_xlabel("share of new compositions in training")
            axis.set_ylim(-0.03, 1.03)
        _finish(figure, axes, "accuracy on those held out")
    return Picture(figure, table)


def _style(i: int) -> dict[str, Any]:
    """Of a group's line, told apart by colour, marker and dashes."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
    }


def _finish(figure: Figure, axes: Any, label: str) -> None:
    """A row of panels, one for each category: titles, grids, one legend."""
    for axis, asked in zip(axes, CATEGORIES, strict=True):
        axis.set_title(NAMES[asked], fontsize=10)
        axis.grid(alpha=0.25, linewidth=0.6)
    axes[0].set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=5, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.94))


def caption(data: Transfers) -> str:
    """How many seeds and queries a picture rests on."""
    n = data.members.groupby(["group", "checkpoint", "variant"]).size()
    runs = data.results.runs
    queries = ", ".join(f"{NAMES[a]} {span(runs[f'num_{a}'])}" for a in CATEGORIES)
    return f"n = {span(n)} runs a group; queries of a run: {queries}"
