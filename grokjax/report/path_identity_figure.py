"""Path identity: distances between groups of runs, their floors, and each two groups' null."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from grokjax.report.panels import Panels, heat_map
from grokjax.report.style import BLUE, GREY, ORANGE, SHARE, Picture, in_style, span


@in_style
def path_identity_figure(
    tables: dict[str, pd.DataFrame],
    nulls: dict[str, dict[tuple[str, str], np.ndarray]],
) -> Picture:
    """Per kind of path: a matrix of distances, floors across its diagonal, and each pair's null.

    Args:
      tables: from `path_identity`, by what is compared.
      nulls: distances under permuted labels, for each two groups.
    """
    panels = Panels(len(tables), 2, 5.0, 2.9)
    for (left, right), (title, table) in zip(panels.axes, tables.items(), strict=True):
        _distances(left, table)
        left.set_title(title)
        _nulls(right, table, nulls[title])
    joined = pd.concat([table.assign(paths=title) for title, table in tables.items()])
    panels.caption(
        "Left: median distance of two runs relative to a path's size, [lowest, highest],"
        f" permutation p and verdict (margin {joined.margin.iloc[0]:g}); floor: two seeds of one"
        " group. Right, dots: lowest, median, highest; bar: 95 % of mean paths' distances under"
        f" permuted labels; dashed: margin. {span(pd.concat([joined.n_a, joined.n_b]))} seeds"
    )
    return panels.picture(joined)


def _distances(axis: Axes, table: pd.DataFrame) -> None:
    names = list(dict.fromkeys([*table.group_a, *table.group_b]))
    grid = pd.DataFrame(np.nan, index=names, columns=names)
    texts = pd.DataFrame("", index=names, columns=names)
    for two in table.itertuples():
        grid.loc[two.group_b, two.group_a] = two.distance_median
        low, high = f"{two.distance_min:.2f}", f"{two.distance_max:.2f}"
        interval = f"{two.distance_median:.2f} [{low}, {high}]"
        verdict = f"{interval}\np = {two.p_value:.3f}\n{two.verdict}"
        texts.loc[two.group_b, two.group_a] = verdict
        texts.loc[two.group_a, two.group_b] = f"floor {two.floor_median:.2f}"
    top = max(np.nanmax(grid.to_numpy(), initial=0.0), 2 * float(table.margin.max()))
    heat_map(axis, grid, SHARE | {"vmax": top}, texts=texts, size=7)


def _nulls(axis: Axes, table: pd.DataFrame, nulls: dict[tuple[str, str], np.ndarray]) -> None:
    for i, two in enumerate(table.itertuples()):
        null = nulls.get((two.group_a, two.group_b), np.array([]))
        if len(null):
            axis.hlines(i, 0, np.percentile(null, 95), color=GREY, linewidth=6, alpha=0.6)
        distances = [two.distance_min, two.distance_median, two.distance_max]
        axis.plot(distances, [i] * 3, "o-", color=ORANGE)
    labels = [f"{two.group_a}\nvs {two.group_b}" for two in table.itertuples()]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.axvline(float(table.margin.max()), color=BLUE, linestyle="--", linewidth=1)
    axis.set_xlim(left=-0.01)
    axis.set_xlabel("distance (of a path's size)")
