"""Survival curves: which share of a group's runs has memorised, formed the path, grokked, by when.

Aalen-Johansen estimates; a diverged run is a competing end.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from grokjax.base.names import ANSWER, EVENT_AT, MEMORISED, PATH
from grokjax.report.panels import STEPS, Panels
from grokjax.report.style import Picture, in_style, line
from grokjax.report.training_runs import MOST_GROUPS, TrainingRuns, causes
from grokjax.statistics.survival import CENSORED, aalen_johansen

_TITLES = {MEMORISED: "memorised", PATH: "path readable (OOD)", ANSWER: "answered (OOD)"}
_MOST_BANDS = 5  # that can be told apart


@in_style
def survival_figure(data: TrainingRuns, threshold: float = EVENT_AT) -> Picture:
    """P(event by step) per group, a panel per event, with 95 % bands; ticks: censored runs."""
    events = data.events[data.events.threshold == threshold]
    panels = Panels(1, len(_TITLES), 3.7, 3.1, sharey=True)
    tables = []
    for axis, event in zip(panels, _TITLES, strict=True):
        for i, group in enumerate(data.groups[:MOST_GROUPS]):
            own = events[(events.group == group) & (events.event == event)]
            if len(own):
                curve = _survival_curve(own, data.step)
                _draw(axis, curve, own, i, banded=len(data.groups) <= _MOST_BANDS)
                tables.append(curve.assign(group=group, event=event))
        axis.set_title(f"{_TITLES[event]} at {threshold:g}")
        axis.set_xlabel(STEPS)
    panels.shares()
    panels.axes[0][0].set_ylabel("share of runs")
    panels.legend()
    return panels.picture(pd.concat(tables, ignore_index=True))


def _survival_curve(events: pd.DataFrame, last_step: int) -> pd.DataFrame:
    """`aalen_johansen`, held until the last run that could still have the event leaves."""
    cause = causes(events)
    curve = aalen_johansen(events.step.to_numpy(), cause)
    known = events.step.max() if (cause == CENSORED).any() else last_step
    end = pd.DataFrame([curve.iloc[-1].to_dict() | {"time": float(known)}])
    return pd.concat([curve, end], ignore_index=True)


def _draw(axis: Axes, curve: pd.DataFrame, events: pd.DataFrame, i: int, banded: bool) -> None:
    x, style = curve.time / 1000, line(i)
    axis.step(x, curve.probability, where="post", label=events.group.iloc[0], **style)
    if banded:
        # Bands of nobody and of everybody would hide all others: those are in the table.
        between = (curve.probability > 0) & (curve.probability < 1)
        axis.fill_between(
            x, curve.low, curve.high, where=between, step="post", color=style["color"],
            alpha=0.12, linewidth=0,
        )  # fmt: skip
    left = events[causes(events) == CENSORED].step / 1000
    level = np.full(len(left), float(curve.probability.iloc[-1]))
    axis.plot(left, level, "|", color=style["color"], markersize=7)
