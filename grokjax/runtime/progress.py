"""What a waiting user sees: one line, kept current on a terminal and repeated in a log."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from grokjax.base.names import OOD_ACCURACY, OOD_BRIDGE_FOUND, TRAINING_ACCURACY
from grokjax.base.text import duration
from grokjax.runtime.processes import is_primary

T = TypeVar("T")
_LOG_EVERY = 10.0  # seconds between lines where the output is not a terminal
_SECONDS = {"s": 1, "min": 60}
_MOST_GROUPS = 4  # that fit a line


class Progress:
    """Step, member-steps per second, time left and the latest accuracies per group."""

    def __init__(
        self,
        num_runs: int,
        start_step: int,
        num_steps: int,
        stream=None,
        *,
        label: str = "step",
        unit: str = "member-steps",
        per: str = "s",
    ):
        self.num_runs, self.start_step, self.num_steps = num_runs, start_step, num_steps
        self._label, self._unit, self._per = label, unit, per
        self.stream = stream or (sys.stdout if is_primary() else io.StringIO())
        self.terminal = self.stream.isatty()
        self.headline = ""
        self._start = time.monotonic()
        self._last_line = 0.0
        self._width = 0

    def update(self, step: int, headline: str | None = None, last: bool = False) -> None:
        """Shows that `step` is reached; `headline` replaces the metrics shown."""
        self.headline = self.headline if headline is None else headline
        now = time.monotonic()
        if not (self.terminal or last or now - self._last_line >= _LOG_EVERY):
            return
        self._last_line = now
        line = self._line(step, now - self._start)
        if self.terminal:
            padding = " " * max(self._width - len(line), 0)
            self._write(f"\r{line}{padding}" + ("\n" if last else ""))
            self._width = len(line)
        else:
            self._write(line + "\n")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._write(("\n" if self.terminal and self._width else "") + text + "\n")
        self._width = 0

    def _write(self, text: str) -> None:
        """A reader that has gone away (`| head`) is no reason to stop training."""
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(text)
            self.stream.flush()

    def _line(self, step: int, elapsed: float) -> str:
        done = step - self.start_step
        rate = done / elapsed if elapsed > 0 else 0.0
        left = duration((self.num_steps - step) / rate) if rate > 0 else "?"
        return (
            f"{self._label} {step:,}/{self.num_steps:,}"
            f"  {rate * self.num_runs * _SECONDS[self._per]:,.0f} {self._unit}/{self._per}"
            f"  ETA {left}  {self.headline}"
        )


def told(items: Sequence[T], what: str) -> Iterator[T]:
    """The items; where they take long, a line now and then says how many are done."""
    last = time.monotonic()
    for done, item in enumerate(items):
        if (now := time.monotonic()) - last >= _LOG_EVERY and is_primary():
            print(f"{what}: {done:,} of {len(items):,}", flush=True)
            last = now
        yield item


def headline(groups: Sequence[str], rows: Sequence[dict]) -> str:
    """Per group, or over all of many, mean training and OOD accuracy and bridge found.

    Args:
      groups: each row's group (its regime).
      rows: the newest curves, one row per run.
    """
    parts = []
    names = list(dict.fromkeys(groups))
    if len(names) > _MOST_GROUPS:
        groups, names = ["all"] * len(groups), ["all"]
    for group in names:
        own = [row for row, g in zip(rows, groups, strict=True) if g == group]

        def mean(metric: str, own=own) -> str:
            values = [row[metric] for row in own if row.get(metric) == row.get(metric)]
            values = [v for v in values if v is not None]
            return f"{sum(values) / len(values):.2f}" if values else "-"

        parts.append(
            f"{group}: train {mean(TRAINING_ACCURACY)}"
            f" ood {mean(OOD_ACCURACY)}"
            f" bridge {mean(OOD_BRIDGE_FOUND)}"
        )
    return "  |  ".join(parts)
