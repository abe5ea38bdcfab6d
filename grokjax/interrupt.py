"""Ctrl-C and SIGTERM as a request: the loop finishes its chunk, saves and leaves.

Of several processes one may hear of it first. JAX's preemption service, which then handles SIGTERM
itself, makes all of them stop after the same chunk.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from grokjax.distributed import are_several, is_primary

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

    # Counts the calls of all populations: processes agree on one of them, ahead of the newest.
    _chunks = itertools.count(1)

    def __init__(self) -> None:
        self.requested = False
        self._several = are_several()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        signals = [signal.SIGINT] if self._several else [signal.SIGINT, signal.SIGTERM]
        try:
            self._before = {s: signal.signal(s, self._handle) for s in signals}
        except ValueError:  # not in the main thread: whoever started us decides
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def reached(self) -> bool:
        """Once in each chunk: whether it is the last. Of several processes all say the same."""
        if not self._several:
            return self.requested
        reached = multihost_utils.reached_preemption_sync_point(next(self._chunks))
        if reached and is_primary():
            print("stopping: saving after this chunk", flush=True)
        return reached

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        print("\nstopping: saving after this chunk (again to leave at once)", flush=True)
