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

from grokjax.report.style import (
    BAND_FROM,
    GREY,
    PALE,
    SCREEN,
    SMALL,
    TINY,
    Picture,
    current_look,
)

STEPS = "training step (thousands)"
_LEGEND_LINE, _CAPTION_LINE = 0.24, 0.16  # inches
_LEAST = 0.5  # of its size on a screen that a panel has on paper


class Panels:
    """A figure's grid of axes; legend, caption and colour bar get a place of their own around it.

    On paper the whole is as wide as a column or a page, whatever its panels ask for.

    Args:
      rows, columns: of the grid, `axes[row][column]`.
      width, height: of one panel with its labels, in inches.
      shared: `sharex` and `sharey` as matplotlib takes them.
    """

    def __init__(self, rows: int, columns: int, width: float, height: float, **shared: Any):
        wide, high = width * columns + 0.3, height * rows + 0.1
        scale, self._shrunk = 1.0, 1.0
        if widths := current_look().widths:
            self._shrunk = current_look().font / SCREEN.font
            fitting = [w for w in widths if w >= _LEAST * wide] or [max(widths)]
            scale = min(fitting) / wide
            high *= max(min(scale, 1.0), _LEAST)
        self.figure = Figure(figsize=(wide * scale, high), layout="constrained")
        self.axes = self.figure.subplots(rows, columns, squeeze=False, **shared)

    @classmethod
    def wrapped(
        cls, num: int, width: float, height: float, *, most: int = 3, rows: int = 1, **shared: Any
    ) -> Panels:
        """So many cells, at most so many beside each other, of so many panels one above another."""
        columns = max(min(num, most), 1)
        panels = cls(math.ceil(num / columns) * rows, columns, width, height, **shared)
        used = {(i // columns * rows + row, i % columns) for i in range(num) for row in range(rows)}
        for (row, column), axis in np.ndenumerate(panels.axes):
            axis.set_visible((row, column) in used)
        return panels

    def cell(self, i: int, rows: int = 1) -> Sequence[Axes]:
        """The panels of the i-th cell of a wrapped grid, from the top down."""
        columns = self.axes.shape[1]
        top = i // columns * rows
        return list(self.axes[top : top + rows, i % columns])

    def __iter__(self) -> Iterator[Axes]:
        """Row by row."""
        return iter(axis for axis in self.axes.flat if axis.get_visible())

    def title(self, axis: Axes, text: str, beside: float = 0.0) -> None:
        """Broken where it is wider than a panel; `beside` all of them, so many inches are taken."""
        free = self.figure.get_figwidth() - beside * self._shrunk
        wide = free / self.axes.shape[1] / (0.082 * self._shrunk)
        axis.set_title("\n".join(textwrap.wrap(text, int(wide))))

    def label(self, x: str = "", y: str = "") -> None:
        """What the axes are, with their units: below the lowest panels and left of the first."""
        for row in self.axes:
            row[0].set_ylabel(y)
        for column in self.axes.T:
            lowest = [axis for axis in column if axis.get_visible()][-1]
            lowest.set_xlabel(x)
            lowest.tick_params(labelbottom=True)

    def shares(self) -> None:
        """Every panel shows shares."""
        for axis in self:
            axis.set_ylim(-0.03, 1.03)
            axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])

    def legend(self, handles: Sequence[Any] = ()) -> None:
        """One for all panels, above them: of the handles, or of what has a label in any panel."""
        by_label = {h.get_label(): h for h in handles}
        for axis in () if handles else self:
            found = zip(*axis.get_legend_handles_labels()[::-1], strict=True)
            by_label |= {label: handle for label, handle in found if label not in by_label}
        if not by_label:
            return
        longest = (0.75 + 0.075 * max(map(len, by_label))) * self._shrunk  # inches
        columns = max(min(int(self.figure.get_figwidth() / longest), len(by_label)), 1)
        lines = math.ceil(len(by_label) / columns)
        self._grow(_LEGEND_LINE * lines)
        self.figure.legend(
            list(by_label.values()),
            list(by_label),
            loc="outside upper center",
            ncols=math.ceil(len(by_label) / lines),
        )

    def caption(self, text: str) -> None:
        """Small print below the panels, as wide as they are."""
        lines = textwrap.wrap(text, int(15.0 * self.figure.get_figwidth() / self._shrunk))
        self._grow(_CAPTION_LINE * len(lines))
        place: Any = {"x": 0.01, "ha": "left"} if len(lines) > 1 else {"x": 0.5, "ha": "center"}
        self.figure.supxlabel("\n".join(lines), fontsize="small", **place)

    def colour_bar(self, image: AxesImage, unit: str, null: float = math.nan) -> None:
        """One for all panels, at their right; a line where the null is, if it is on the scale."""
        bar = self.figure.colorbar(
            image, ax=list(self), label=unit, shrink=0.7, aspect=25, pad=0.015
        )
        lowest, highest = bar.ax.get_ylim()
        if lowest <= null <= highest:
            bar.ax.axhline(null, color="white", linewidth=3)  # on any colour of the scale
            bar.ax.axhline(null, color="black", linewidth=1.2)
            bar.ax.annotate(
                "null ", (0, null), xycoords=("axes fraction", "data"), ha="right", va="center",
                fontsize="x-small", annotation_clip=False,
            )  # fmt: skip

    def picture(self, table: pd.DataFrame) -> Picture:
        """Done: the figure with the table that it shows."""
        return Picture(self.figure, table)

    def _grow(self, inches: float) -> None:
        self.figure.set_figheight(self.figure.get_figheight() + inches * self._shrunk)


def lines(
    axis: Axes,
    runs: pd.DataFrame,
    metric: str,
    *,
    unit: float = 1000.0,
    each: bool = True,
    **line: Any,
) -> None:
    """One metric of a group: every run as a thin line under their median, or many as bands.

    The median goes as far as all runs do, each at its last value once it has left early
    (`held_curves`). From `BAND_FROM` runs on a band holds the middle 80 %, and from ten times as
    many on another one the middle half.

    Args:
      axis: to draw on.
      runs: run_id, step and the metric.
      metric: a column.
      unit: of the horizontal axis, in steps.
      each: whether runs are drawn at all.
      line: the median's style and label.
    """
    grid = runs.pivot(index="step", columns="run_id", values=metric)
    if grid.empty:
        return
    x, style = grid.index.to_numpy() / unit, {k: v for k, v in line.items() if k != "label"}
    num = grid.shape[1]
    middle = grid.median(axis=1).where(grid.notna().all(axis=1))
    if 1 < num < BAND_FROM and each:
        for _, run in grid.items():
            known = run.notna().to_numpy()
            axis.plot(x[known], run[known], **style | {"linewidth": 0.6, "alpha": 0.45})
    if num >= BAND_FROM and each:
        for share in (0.8, 0.5) if num >= 10 * BAND_FROM else (0.8,):
            low, high = grid.quantile([(1 - share) / 2, (1 + share) / 2], axis=1).to_numpy()
            axis.fill_between(
                x, low, high, where=middle.notna(), color=line["color"], alpha=0.15, linewidth=0
            )
    if num == 1:  # it goes as far as it goes
        middle = grid.iloc[:, 0]
    axis.plot(x, middle, **line)


def chance_line(axis: Axes, frame: pd.DataFrame, label: str, dashes: Any = ":") -> None:
    """How often the bridge is found by chance, against training step in thousands."""
    axis.plot(frame.step / 1000, frame["median"], linestyle=dashes, color=GREY, label=label)


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
    rows: Sequence[str] = (),
    size: str | float = "xx-small",
) -> AxesImage:
    """Coloured cells with their numbers in them; grey where nothing is defined.

    Args:
      axis: to draw on.
      grid: the cells, with the names of rows and columns.
      scale: colours and limits, as `imshow` takes them.
      texts: of the cells; by default one digit of each number that is 0.1 or more.
      columns, rows: their names, where other ones than the grid's are shown.
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
    names = TINY if grid.shape[1] > 8 else SMALL
    axis.set_xticks(range(grid.shape[1]), list(columns or map(str, grid.columns)), fontsize=names)
    axis.set_yticks(range(grid.shape[0]), list(rows or map(str, grid.index)), fontsize=SMALL)
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
