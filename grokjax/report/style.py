"""The look of all figures, and the table that lies beside each."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import pathlib
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by line style or marker as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
BLUE, ORANGE, *_, BLACK = COLOURS
GREY, PALE = "#999999", "#dddddd"
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
SHARE: Any = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0}  # scales of heat maps
EFFECT: Any = {"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0}

# Decorates what draws: `@in_style`.
in_style = matplotlib.rc_context(
    {
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "legend.fontsize": 9,
        "legend.frameon": False,
    }
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure and the table that it shows; a notebook displays it as it is."""

    figure: Figure
    data: pd.DataFrame

    @functools.cached_property
    def png(self) -> bytes:
        """The picture alone, sharp on paper and on fine screens."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike, table: str | None = None) -> pathlib.Path:
        """The picture, and its table beside it: `.csv` of the same name unless told otherwise."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.png)
        self.data.to_csv(path.with_name(table or f"{path.stem}.csv"), index=False)
        return path

    def _repr_png_(self) -> bytes:
        return self.png


def line(i: int) -> dict[str, Any]:
    """Colour and dashes that tell the i-th line from all others, up to 36."""
    dashes = LINES[(i + i // len(LINES)) % len(LINES)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": dashes}


def marked_line(i: int) -> dict[str, Any]:
    """The same with a marker, for few points."""
    return line(i) | {"marker": MARKERS[i % len(MARKERS)]}


def span(values: pd.Series) -> str:
    """`4`, or `55 to 64`."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
