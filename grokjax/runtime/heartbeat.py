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
from grokjax.base.names import RUNNING

STATUS = "status.json"
JOB = "GROKJAX_JOB"  # environment: what the scheduler calls the job
ATTEMPT = "GROKJAX_ATTEMPT"  # how often it has started the job again
STALE_AFTER = 60.0  # seconds without a beat: whoever trained is dead
_EVERY = 5.0
_RUNNING, _ENDED = RUNNING, "ended"
SAVED = "saved"  # ended on request: the same command goes on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beat:
    """Who trains a population, where, and how far it is (rate: member-steps per second).

    start: of the process, in clock ticks since its machine was started: a pid is given again.
    """

    state: str
    job: str
    attempt: int = 0
    host: str
    pid: int
    start: int = 0
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
        if not isinstance(self.attempt, int) or not isinstance(self.start, int):
            raise ValueError("a beat's attempt and start are whole numbers")
        if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            raise ValueError("a beat's step, rate and time are finite numbers")

    @property
    def is_alive(self) -> bool:
        """Whether its process still trains, as far as anyone can tell from here."""
        return self.state == _RUNNING and self.age <= STALE_AFTER and self.may_exist

    @property
    def age(self) -> float:
        """Seconds; one whose file too is of a clock that is ahead counts as of now."""
        return max(time.time() - self.time, 0.0)

    @property
    def may_exist(self) -> bool:
        """Whether its process exists, or is on another machine."""
        if self.host != socket.gethostname():
            return True
        return _exists(self.pid) and self.start in (0, process_start(self.pid))

    @property
    def whose(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")


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
            attempt=_attempt(),
            host=socket.gethostname(),
            pid=os.getpid(),
            start=process_start(os.getpid()),
            step=self._step,
            rate=round(self._rate, 3),
            time=time.time(),
        )
        write_atomically(self._path, json.dumps(dataclasses.asdict(beat)) + "\n")


def read_beat(folder: str | os.PathLike) -> Beat | None:
    """The last sign of life in a population's folder; None if there is none that can be read.

    One of a clock that is ahead is as old as its file: nobody need wait for the time that it says.
    """
    path = pathlib.Path(folder) / STATUS
    try:
        beat, written = Beat(**read_json(path)), path.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return None
    if written < time.time() < beat.time:
        return dataclasses.replace(beat, time=written)
    return beat


def require_free(folder: str | os.PathLike) -> None:
    """Waits, a minute at most, until it is clear that nobody else trains in `folder`.

    A process on another machine that was killed looks alive until its last beat is stale, a minute
    from now at most, whatever its clock says; the same job, started again, need not wait for
    itself.

    Raises:
      UserError: somebody does.
    """
    first = read_beat(folder)
    if first is None or (first.job and first.job == os.environ.get(JOB)):
        return
    if not first.is_alive:
        return
    left = STALE_AFTER - first.age
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
    print(
        f"{folder}: waiting until {until} for a sign of life of {first.whose}; if there is none, it"
        " is dead",
        flush=True,
    )
    end, said = time.monotonic() + left, _content(folder)
    while time.monotonic() < end and (beat := read_beat(folder)) is not None and beat.is_alive:
        if _content(folder) not in (said, b""):
            raise UserError(f"{folder}: being trained by {beat.whose}; wait for it, or stop it")
        time.sleep(_EVERY / 10)


def _content(folder: str | os.PathLike) -> bytes:
    """What a beat's file says, whatever the clocks have come to since."""
    try:
        return (pathlib.Path(folder) / STATUS).read_bytes()
    except OSError:
        return b""


def process_start(pid: int) -> int:
    """When a process of this machine began, in clock ticks; 0 where nobody says."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _attempt() -> int:
    text = os.environ.get(ATTEMPT, "")
    return int(text) if text.isdecimal() else 0


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
