"""What all pictures share: their look, and the table that lies beside each."""

from __future__ import annotations

import io
import os
import pathlib
import textwrap
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
# Okabe and Ito's colours, told apart by line style or marker as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


class Picture(NamedTuple):
    """A figure and the table that it shows; a notebook displays it as it is."""

    figure: Figure
    data: pd.DataFrame

    def save(self, path: str | os.PathLike) -> pathlib.Path:
        """The picture, and the table beside it as `.csv`."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=150)
        self.data.to_csv(path.with_suffix(".csv"), index=False)
        return path

    def png(self) -> bytes:
        """The picture alone, at a screen's resolution."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def band(axis: Any, frame: pd.DataFrame, label: str, colour: str, style: Any) -> None:
    """A median line and its band, from `curves.bands`, against training step in thousands."""
    thousands = frame.step / 1000
    axis.plot(thousands, frame["median"], linestyle=style, color=colour, label=label, linewidth=1.8)
    axis.fill_between(thousands, frame.low, frame.high, color=colour, alpha=0.18, linewidth=0)


def wrap(text: str, width: int) -> str:
    """A caption in lines."""
    return "\n".join(textwrap.wrap(text, width))


def span(values: pd.Series) -> str:
    """`4`, or `55 to 64`."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
