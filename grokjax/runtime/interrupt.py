"""Ctrl-C, SIGTERM and SIGHUP: a request where there is something to save, else an end in order.

Handlers set flags and nothing else: Python calls them between any two bytecodes, JAX's callbacks
included, where whatever is raised is lost. It calls none while the main thread compiles, so that a
thread waits for the byte that the signal itself writes, and leaves where nothing is to be saved.

Of several processes one may hear of it first. JAX's preemption service, which then handles SIGTERM
itself, makes all of them stop after the same chunk. Imports no JAX: it is there before JAX is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from grokjax.base.errors import RESUMABLE

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAVING = "stopping: saving after this chunk (Ctrl-C to leave at once)"


class Interrupted(Exception):
    """Training stopped on request; the message says where it will go on."""


class _Watch(threading.Thread):
    """Leaves at the first signal, or, while something is to be saved, at the second Ctrl-C.

    Whatever is on the disk is whole at any moment, and the kernel frees locks.
    """

    def __init__(self, program: str, reader: socket.socket):
        super().__init__(daemon=True)
        self.children: set[subprocess.Popen] = set()
        self._program, self._reader = program, reader
        self._holds, self._said, self._asked = False, "", False

    def hold(self, said: str) -> None:
        """From now on a first signal is answered by a line, if any, and left to others."""
        self._holds, self._said, self._asked = True, said, False

    def release(self) -> None:
        self._holds = False

    def run(self) -> None:
        with self._reader:
            while number := self._reader.recv(1):
                if number[0] in _SIGNALS:
                    self._hear(number[0] == signal.SIGINT)

    def _hear(self, is_ctrl_c: bool) -> None:
        if not self._holds:
            if is_ctrl_c:
                self._leave("stopped", 130)
            self._leave("stopped with nothing to save; the same command goes on", RESUMABLE)
        if is_ctrl_c and self._asked:
            self._leave("stopped at once", 130)
        if self._said and not self._asked:
            with contextlib.suppress(OSError):
                os.write(1, f"\n{self._said}\n".encode())
        self._asked = True

    def _leave(self, said: str, code: int) -> None:
        for child in list(self.children):
            child.terminate()
        with contextlib.suppress(OSError):
            os.write(2, f"{self._program}: {said}\n".encode())
        os._exit(code)


_watch: _Watch | None = None


@contextlib.contextmanager
def ending_in_order(program: str, *, for_good: bool = False) -> Iterator[None]:
    """Within it a signal ends a command with one line, 75 or 130, whatever it is doing.

    Args:
      program: how the line begins.
      for_good: the process ends after it, with a code that no signal is to change any more.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _leave_to_watch) for number in _handled()}
    _watch = _Watch(program, reader)
    _watch.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)
        signal.set_wakeup_fd(wakeup_before)
        _watch = None
        writer.close()


@contextlib.contextmanager
def ended_with_us(child: subprocess.Popen) -> Iterator[None]:
    """Within it a child gets a SIGTERM where a signal ends this process."""
    children: set[subprocess.Popen] = set() if _watch is None else _watch.children
    children.add(child)
    try:
        yield
    finally:
        children.discard(child)


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """A process started within it hears of signals once it is `ending_in_order`, not before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupt:
    """While active, the first signal sets `requested`; another Ctrl-C leaves at once.

    Another SIGTERM does not: schedulers send several, and the chunk is being saved. Of a command,
    until something is held, the first signal already leaves.
    """

    # Counts the calls of all populations: processes agree on one of them, ahead of the newest.
    _chunks = itertools.count(1)

    def __init__(self) -> None:
        self.requested = False
        self._several = _are_several()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        signals = [s for s in _handled() if not (self._several and s == signal.SIGTERM)]
        try:
            self._before = {s: signal.signal(s, self._handle) for s in signals}
        except ValueError:  # not in the main thread: whoever started us decides
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        if self._before and _watch is not None:
            _watch.release()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def hold(self, said: str = _SAVING) -> None:
        """From now on there is something to save: a signal is a request.

        Args:
          said: to who makes it.
        """
        if self._before and _watch is not None:
            _watch.hold("" if self._several else said)

    def reached(self) -> bool:
        """Once in each chunk: whether it is the last. Of several processes all say the same."""
        if not self._several:
            return self.requested
        from jax.experimental import multihost_utils

        from grokjax.runtime.processes import is_primary

        reached = multihost_utils.reached_preemption_sync_point(next(self._chunks))
        if reached and is_primary():
            print("stopping: saving after this chunk", flush=True)
        return reached

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT and _watch is None:  # in a notebook
                raise KeyboardInterrupt
            return
        self.requested = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _are_several() -> bool:
    if "jax" not in sys.modules:  # nobody has joined others; who launches needs no JAX
        return False
    from grokjax.runtime.processes import are_several

    return are_several()


def _handled() -> list[int]:
    """All, but a hang-up that `nohup` has switched off."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [s for s in _SIGNALS if not (ignored and s == signal.SIGHUP)]


def _leave_to_watch(number: int, frame: FrameType | None) -> None:
    """Nothing: the thread has the byte."""
