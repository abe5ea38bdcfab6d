"""Several processes, one per host: how they find each other, and what they decide together.

All run the same program on the same inputs. Each holds its own runs' shards; process 0 alone
writes tables. With one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from grokjax.base.errors import UserError
from grokjax.runtime.private_jax import GceTpuCluster, GkeTpuCluster, OmpiCluster, SlurmCluster

T = TypeVar("T")

HEARTBEAT_SECONDS = 30  # of silence, after which the others leave a dead process
_ENV = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CONNECT_ENV = "GROKJAX_CONNECT_SECONDS"
_CLUSTERS = (SlurmCluster, OmpiCluster, GkeTpuCluster, GceTpuCluster)


@dataclasses.dataclass(frozen=True)
class Processes:
    """Who takes part. `coordinator` is HOST:PORT, where process 0 listens."""

    coordinator: str
    num_processes: int
    process_id: int
    gpu: int | None = None  # the only one to use, where tasks share a host; None: all


def use_flags(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Flags go where `join_processes` looks, before the environment's own."""
    for name, value in zip(_ENV, (coordinator, num_processes, process_id), strict=True):
        if value is not None:
            os.environ[name] = str(value)


def join_processes() -> None:
    """Starts JAX's distributed runtime if the environment tells of several processes.

    To be called before JAX touches its devices.

    Raises:
      UserError: half of what is needed is given, or the coordinator cannot be reached.
    """
    if jax.distributed.is_initialized() or (found := find_processes()) is None:
        return
    host = _preflight(found)
    if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in os.environ:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with _time_limit(
        f"--coordinator={found.coordinator}: of {found.num_processes} processes not all have come"
    ):
        jax.distributed.initialize(
            found.coordinator,
            found.num_processes,
            found.process_id,
            # JAX would give each Slurm task one GPU; one that has a host to itself takes all.
            local_device_ids=found.gpu,
            cluster_detection_method="deactivate",
            initialization_timeout=2 * _connect_seconds() + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            coordinator_bind_address=found.coordinator if _is_loopback(host) else None,
        )
    barrier("joined")  # their first collective: none may come to it half a minute after another


def find_processes() -> Processes | None:
    """From JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or as JAX finds them in
    Slurm (inside `srun`), Open MPI, GKE and Cloud TPU; None where there is one process.

    Raises:
      UserError: only a part is given, or a number is none.
    """
    given = [os.environ.get(name, "") for name in _ENV]
    if all(given):
        coordinator, num_processes, process_id = given[0], *map(_number, _ENV[1:], given[1:])
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"process {process_id} of {num_processes}: ids go from 0 to {num_processes - 1}"
                " (--num-processes, --process-id)"
            )
        return Processes(coordinator, num_processes, process_id) if num_processes > 1 else None
    for cluster in _CLUSTERS:
        if cluster.is_env_present() and cluster.get_process_count() > 1:
            port = os.environ.get("JAX_COORDINATOR_PORT")
            return Processes(
                given[0] or cluster.get_coordinator_address(_connect_seconds(), port),
                cluster.get_process_count(),
                cluster.get_process_id(),
                gpu=cluster.get_local_process_id() if processes_here() > 1 else None,
            )
    if any(given):
        raise UserError(
            "several processes: give all of --coordinator=HOST:PORT, --num-processes=N and"
            f" --process-id=I, or {', '.join(_ENV)}"
        )
    return None


def processes_here() -> int:
    """Processes that share this machine, as far as the environment says."""
    if tasks := re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        return int(tasks[0])
    if local := os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE"):
        return int(local)
    coordinator, num_processes, _ = (os.environ.get(name, "") for name in _ENV)
    if _is_loopback(coordinator.rpartition(":")[0]) and num_processes.isdigit():
        return int(num_processes)
    return 1


def is_primary() -> bool:
    """Whether this process writes what there is once: tables, settings, progress."""
    return not are_several() or jax.process_index() == 0


def are_several() -> bool:
    """Whether there are other processes; asking does not start JAX's devices."""
    return jax.distributed.is_initialized()


def barrier(name: str) -> None:
    """Until all processes have come here."""
    if are_several():
        multihost_utils.sync_global_devices(name)


def on_primary(function: Callable[[], T]) -> T:
    """What `function` gives on process 0, everywhere; so is a UserError that it raises there.

    Args:
      function: of no arguments; its value must survive JSON.
    """
    if not are_several():
        return function()
    value, error = _caught(function) if is_primary() else (None, "")
    text = np.frombuffer(json.dumps([value, error]).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = np.resize(text, size)
    value, error = json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))
    if error:
        raise UserError(error)
    return value


def on_all(function: Callable[[], T]) -> T:
    """What `function` gives here; a UserError of one process is one of all."""
    if not are_several():
        return function()
    value, error = _caught(function)
    text = np.frombuffer(error.encode()[:1024].ljust(1024, b"\0"), np.uint8)
    errors = [bytes(row).rstrip(b"\0") for row in multihost_utils.process_allgather(text)]
    if any(errors):
        raise UserError(next(filter(None, errors)).decode(errors="ignore"))
    return value


def leave_the_others(code: int) -> None:
    """Ends this process of several at once: at a normal end each waits for all, and they for it."""
    if are_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _caught(function: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return function(), ""
    except UserError as error:
        return None, str(error)


def _preflight(processes: Processes) -> str:
    """The coordinator's host, once it can be reached: JAX itself would abort without a word.

    Raises:
      UserError: the address is none, does not resolve, is taken, or nobody answers there.
    """
    address = processes.coordinator
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={address}: give HOST:PORT, of process 0's machine")
    host = host.strip("[]")
    _retry(
        lambda: socket.getaddrinfo(host, int(port)),
        f"--coordinator={address}: {host} is not known here; give the name of process 0's machine",
    )
    if processes.process_id:
        _retry(
            lambda: socket.create_connection((host, int(port)), timeout=5).close(),
            f"--coordinator={address}: nobody answers; is process 0 running there?",
        )
    else:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise UserError(
                    f"--coordinator={address}: {error.strerror}; choose another port"
                ) from None
    return host


@contextlib.contextmanager
def _time_limit(message: str) -> Iterator[None]:
    """Ends the process with one line where JAX's own time limit would abort it in C++."""

    def give_up() -> None:
        print(f"grokjax: error: {message} in {_connect_seconds()} s", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(_connect_seconds(), give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _retry(attempt: Callable[[], Any], message: str) -> None:
    """Names and listeners of other hosts appear when those have started."""
    deadline = time.monotonic() + _connect_seconds()
    while True:
        try:
            attempt()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(f"{message} ({error.strerror or error})") from None
        time.sleep(min(1.0, _connect_seconds()))


def _connect_seconds() -> int:
    """How long processes wait for each other."""
    return _number(_CONNECT_ENV, os.environ.get(_CONNECT_ENV, "120"))


def _is_loopback(host: str) -> bool:
    return host.strip("[]") in ("localhost", "::1") or host.startswith("127.")


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise UserError(f"{name}={text}: give a number")
    return int(text)
