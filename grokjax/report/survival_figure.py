"""Survival curves: which share of a group's runs has memorised, formed the path, answered, by when.

Aalen-Johansen estimates; a diverged run is a competing end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from grokjax.base.names import ANSWER, MEMORISED, ORDER_LEVELS, PATH
from grokjax.report.panels import STEPS, Panels
from grokjax.report.style import BAND_FROM, Picture, in_style, styles
from grokjax.report.training_runs import TrainingRuns
from grokjax.statistics.survival import CENSORED, aalen_johansen

_TITLES = {MEMORISED: "memorised", PATH: "path readable ({})", ANSWER: "answers ({})"}
_MOST_BANDS = 5  # that can be told apart


@in_style
def survival_figure(
    data: TrainingRuns, groups: Sequence[str] | None = None, levels: Sequence[float] = ORDER_LEVELS
) -> Picture:
    """P(event by step) of each group, a column of panels per event and a row per level."""
    groups = data.groups if groups is None else groups
    shown = {e: _TITLES[e].format(data.task.short) for e in data.task.event_metrics if e in _TITLES}
    cells = list(itertools.product(levels, shown))
    panels = Panels(len(levels), len(shown), 3.7, 2.4, sharex=True, sharey=True)
    tables = []
    for axis, (level, event) in zip(panels, cells, strict=True):
        events = data.events[(data.events.threshold == level) & (data.events.event == event)]
        curves = draw_survival(axis, events, events.step.to_numpy(), groups, unit=1000)
        tables.append(curves.assign(event=event, level=level))
        panels.title(axis, f"{shown[event]} at {level:g}")
    panels.shares()
    panels.label(STEPS, "share of runs")
    panels.legend()
    panels.caption(survival_caption(data, groups))
    return panels.picture(pd.concat(tables, ignore_index=True))


def draw_survival(
    axis: Axes,
    events: pd.DataFrame,
    times: Float[np.ndarray, " N"],
    groups: Sequence[str],
    unit: float = 1.0,
) -> pd.DataFrame:
    """One event's curve for each group.

    Args:
      axis: to draw on.
      events: a row per run: group and cause.
      times: of each row, in whatever is paid: steps, FLOPs, seconds.
      groups: that are drawn.
      unit: of the horizontal axis.

    Returns:
      What is drawn: group, time, probability, low, high, at_risk.
    """
    tables = [pd.DataFrame(columns=["group", "time", "probability", "low", "high", "at_risk"])]
    style = styles(groups)
    for group in groups:
        member = (events.group == group).to_numpy()
        if not member.any():
            continue
        own, at = events[member], times[member]
        curve = _until_nobody_is_left(own, at, float(times.max()))
        banded = bool(len(own) >= BAND_FROM and len(groups) <= _MOST_BANDS)
        censored = at[(own.cause == CENSORED).to_numpy()]
        _draw(axis, curve, censored, unit, banded, group, style[group])
        tables.append(curve.assign(group=group))
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def survival_caption(data: TrainingRuns, groups: Sequence[str]) -> str:
    """How the curves are to be read."""
    sizes = data.runs[data.runs.group.isin(groups)].groupby("group").size()
    banded = len(groups) <= _MOST_BANDS and (sizes >= BAND_FROM).any()
    bands = f"; bands: 95 %, from {BAND_FROM} runs on" if banded else "; intervals: in the table"
    return (
        "Aalen-Johansen estimates; divergence is a competing end. Tick: a run whose training ended"
        f" before the event{bands}"
    )


def _until_nobody_is_left(events: pd.DataFrame, times: np.ndarray, last: float) -> pd.DataFrame:
    """`aalen_johansen`, held until the last run that could still have the event leaves.

    Where none could, nothing changes any more: it is held to the last time of all.
    """
    cause = events.cause.to_numpy()
    curve = aalen_johansen(times, cause)
    known = float(times.max()) if (cause == CENSORED).any() else last
    end = pd.DataFrame([curve.iloc[-1].to_dict() | {"time": known}])
    return pd.concat([curve, end], ignore_index=True)


def _draw(
    axis: Axes,
    curve: pd.DataFrame,
    censored: np.ndarray,
    unit: float,
    banded: bool,
    label: str,
    style: dict[str, Any],
) -> None:
    x, style = curve.time / unit, {k: v for k, v in style.items() if k != "marker"}
    axis.step(x, curve.probability, where="post", label=label, **style)
    if banded:
        axis.fill_between(
            x, curve.low, curve.high, step="post", color=style["color"], alpha=0.12, linewidth=0
        )
    level = np.full(len(censored), float(curve.probability.iloc[-1]))
    axis.plot(censored / unit, level, "|", color=style["color"], markersize=7)
