"""Which came first, path or answer: the lag of every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from grokjax.base.names import ANSWER_FIRST, ORDER_LEVELS, ORDERS, PATH_FIRST, TOGETHER
from grokjax.report.panels import Panels
from grokjax.report.style import BLACK, BLUE, GREY, ORANGE, SMALL, Picture, in_style

_LOOKS: dict[str, dict[str, Any]] = {
    PATH_FIRST: {"color": BLUE, "marker": "o"},
    ANSWER_FIRST: {"color": ORANGE, "marker": "^"},
    TOGETHER: {"color": BLACK, "marker": "s"},
}


@in_style
def lag_figure(outcomes: pd.DataFrame, groups: Sequence[str]) -> Picture:
    """Answer less path of each run, a row per group, a panel per level; on the right of zero the
    path came first.

    A hollow arrow is a bound: one of both had not come when the run ended.

    Args:
      outcomes: the table of that name.
      groups: that are drawn.
    """
    height = 0.9 + 0.42 * len(groups)
    panels = Panels(1, len(ORDER_LEVELS), 5.6, height, sharex=True, sharey=True)
    for axis, level in zip(panels, ORDER_LEVELS, strict=True):
        for i, group in enumerate(groups):
            own = outcomes[outcomes.group == group]
            for order in _LOOKS:
                _draw(axis, own[own[f"order_{level:g}"] == order], f"lag_{level:g}", i, order)
            _write_counts(axis, own[f"order_{level:g}"], i)
        axis.axvline(0, color=GREY, linewidth=1)
        panels.title(axis, f"path and answer at {level:g}")
        axis.set_xlabel("answer less path (thousand steps)")
        axis.grid(False, axis="y")
    sizes = outcomes.groupby("group").size()
    names = [f"{group} (n = {sizes.get(group, 0)})" for group in groups]
    first = panels.axes[0][0]
    first.set_yticks(range(len(groups)), names)
    first.set_ylim(len(groups) - 0.5, -0.7)
    left, right = first.get_xlim()
    far = max(-left, right, 0.1)
    first.set_xlim(-far * 1.1, far * 1.1)
    panels.legend(
        [Line2D([], [], linestyle="", label=name, **look) for name, look in _LOOKS.items()]
    )
    panels.caption(
        "A point per run. Hollow arrow: a bound, as one of both had not come by the run's end."
        " Right of each panel: how many runs of each order, in its colour; grey: undecided, neither"
        " had come"
    )
    columns = [c for c in outcomes if c.startswith(("lag_", "order_"))]
    return panels.picture(outcomes[["run_id", "run_hash", "group", *columns]])


def _draw(axis: Axes, own: pd.DataFrame, column: str, place: int, order: str) -> None:
    """The runs of one group and order: points, or arrows where there is only a bound."""
    look, few = _LOOKS[order], len(own) < 50
    size = 4.5 if few else 2.5
    spread = np.linspace(-0.16, 0.16, len(own)) if len(own) > 1 else np.zeros(len(own))
    lag = own[column].to_numpy(float)
    low, high = (own[f"{column}_{end}"].to_numpy(float) for end in ("low", "high"))
    known = np.isfinite(lag)
    style: dict[str, Any] = {
        "linestyle": "",
        "markersize": size,
        "alpha": 0.8 if len(own) < 50 else 0.4,
    }
    axis.plot(lag[known] / 1000, (place + spread)[known], **style, **look)
    for bound, arrow, here in (
        (low, ">", ~known & np.isfinite(low) & ~np.isfinite(high)),
        (high, "<", ~known & np.isfinite(high) & ~np.isfinite(low)),
    ):
        hollow = look | {"marker": arrow, "markerfacecolor": "none", "markersize": size + 1.5}
        axis.plot(bound[here] / 1000, (place + spread)[here], **style | hollow)


def _write_counts(axis: Axes, orders: pd.Series, place: int) -> None:
    """Runs of each order, in the order's colour, on the right of a row."""
    found = orders.value_counts()
    for column, order in enumerate(ORDERS):
        axis.annotate(
            str(found.get(order, 0)), (1.0, place), xycoords=("axes fraction", "data"),
            xytext=(1.9 * (column + 1) - 0.4, 0), textcoords="offset fontsize", ha="center",
            va="center", fontsize=SMALL, color=_LOOKS.get(order, {"color": "#666666"})["color"],
            fontweight="bold" if found.get(order, 0) else "normal",
        )  # fmt: skip
