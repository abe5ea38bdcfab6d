"""What figures are made of: a grid of panels, bands, heat maps, strips of events."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from grokjax.report.style import GREY, PALE, Picture

STEPS = "training step (thousands)"
_LEGEND_LINE, _CAPTION_LINE = 0.24, 0.16  # inches


class Panels:
    """A figure's grid of axes; legend, caption and colour bar get a place of their own around it.

    Args:
      rows, columns: of the grid, `axes[row][column]`.
      width, height: of one panel with its labels, in inches.
      shared: `sharex` and `sharey` as matplotlib takes them.
    """

    def __init__(self, rows: int, columns: int, width: float, height: float, **shared: Any):
        size = (width * columns + 0.3, height * rows + 0.1)
        self.figure = Figure(figsize=size, layout="constrained")
        self.axes = self.figure.subplots(rows, columns, squeeze=False, **shared)

    @classmethod
    def wrapped(cls, num: int, width: float, height: float, **shared: Any) -> Panels:
        """So many panels, at most three beside each other."""
        columns = min(num, 3)
        panels = cls(math.ceil(num / columns), columns, width, height, **shared)
        for axis in panels.axes.flat[num:]:
            axis.set_visible(False)
        return panels

    def __iter__(self) -> Iterator[Axes]:
        """Row by row."""
        return iter(axis for axis in self.axes.flat if axis.get_visible())

    def label(self, x: str = "", y: str = "") -> None:
        """What the axes are, with their units: below the lowest panels and left of the first."""
        for row in self.axes:
            row[0].set_ylabel(y)
        for column in self.axes.T:
            [axis for axis in column if axis.get_visible()][-1].set_xlabel(x)

    def shares(self) -> None:
        """Every panel shows shares."""
        for axis in self:
            axis.set_ylim(-0.03, 1.03)

    def legend(self, handles: Sequence[Any] = ()) -> None:
        """One for all panels, above them: of the handles, or of what has a label in any panel."""
        by_label = {h.get_label(): h for h in handles}
        for axis in () if handles else self:
            by_label = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True)) | by_label
        longest = 0.65 + 0.08 * max(map(len, by_label))  # inches
        lines = math.ceil(len(by_label) / max(self.figure.get_figwidth() // longest, 1))
        self._grow(_LEGEND_LINE * lines)
        self.figure.legend(
            list(by_label.values()),
            list(by_label),
            loc="outside upper center",
            ncols=math.ceil(len(by_label) / lines),
        )

    def caption(self, text: str) -> None:
        """Small print below the panels, as wide as they are."""
        lines = textwrap.wrap(text, int(15.5 * self.figure.get_figwidth()))
        self._grow(_CAPTION_LINE * len(lines))
        place: Any = {"x": 0.01, "ha": "left"} if len(lines) > 1 else {"x": 0.5, "ha": "center"}
        self.figure.supxlabel("\n".join(lines), fontsize=8, **place)

    def colour_bar(self, image: AxesImage, unit: str) -> None:
        """One for all panels, at their right."""
        axes = list(self)
        self.figure.colorbar(image, ax=axes, label=unit, shrink=0.7, aspect=25, pad=0.015)

    def picture(self, table: pd.DataFrame) -> Picture:
        """Done: the figure with the table that it shows."""
        return Picture(self.figure, table)

    def _grow(self, inches: float) -> None:
        self.figure.set_figheight(self.figure.get_figheight() + inches)


def band(
    axis: Axes, x: pd.Series, frame: pd.DataFrame, middle: str = "median", **line: Any
) -> None:
    """A line through `middle` and its band from `low` to `high`."""
    axis.plot(x, frame[middle], linewidth=1.8, **line)
    axis.fill_between(x, frame.low, frame.high, color=line["color"], alpha=0.15, linewidth=0)


def chance_line(axis: Axes, frame: pd.DataFrame) -> None:
    """How often the bridge is found by chance, against training step in thousands."""
    steps = frame.step / 1000
    axis.plot(steps, frame["median"], ":", color=GREY, label="bridge, by chance")


def published_line(axis: Axes, steps: Any, values: Any, curve: str, colour: str) -> None:
    """The paper's run of one curve, thin."""
    steps, label = np.asarray(steps) / 1000, f"published run, {curve}"
    axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.7, label=label)


def heat_map(
    axis: Axes,
    grid: pd.DataFrame,
    scale: dict[str, Any],
    *,
    texts: pd.DataFrame | None = None,
    columns: Sequence[str] = (),
    size: float = 6.5,
) -> AxesImage:
    """Coloured cells with their numbers in them; grey where nothing is defined.

    Args:
      axis: to draw on.
      grid: the cells, with the names of rows and columns.
      scale: colours and limits, as `imshow` takes them.
      texts: of the cells; by default one digit of each number that is 0.1 or more.
      columns: their names, where other ones than the grid's are shown.
      size: of the texts.
    """
    values = grid.to_numpy(float)
    image = axis.imshow(np.ma.masked_invalid(values), aspect="auto", **scale)
    axis.set_facecolor(PALE)
    axis.grid(False)
    for (y, x), value in np.ndenumerate(values):
        if texts is not None:
            text = texts.iloc[y, x]
        else:
            text = f"{value:.1f}".replace("0.", ".") if abs(value) >= 0.1 else ""
        if text:
            colour = _readable_on(image, value)
            axis.text(x, y, text, ha="center", va="center", fontsize=size, color=colour, zorder=4)
    axis.set_xticks(range(grid.shape[1]), list(columns or map(str, grid.columns)), fontsize=7)
    axis.set_yticks(range(grid.shape[0]), list(map(str, grid.index)), fontsize=8)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image


def _readable_on(image: AxesImage, value: float) -> str:
    if math.isnan(value):
        return "black"
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black"


def event_strip(
    axis: Axes,
    places: np.ndarray,
    steps: np.ndarray,
    before: np.ndarray,
    end: float,
    colour: str,
    marker: str,
) -> None:
    """One event of several runs, a marker each, with a bar from the evaluation before.

    Args:
      axis: to draw on.
      places: of the runs, on the vertical axis.
      steps: of the event; inf where it never came, which is drawn hollow beyond the end.
      before: since which step it came; NaN where that is unknown.
      end: the last step of all.
      colour, marker: of the event.
    """
    never = ~np.isfinite(steps)
    at = np.where(never, 1.12 * end, steps)
    axis.hlines(places, np.where(never | np.isnan(before), at, before), at, color=colour, lw=1.2)
    for chosen, fill in ((~never, "full"), (never, "none")):
        axis.plot(
            at[chosen], places[chosen], marker, color=colour, markersize=5, fillstyle=fill
        )  # fmt: skip
    axis.axvline(1.06 * end, color=GREY, linewidth=0.8, linestyle=":")
