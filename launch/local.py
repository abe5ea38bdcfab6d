"""This machine: a worker process per set of devices, each with the next row of the queue."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from grokjax.base.errors import RESUMABLE, UserError
from grokjax.runtime.heartbeat import JOB, process_start, read_beat
from grokjax.runtime.interrupt import Interrupt, withheld
from grokjax.sweeps.plan import population_folder
from launch.books import books_folder
from launch.job import Job, single_process

_POLL = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class DeviceSet:
    """What one worker sees: accelerators by number, or cores."""

    platform: str
    ids: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What hides the other accelerators from the worker."""
        ids = ",".join(map(str, self.ids))
        if self.platform == "gpu":
            return {"CUDA_VISIBLE_DEVICES": ids}
        if self.platform == "tpu":
            bounds = f"1,{len(self.ids)},1"
            return {
                "TPU_VISIBLE_CHIPS": ids,
                "TPU_CHIPS_PER_PROCESS_BOUNDS": bounds,
                "TPU_PROCESS_BOUNDS": "1,1,1",
            }
        return {"JAX_PLATFORMS": "cpu"}

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        """A process started within it keeps to the set's cores."""
        before = os.sched_getaffinity(0)
        if self.platform == "cpu":
            os.sched_setaffinity(0, self.ids)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def worker(self, job: Job, population: str) -> list[str]:
        """The row's command on these devices; cores are not counted, they may be overridden."""
        count = 0 if self.platform == "cpu" else len(self.ids)
        own = dataclasses.replace(job, platform=self.platform, devices_per_node=count)
        return own.worker(population)

    def __str__(self) -> str:
        return f"{self.platform} {','.join(map(str, self.ids))}"


def device_sets(num_workers: int = 0) -> list[DeviceSet]:
    """Shares this machine's devices out.

    Args:
      num_workers: 0: one for each accelerator, or one with all cores.

    Raises:
      UserError: there are fewer devices, or they cannot be shared evenly.
    """
    platform, ids = _devices()
    if num_workers < 0:
        raise UserError(f"--workers={num_workers}: must be at least 1")
    num_workers = num_workers or (1 if platform == "cpu" else len(ids))
    size, rest = divmod(len(ids), num_workers)
    if not size or (rest and platform != "cpu"):
        unit = "cores" if platform == "cpu" else f"{platform} devices"
        raise UserError(f"--workers={num_workers}: {len(ids)} {unit} cannot be shared out evenly")
    return [DeviceSet(platform, tuple(ids[i * size : (i + 1) * size])) for i in range(num_workers)]


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """What this machine is told beyond the job: workers, 0 for one per accelerator."""

    workers: int = 0


class Pool:
    """Workers, one per device set, and the rows that wait for them.

    Args:
      job: its rows are the queue.
      sets: devices.
    """

    def __init__(self, job: Job, sets: Sequence[DeviceSet]):
        self._job, self._sets = job, sets
        self._waiting = list(job.populations)
        self._workers: dict[DeviceSet, tuple[str, subprocess.Popen]] = {}
        self._failed: list[str] = []
        self._stopping = False

    def run(self) -> int:
        """Trains all rows of the queue.

        Returns:
          0, 1 if rows failed, 75 if Ctrl-C or SIGTERM came: all workers have saved by then.
        """
        with Interrupt() as interrupt:
            interrupt.hold("stopping: the workers save after this chunk (Ctrl-C to go before them)")
            while self._workers or (self._waiting and not self._stopping):
                self._fill()
                time.sleep(_POLL)
                if interrupt.requested and not self._stopping:
                    self._stop()
                self._collect()
        if self._stopping:
            return RESUMABLE
        return 1 if self._failed else 0

    def _fill(self) -> None:
        for own in self._sets:
            if self._waiting and not self._stopping and own not in self._workers:
                population = self._waiting.pop(0)
                self._workers[own] = (population, self._start(population, own))

    def _start(self, population: str, own: DeviceSet) -> subprocess.Popen:
        log = books_folder(self._job.workdir) / "logs" / f"local_{population}.out"

        print(f"population {population}: started on {own} ({log})", flush=True)
        with open(log, "a") as file, own.bound(), withheld():
            return subprocess.Popen(
                own.worker(self._job, population),
                env=single_process(os.environ) | own.environment | {JOB: f"local:{os.getpid()}"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, once
            )

    def _collect(self) -> None:
        for own, (population, worker) in list(self._workers.items()):
            if (code := worker.poll()) is None:
                continue
            del self._workers[own]
            if code not in (0, RESUMABLE):
                self._failed.append(population)
            ends = {0: "done", RESUMABLE: "saved; the same command goes on"}
            end = ends.get(code, f"failed with exit code {code}; see its log")
            print(f"population {population}: {end}", flush=True)

    def _stop(self) -> None:
        self._stopping = True
        for _, worker in self._workers.values():
            worker.terminate()


def describe(job: Job, sets: Sequence[DeviceSet]) -> str:
    """What would be run, on which devices."""
    lines = [f"worker {i}: {own}" for i, own in enumerate(sets)]
    lines += [shlex.join(sets[0].worker(job, population)) for population in job.populations]
    return "\n".join(lines) + "\n"


def identity() -> dict[str, Any]:
    """Of this launcher, for the books."""
    pid = os.getpid()
    own = {"host": socket.gethostname(), "pid": pid, "start": process_start(pid)}
    return {"job": f"local:{pid}", **own}


def stop_launcher(entries: Sequence[dict[str, Any]]) -> None:
    """A SIGTERM to the launcher that was recorded last, if it is on this machine."""
    own = [entry for entry in entries if entry["launcher"] == "local"]
    if own and own[-1]["host"] == socket.gethostname():
        _terminate(own[-1]["pid"], own[-1]["start"])


def stop(workdir: pathlib.Path, populations: Sequence[str]) -> dict[str, str]:
    """A SIGTERM to every worker of these rows on this machine.

    Returns:
      Where the others are, by row.
    """
    elsewhere = {}
    for population in populations:
        beat = read_beat(population_folder(workdir, population))
        if beat is None or not beat.is_alive:
            continue
        if beat.host != socket.gethostname():
            elsewhere[population] = f"on another machine ({beat.job or beat.whose}); stop it there"
        elif not _terminate(beat.pid, beat.start):
            elsewhere[population] = f"process {beat.pid} is no worker of ours; it is left alone"
    return elsewhere


def _terminate(pid: int, start: int) -> bool:
    """A SIGTERM, if the process still is the one that wrote down its number.

    Returns:
      Whether it is: one of our commands, begun when that one was.
    """
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)  # from here on the number is nobody else's
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            programs = {pathlib.PurePath(word).name for word in command.split("\0")[:4]}
            if start and process_start(pid) == start and programs & {"grokjax", "launch"}:
                signal.pidfd_send_signal(process, signal.SIGTERM)
                return True
        finally:
            os.close(process)
    return False


def _devices() -> tuple[str, list[int]]:
    """Accelerators of this machine, else its cores; without asking JAX, which would take them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if os.environ.get("JAX_PLATFORMS", "") != "cpu":
        if visible and re.fullmatch(r"\d+(,\d+)*", visible):
            return "gpu", [int(i) for i in visible.split(",")]
        if gpus := _listed_gpus():
            return "gpu", list(range(gpus))
        chips = [*pathlib.Path("/dev").glob("accel[0-9]*")]
        chips = chips or [*pathlib.Path("/dev/vfio").glob("[0-9]*")]
        if chips:
            return "tpu", list(range(len(chips)))
    return "cpu", sorted(os.sched_getaffinity(0))


def _listed_gpus() -> int:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0
