"""What a waiting user sees: one line, kept current on a terminal and repeated in a log."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from grokjax.base.text import duration, how_far
from grokjax.runtime.processes import is_primary

T = TypeVar("T")
_LOG_EVERY = 10.0  # seconds between lines where the output is not a terminal
_SECONDS = {"s": 1, "min": 60}
_MOST_GROUPS = 4  # that fit a line


class Progress:
    """Step, member-steps per second, time left and the latest accuracies per group.

    On a terminal one line that is kept current and never longer than the terminal is wide; in a log
    a whole line now and then.
    """

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
        self.headlines: Sequence[str] = [""]
        self._start = time.monotonic()
        self._last_line = 0.0
        self._width = 0  # of what stands on the terminal's line

    def update(
        self, step: int, headline: str | Sequence[str] | None = None, last: bool = False
    ) -> None:
        """Shows that `step` is reached; `headline` replaces the metrics shown.

        Of several headlines, longest first, a terminal gets the first that fits.
        """
        if headline is not None:
            self.headlines = [headline] if isinstance(headline, str) else headline
        now = time.monotonic()
        if not (self.terminal or last or now - self._last_line >= _LOG_EVERY):
            return
        self._last_line = now
        start = self._line(step, now - self._start)
        lines = [f"{start}  {text}".rstrip() for text in self.headlines]
        if self.terminal:
            self._show(next((x for x in lines if len(x) < self._columns()), lines[-1]), last)
        else:
            self._write(lines[0] + "\n")

    def note(self, text: str) -> None:
        """What takes long now: on a terminal until the next line, in a log not at all."""
        if self.terminal:
            self._show(text)

    def say(self, text: str) -> None:
        """A line of its own, in place of what a terminal shows now."""
        if self._width:
            self._write("\r" + " " * self._width)
            self._write("\r")
        self._write(text + "\n")
        self._width = 0

    def _show(self, line: str, last: bool = False) -> None:
        """Replaces the terminal's line."""
        line = line[: self._columns() - 1]  # in the last column some terminals wrap
        self._write(f"\r{line}{' ' * max(self._width - len(line), 0)}" + ("\n" if last else ""))
        self._width = 0 if last else len(line)

    def _columns(self) -> int:
        try:
            return max(os.get_terminal_size(self.stream.fileno()).columns, 20)
        except (OSError, ValueError):  # a terminal that does not say, or none
            return 80

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
            f"  ETA {left}"
        )


def told(items: Sequence[T], what: str) -> Iterator[T]:
    """The items; where they take long, a line now and then says how many are done."""
    last = time.monotonic()
    for done, item in enumerate(items):
        if (now := time.monotonic()) - last >= _LOG_EVERY and is_primary():
            print(how_far(what, done, len(items)), flush=True)
            last = now
        yield item


def headlines(groups: Sequence[str], rows: Sequence[dict], metrics: Mapping[str, str]) -> list[str]:
    """Per group, or over all of many, means of what a task is told by.

    Args:
      groups: each row's group, by what is swept.
      rows: the newest curves, one row per run.
      metrics: columns by a word for each.

    Returns:
      The same, in less and less space: in words, as numbers, of all runs together.
    """
    names = list(dict.fromkeys(groups))
    everybody = {"all": list(rows)} if len(names) > 1 else {}
    by_group = {
        name: [row for row, group in zip(rows, groups, strict=True) if group == name]
        for name in names
    }
    few = by_group if len(names) <= _MOST_GROUPS else everybody

    def in_words(name: str, own: Sequence[dict]) -> str:
        means = zip(metrics, _means(own, metrics.values()), strict=True)
        return f"{name}: " + " ".join(f"{word} {mean}" for word, mean in means)

    def in_numbers(name: str, own: Sequence[dict]) -> str:
        return f"{name} {'/'.join(_means(own, metrics.values()))}".strip()

    what = "/".join(metrics)
    shown = [" | ".join(in_words(*group) for group in few.items())]
    shown.append(f"{what} " + " | ".join(in_numbers(*group) for group in few.items()))
    for name, own in (everybody or by_group).items():
        shown += [f"{what} {in_numbers(name, own)}", in_numbers("", own)]
    return shown


def _means(rows: Sequence[dict], metrics: Iterable[str]) -> list[str]:
    means = []
    for metric in metrics:
        found = [row.get(metric) for row in rows]
        values = [v for v in found if v is not None and v == v]
        means.append(f"{sum(values) / len(values):.2f}" if values else "-")
    return means
