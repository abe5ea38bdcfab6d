"""Whether a figure's texts are where a reader can read them."""

from __future__ import annotations

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def laid_out(figure: Figure) -> Figure:
    """With every text at its place, as the functions below want it."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


def texts_outside(figure: Figure) -> list[str]:
    """Texts that the figure's edge cuts off."""
    width, height = figure.bbox.width, figure.bbox.height
    return [
        text.get_text()
        for text in _shown(figure)
        if not _inside(text.get_window_extent(), width, height)
    ]


def texts_that_overlap(figure: Figure) -> list[tuple[str, str]]:
    """Titles that run into each other, and entries of the legend."""
    titles = [axis.title for axis in figure.axes if axis.get_visible() and axis.title.get_text()]
    entries = [text for legend in figure.legends for text in legend.get_texts()]
    return [
        (a.get_text(), b.get_text())
        for a, b in itertools.combinations([*titles, *entries], 2)
        if a.get_window_extent().overlaps(b.get_window_extent())
    ]


def _shown(figure: Figure) -> list[Text]:
    """All but the labels of ticks beyond an axis's limits, which are never drawn."""
    found = [text for legend in figure.legends for text in legend.get_texts()]
    found += [*figure.texts, *filter(None, [getattr(figure, "_supxlabel", None)])]
    for axis in (axis for axis in figure.axes if axis.get_visible()):
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        for which, names, limits in (
            (0, axis.get_xticklabels(), axis.get_xlim()),
            (1, axis.get_yticklabels(), axis.get_ylim()),
        ):
            low, high = sorted(limits)
            found += [text for text in names if low <= text.get_position()[which] <= high]
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def _inside(box, width: float, height: float) -> bool:
    slack = 3.0
    return (
        box.x0 >= -slack
        and box.y0 >= -slack
        and box.x1 <= width + slack
        and box.y1 <= height + slack
    )
