"""Tables and durations as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h` or `2.1 days`."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            digits = 1 if name == "h" else 0
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86_400:,.1f} days"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, its columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ((cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return ["  ".join(row).rstrip() for row in cells]
