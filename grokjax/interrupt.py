"""Ctrl-C and SIGTERM as a request: the loop finishes its chunk, saves and leaves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 75  # the run can be resumed (EX_TEMPFAIL)


class Interrupted(Exception):
    """Training stopped on request; the message says where it will go on."""


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """While nothing is there to save (imports, compilation) SIGTERM raises `Interrupted`."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped before training began; the same command begins again")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupt:
    """While active, the first Ctrl-C or SIGTERM sets `requested`; a second one leaves at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        try:
            self._before = {s: signal.signal(s, self._handle) for s in self._SIGNALS}
        except ValueError:  # not in the main thread: whoever started us decides
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping: saving after this chunk (again to leave at once)", flush=True)
