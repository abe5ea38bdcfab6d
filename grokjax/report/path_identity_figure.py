"""Path identity: the distance of every pair of runs of two groups, against margin and floor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from grokjax.report.panels import Panels
from grokjax.report.style import BLUE, GREY, ORANGE, TINY, Picture, in_style, span


@in_style
def path_identity_figure(table: pd.DataFrame, pairs: pd.DataFrame) -> Picture:
    """A panel per kind of path, a row per two groups: a point per pair of runs, and the verdict.

    Args:
      table: `path_identity.csv`.
      pairs: `path_pairs.csv`.
    """
    kinds = list(dict.fromkeys(table.paths))
    twos = list(dict.fromkeys(zip(table.group_a, table.group_b, strict=True)))
    height = 1.0 + 0.62 * len(twos)
    panels = Panels.wrapped(len(kinds), 5.4, height, most=2, sharex=True, sharey=True)
    for axis, kind in zip(panels, kinds, strict=True):
        for i, (a, b) in enumerate(twos):
            own = pairs[(pairs.paths == kind) & (pairs.group_a == a) & (pairs.group_b == b)]
            spread = np.linspace(-0.1, 0.1, len(own)) if len(own) > 1 else np.zeros(len(own))
            for within, colour, marker in ((True, BLUE, "o"), (False, ORANGE, "^")):
                here = (own.within.astype(bool) == within).to_numpy()
                axis.plot(
                    own.distance[here], (i + spread)[here], marker, color=colour, markersize=4.5,
                    alpha=0.8, markeredgewidth=0,
                )  # fmt: skip
            row = table[(table.paths == kind) & (table.group_a == a) & (table.group_b == b)]
            for two in row.itertuples():
                axis.hlines(i + 0.22, two.floor_min, two.floor_max, GREY, linewidth=4, alpha=0.45)
                axis.plot(two.floor_median, i + 0.22, "|", color=GREY, markersize=8, mew=2)
                axis.annotate(
                    f"{two.verdict}: {two.within:.0f} of {two.num_pairs:.0f} within {two.margin:g}"
                    + (f", p = {two.p_holm:.2g}" if np.isfinite(two.p_holm) else ""),
                    (0.02, i - 0.22), xycoords=("axes fraction", "data"), va="bottom",
                    fontsize=TINY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                )  # fmt: skip
        axis.axvline(float(table.margin.max()), color=BLUE, linestyle="--", linewidth=1)
        axis.set_title(kind)
        axis.grid(False, axis="y")
    panels.label("distance of two runs (of a path's size)")
    first = panels.axes[0][0]
    # One scale, which no panel cuts off.
    most = np.nanmax([table.margin.max(), table.distance_max.max(), table.floor_max.max()])
    first.set_xlim(-0.03 * most, 1.05 * most)
    for row in panels.axes:
        names = [f"{a}\nand {b}" for a, b in twos]
        row[0].set_yticks(range(len(twos)), names, fontsize="small")
    first.set_ylim(len(twos) - 0.6, -0.7)
    marks: Any = {"linestyle": "", "markeredgewidth": 0}
    panels.legend(
        [
            Line2D([], [], color=BLUE, marker="o", label="pair within the margin", **marks),
            Line2D([], [], color=ORANGE, marker="^", label="pair beyond it", **marks),
            Line2D([], [], color=BLUE, linestyle="--", label="margin"),
            Line2D(
                [], [], color=GREY, alpha=0.45, linewidth=4,
                label="two seeds of one group, least to most",
            ),
        ]
    )  # fmt: skip
    panels.caption(
        "Distance between the maps of two single runs, one of each group, of the same seeds;"
        f" {span(table.num_pairs)} pairs. Grey: of one group, its median marked. p by Holm"
    )
    return panels.picture(pairs)
