"""What answering costs: the share of runs that answer, against what was spent on each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd

from grokjax.base.names import ANSWER, ORDER_LEVELS
from grokjax.report.panels import Panels
from grokjax.report.style import Picture, in_style
from grokjax.report.survival_figure import draw_survival, survival_caption
from grokjax.report.training_runs import TrainingRuns

# What is paid per step, by the column of `runs`.
_CURRENCIES = {"flops_per_step": "training FLOPs of one run", "seconds_per_step": "device-seconds"}
_WIDE = 30.0  # from such a ratio of costs on the axis is logarithmic


def timed(data: TrainingRuns) -> bool:
    """Whether every trained run's device-seconds are known, and drawn."""
    trained = data.runs[data.runs.run_id.isin(data.events.run_id)]
    return bool(trained.seconds_per_step.notna().all())


@in_style
def cost_figure(
    data: TrainingRuns, groups: Sequence[str] | None = None, levels: Sequence[float] = ORDER_LEVELS
) -> Picture:
    """P(answered by that cost) of each group, a row of panels per currency, a column per level.

    Device-seconds are left out where no log tells them.
    """
    groups = data.groups if groups is None else groups
    prices = data.runs.set_index("run_id")
    trained = prices.loc[data.events.run_id.unique()]
    known = {c: name for c, name in _CURRENCIES.items() if trained[c].notna().all()}
    panels = Panels(len(known), len(levels), 4.6, 2.5, sharey=True, sharex="row")
    tables = []
    for axis, ((currency, name), level) in zip(
        panels, itertools.product(known.items(), levels), strict=True
    ):
        events = data.events[(data.events.threshold == level) & (data.events.event == ANSWER)]
        costs = events.step.to_numpy(float) * prices[currency].loc[events.run_id].to_numpy()
        curves = draw_survival(axis, events, costs, groups)
        tables.append(curves.rename(columns={"time": "cost"}).assign(currency=name, level=level))
        panels.title(axis, f"{data.task.short} accuracy {level:g}")
        axis.set_xlabel(name)
        positive = costs[costs > 0]
        if len(positive) and positive.max() > _WIDE * positive.min():
            axis.set_xscale("log")
            axis.set_xlim(left=positive.min() / 2)
    panels.shares()
    for row in panels.axes:
        row[0].set_ylabel("share of runs")
    panels.legend()
    panels.caption(survival_caption(data, groups))
    return panels.picture(pd.concat(tables, ignore_index=True))
