"""What swept numbers do: a map for two of them, a strip for one, small multiples for the rest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from grokjax.base.names import ANSWER_FIRST, EVENT_AT, ORDER_LEVELS
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import Task
from grokjax.report.panels import Panels, heat_map
from grokjax.report.style import BLUE, SHARE, TINY, Picture, in_style
from grokjax.report.wording import explained, in_words, value_in_words
from grokjax.settings.declarations import SEEDS
from grokjax.statistics.survival import wilson

_MOST_FACETS = 6
_LEVEL = f"{ORDER_LEVELS[0]:g}"
_COLOUR_BAR = 1.7  # inches, with what is written beside it and left of the panels
# What a share counts, and of which column of the outcomes.
_SHARES: dict[str, tuple[str, Callable[[pd.Series], pd.Series]]] = {
    f"answers at {EVENT_AT:g}": (f"answer_{EVENT_AT:g}", pd.Series.notna),
    f"path at {_LEVEL}": (f"path_{_LEVEL}", pd.Series.notna),
    f"answer first at {_LEVEL}": (f"order_{_LEVEL}", lambda orders: orders == ANSWER_FIRST),
}


def swept_numbers(runs: pd.DataFrame) -> list[str]:
    """Settings with several numbers, those of most values first; seeds are none.

    Of settings that change together only the first one counts.
    """
    found: list[str] = []
    for name in _varied(runs):
        if not _is_number(runs[name]):
            continue
        tied = (runs.groupby(name)[other].nunique().max() == 1 for other in found)
        if not any(tied):
            found.append(name)
    return found


def facets(runs: pd.DataFrame, drawn: list[str]) -> pd.Series:
    """What else differs between runs, in words: the third number, the regime, the rest."""
    numbers = set(swept_numbers(runs))
    tied = {n for n in _varied(runs) if _is_number(runs[n]) and n not in numbers}
    others = [n for n in _varied(runs) if n not in drawn and n not in tied]
    custom = any(name.startswith("data.hop") for name in _varied(runs))
    parts = [runs.regime.astype(str)] if runs.regime.nunique() > 1 and not custom else []
    parts += [in_words(n) + " " + runs[n].map(value_in_words) for n in others]
    return (
        pd.Series("", runs.index) if not parts else pd.concat(parts, axis=1).agg(", ".join, axis=1)
    )


@in_style
def map_figure(runs: pd.DataFrame, outcomes: pd.DataFrame, task: Task = COMPOSITION) -> Picture:
    """Heat maps of two swept numbers, a row per facet: accuracy, and three shares of runs.

    A cell has the median with lowest and highest run, or the share with its Wilson interval, and n.

    Args:
      runs: with at least two swept numbers.
      outcomes: the table of that name.
      task: of the runs.
    """
    across, up = swept_numbers(runs)[:2]
    table = _with_settings(runs, outcomes, [across, up])
    names = list(dict.fromkeys(table.facet))[:_MOST_FACETS]
    columns, rows = (sorted(table[n].unique()) for n in (across, up))
    width = 1.2 + 0.75 * max(len(columns), 3)
    quantities = _quantities(outcomes, task)
    panels = Panels(len(names), len(quantities), width, 1.0 + 0.55 * max(len(rows), 3), sharey=True)
    cells = []
    grid = itertools.product(names, quantities)
    for axis, (facet, what) in zip(panels, grid, strict=True):
        own = table[table.facet == facet]
        summary = _summary(own, [across, up], what)
        image = _draw_map(axis, summary, across, up, columns, rows)
        panels.title(axis, f"{facet}: {what}" if facet else what, _COLOUR_BAR)
        cells.append(summary.assign(facet=facet, quantity=what))
    panels.axes[0][0].invert_yaxis()  # shared by all: the smallest numbers come first
    panels.label(in_words(across), in_words(up))
    panels.colour_bar(image, "accuracy, share of runs")
    hidden = table.facet.nunique() - len(names)
    panels.caption(
        f"Across: {explained(across)}; up: {explained(up)}. In a cell: median accuracy with lowest"
        " and highest run, or share of runs with its 95 % Wilson interval"
        + (f". {hidden} more facets: in the table" if hidden else "")
    )
    return panels.picture(pd.concat(cells, ignore_index=True))


@in_style
def strip_figure(runs: pd.DataFrame, outcomes: pd.DataFrame, task: Task = COMPOSITION) -> Picture:
    """One swept number: every run's accuracy, and the shares of runs, a panel per facet."""
    (across,) = swept_numbers(runs)
    table = _with_settings(runs, outcomes, [across])
    names = list(dict.fromkeys(table.facet))[:_MOST_FACETS]
    places = {value: i for i, value in enumerate(sorted(table[across].unique()))}
    panels = Panels.wrapped(len(names), 4.2, 2.8, sharex=True, sharey=True)
    panels.label(in_words(across), _accuracy(task))
    for axis, facet in zip(panels, names, strict=True):
        own = table[table.facet == facet]
        for value, here in own.groupby(across):
            spread = np.linspace(-0.15, 0.15, len(here)) if len(here) > 1 else [0.0]
            alpha = 0.8 if len(here) < 50 else 0.3
            x = places[value] + np.asarray(spread)
            y = here.final_ood_accuracy
            axis.plot(x, y, "o", color=BLUE, markersize=4, alpha=alpha, markeredgewidth=0)
            axis.hlines(y.median(), places[value] - 0.25, places[value] + 0.25, color="black")
            axis.annotate(
                f"n = {len(here)}", (places[value], 1.0), xycoords=("data", "axes fraction"),
                ha="center", va="bottom", fontsize=TINY,
            )  # fmt: skip
        axis.set_xticks(range(len(places)), [value_in_words(v) for v in places])
        axis.set_title(facet, pad=14)
    panels.shares()
    panels.caption(f"{explained(across)}. A point per run, a bar at their median")
    summaries = [
        _summary(own, [across], what).assign(facet=facet, quantity=what)
        for facet, own in table.groupby("facet", sort=False)
        for what in _quantities(outcomes, task)
    ]
    return panels.picture(pd.concat(summaries, ignore_index=True))


def _accuracy(task: Task) -> str:
    return f"{task.short} accuracy at the end"


def _quantities(outcomes: pd.DataFrame, task: Task) -> list[str]:
    """All that the table has the columns for."""
    return [_accuracy(task), *(what for what, (column, _) in _SHARES.items() if column in outcomes)]


def _varied(runs: pd.DataFrame) -> list[str]:
    return [
        n for n in runs
        if "." in n and n not in SEEDS and n != "data.regime" and runs[n].nunique() > 1
    ]  # fmt: skip


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _with_settings(runs: pd.DataFrame, outcomes: pd.DataFrame, drawn: list[str]) -> pd.DataFrame:
    own = runs.assign(facet=facets(runs, drawn)).set_index("run_id")
    return outcomes.join(own[[*drawn, "facet"]], on="run_id")


def _summary(table: pd.DataFrame, by: list[str], what: str) -> pd.DataFrame:
    """Per cell: value, low, high, interval (which), count (of the share), n."""
    rows = []
    for key, own in table.groupby(by):
        n = len(own)
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        if what not in _SHARES:
            y = own.final_ood_accuracy
            row |= {"value": y.median(), "low": y.min(), "high": y.max(), "interval": "range"}
        else:
            column, happened = _SHARES[what]
            count = int(happened(own[column]).sum())
            row |= wilson(count, n).columns("value", "") | {"interval": "wilson", "count": count}
        rows.append(row | {"n": n})
    return pd.DataFrame(rows)


def _draw_map(
    axis: Axes, summary: pd.DataFrame, across: str, up: str, columns: list, rows: list
) -> AxesImage:
    def grid(values: pd.Series) -> pd.DataFrame:
        cells = summary.assign(x=values).pivot(index=up, columns=across, values="x")
        return cells.reindex(index=rows, columns=columns)

    for places, draw in ((columns, axis.axvline), (rows, axis.axhline)):
        for i in range(1, len(places)):  # cells of one value are still cells
            draw(i - 0.5, color="white", linewidth=0.8)
    roomy = len(columns) <= 5
    texts = [_cell_text(cell, roomy) for cell in summary.itertuples()]
    return heat_map(
        axis,
        grid(summary.value),
        SHARE,
        texts=grid(pd.Series(texts, summary.index)).fillna(""),
        columns=[value_in_words(x) for x in columns],
        rows=[value_in_words(y) for y in rows],
        size=TINY if len(columns) <= 8 else "xx-small",
    )


def _cell_text(cell: Any, roomy: bool) -> str:
    if cell.interval == "range":
        bounds = f"{cell.low:.2f} to {cell.high:.2f}\n" if roomy and cell.n > 1 else ""
        return f"{cell.value:.2f}\n{bounds}n = {cell.n}"
    bounds = f"\n[{cell.low:.2f}, {cell.high:.2f}]" if roomy else ""
    return f"{int(cell.count)} of {cell.n}{bounds}"
