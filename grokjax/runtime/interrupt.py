"""Ctrl-C and SIGTERM as a request: the loop finishes its chunk, saves and leaves.

Of several processes one may hear of it first. JAX's preemption service, which then handles SIGTERM
itself, makes all of them stop after the same chunk.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from grokjax.runtime.processes import are_several, is_primary


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
    """While active, the first Ctrl-C or SIGTERM sets `requested`; another Ctrl-C leaves at once.

    Another SIGTERM does not: schedulers send several, and the chunk is being saved.
    """

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
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        print("\nstopping: saving after this chunk (Ctrl-C to leave at once)", flush=True)


@contextlib.contextmanager
def second_ctrl_c_exits() -> Iterator[None]:
    """Within it a second Ctrl-C ends the process, whatever it is doing; for commands.

    Python runs its handlers between bytecodes, of which a chunk of steps has none. So a thread
    waits for the byte that the signal itself writes. Nothing is lost but the chunk: whatever is on
    the disk is whole at any moment.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    try:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    except ValueError:  # not in the main thread
        before = None
    threading.Thread(target=_exit_at_second, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        if before is not None:
            signal.set_wakeup_fd(before)
        writer.close()


def _exit_at_second(reader: socket.socket) -> None:
    requested = False
    with reader:
        while number := reader.recv(1):
            if requested and number[0] == signal.SIGINT:
                os.write(2, b"grokjax: stopped at once\n")
                os._exit(130)
            requested |= number[0] in (signal.SIGINT, signal.SIGTERM)
