"""The look of all figures, on a screen and on paper, and the table that lies beside each."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by line style or marker as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
BLUE, ORANGE, GREEN, PINK, AMBER, BLACK = COLOURS
GREY, PALE = "#999999", "#dddddd"
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
SHARE: Any = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0}  # scales of heat maps
EFFECT: Any = {"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0}

# From so many runs on a group is drawn as a band; fewer are drawn one by one.
BAND_FROM = 10
SMALL, TINY = "small", "x-small"  # of the font's size


@dataclasses.dataclass(frozen=True)
class Look:
    """What figures are made for.

    font: size in points. line: its width in points. widths: that a figure may have, in inches;
    none: what its panels ask for. formats: of the files.
    """

    font: float
    line: float
    widths: tuple[float, ...] = ()
    formats: tuple[str, ...] = ("png",)


SCREEN = Look(10.0, 1.8)
# One column and the text's whole width, as ACL, ICML and NeurIPS have them.
PAPER = Look(7.5, 1.2, (3.3, 6.75), ("pdf", "png"))
LOOKS = {"screen": SCREEN, "paper": PAPER}
_look: contextvars.ContextVar[Look] = contextvars.ContextVar("look", default=SCREEN)

_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "pdf.fonttype": 42,  # text stays text
}
_Draw = TypeVar("_Draw", bound=Callable[..., Any])


@contextlib.contextmanager
def looking(look: Look) -> Iterator[None]:
    """Figures that are drawn inside have this look."""
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def current_look() -> Look:
    """The look that is asked for now."""
    return _look.get()


def in_style(draw: _Draw) -> _Draw:
    """Decorates what draws: `@in_style`."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        look = _look.get()
        own: Any = {"font.size": look.font, "lines.linewidth": look.line}
        with matplotlib.rc_context(_STYLE | own):
            return draw(*args, **kwargs)

    return drawn  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure and the table that it shows; a notebook displays it as it is."""

    figure: Figure
    data: pd.DataFrame

    @functools.cached_property
    def png(self) -> bytes:
        """The picture alone, sharp on paper and on fine screens."""
        return self._drawn("png", dpi=150 if self.figure.get_figwidth() > 7 else 300)

    def _drawn(self, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(buffer, format=form, **options)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike, table: str | None = None) -> pathlib.Path:
        """The picture, and its table beside it: `.csv` of the same name unless told otherwise."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.png if path.suffix == ".png" else self._drawn(path.suffix[1:]))
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
    return line(i) | {"marker": MARKERS[(i + i // len(MARKERS)) % len(MARKERS)]}


# Each of these has its own line, on every page.
_REGIMES = ("natural", "both_hop_full", "second_hop_full", "both_hop_half", "first_hop_full")


def styles(groups: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A marked line for each group; a regime has its own on every page, others what is left."""
    names = list(dict.fromkeys(groups))
    fixed = {name: i for i, name in enumerate(_REGIMES) if name in names}
    left = iter(i for i in range(len(names) + len(fixed)) if i not in fixed.values())
    return {name: marked_line(fixed[name] if name in fixed else next(left)) for name in names}


def span(values: pd.Series) -> str:
    """`4`, or `55 to 64`."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
