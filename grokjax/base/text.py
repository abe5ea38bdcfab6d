"""Tables and durations as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# What moves a terminal's cursor, colours, renames or reverses; a line's end and a tab may stay.
_CONTROLS = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "\N{REPLACEMENT CHARACTER}",
)


class Plain:
    """A stream that takes no control characters from names and texts that others have written.

    Args:
      stream: to write to; a carriage return may begin what is written, as progress does.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        start = "\r" * text.startswith("\r")
        self._stream.write(start + text.removeprefix("\r").translate(_CONTROLS))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h` or `2.1 days`."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            digits = 1 if name == "h" else 0
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86_400:,.1f} days"


HOW_FAR = r"[a-z. ]+: [\d,]+ of [\d,]+"  # as another process knows a line of `how_far`


def how_far(what: str, done: int, total: int) -> str:
    """`rows read: 1,000 of 3,000`."""
    return f"{what}: {done:,} of {total:,}"


def counted(num: int, noun: str) -> str:
    """`1 run`, `2 runs`, `1,000 runs`."""
    return f"{num:,} {noun}{'s' * (num != 1)}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, its columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ((cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return ["  ".join(row).rstrip() for row in cells]
