"""`status.json`: a sign of life in a population's folder; it tells running from dead."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import socket
import threading
import time

from grokjax.base.errors import UserError
from grokjax.base.files import read_json, write_atomically

STATUS = "status.json"
JOB = "GROKJAX_JOB"  # environment: what the scheduler calls the job
STALE_AFTER = 60.0  # seconds without a beat: whoever trained is dead
_EVERY = 5.0
_RUNNING, _ENDED = "running", "ended"
SAVED = "saved"  # ended on request: the same command goes on


@dataclasses.dataclass(frozen=True)
class Beat:
    """Who trains a population, where, and how far it is (rate: member-steps per second)."""

    state: str
    job: str
    host: str
    pid: int
    step: int
    rate: float
    time: float

    def __post_init__(self) -> None:
        """Who reads a file that anybody may have written sends signals to this process."""
        texts, numbers = (self.state, self.job, self.host), (self.step, self.rate, self.time)
        if not all(isinstance(x, str) for x in texts):
            raise ValueError("a beat's state, job and host are texts")
        if not isinstance(self.pid, int) or not 0 < self.pid < 2**31:
            raise ValueError("a beat's pid is none")
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise ValueError("a beat's step, rate and time are finite numbers")

    @property
    def is_alive(self) -> bool:
        """Whether its process still trains, as far as anyone can tell from here."""
        if self.state != _RUNNING or time.time() - self.time > STALE_AFTER:
            return False
        return self.host != socket.gethostname() or _exists(self.pid)


class Heartbeat:
    """While active, renews `status.json` every few seconds, through long compilations too.

    Args:
      folder: of a population; made if need be.
      num_runs: of the population.
    """

    def __init__(self, folder: str | os.PathLike, num_runs: int):
        self._path = pathlib.Path(folder) / STATUS
        self._num_runs = num_runs
        self._first: tuple[int, float] | None = None
        self._step, self._rate = 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._thread.is_alive():
            return
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._write(_ENDED)

    def update(self, step: int) -> None:
        """Notes that `step` is reached; the first time it begins to beat.

        Training calls it once it holds the folder: before that the beat is somebody else's.
        """
        now = time.monotonic()
        self._first = self._first or (step, now)
        first_step, start = self._first
        if now > start:
            self._rate = (step - first_step) * self._num_runs / (now - start)
        self._step = step
        if not self._thread.is_alive():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(_RUNNING)
            self._thread.start()

    def note_saved(self) -> None:
        """Says that training has ended on request; schedulers go by it to start it again."""
        self._write(SAVED)

    def _beat(self) -> None:
        while not self._over.wait(_EVERY):
            with contextlib.suppress(OSError):  # a full disk is the checkpoints' to report
                self._write(_RUNNING)

    def _write(self, state: str) -> None:
        beat = Beat(
            state=state,
            job=os.environ.get(JOB, ""),
            host=socket.gethostname(),
            pid=os.getpid(),
            step=self._step,
            rate=round(self._rate, 3),
            time=time.time(),
        )
        write_atomically(self._path, json.dumps(dataclasses.asdict(beat)) + "\n")


def read_beat(folder: str | os.PathLike) -> Beat | None:
    """The last sign of life in a population's folder; None if there is none that can be read."""
    try:
        return Beat(**read_json(pathlib.Path(folder) / STATUS))
    except (OSError, ValueError, TypeError):
        return None


def require_free(folder: str | os.PathLike) -> None:
    """Waits, a minute at most, until it is clear that nobody else trains in `folder`.

    A process on another machine that was killed looks alive until its last beat is stale; the
    same job, started again, need not wait for itself.

    Raises:
      UserError: somebody does.
    """
    first = read_beat(folder)
    if first is None or (first.job and first.job == os.environ.get(JOB)):
        return
    while (beat := read_beat(folder)) is not None and beat.is_alive:
        if beat.time != first.time:
            by = f"process {beat.pid} on {beat.host}" + (f", job {beat.job}" if beat.job else "")
            raise UserError(f"{folder}: being trained by {by}; wait for it, or stop it")
        time.sleep(_EVERY / 10)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
