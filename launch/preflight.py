"""What would go wrong later, said before anything is submitted or trained, in one line."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from grokjax.base.errors import UserError
from grokjax.base.text import counted
from grokjax.sweeps.plan import PlannedPopulation, population_folder
from launch.job import Job


def check_workdir(workdir: pathlib.Path) -> None:
    """Raises:
    UserError: this machine does not see the workdir, or may not write to it.
    """
    if not workdir.is_dir():
        raise UserError(
            f"workdir {workdir}: not visible on {os.uname().nodename}; give a folder on a file"
            " system that all machines share"
        )
    try:
        with tempfile.TemporaryFile(dir=workdir) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"workdir {workdir}: cannot be written on {os.uname().nodename} ({error.strerror})"
        ) from None


def check_disk(workdir: pathlib.Path, populations: Sequence[PlannedPopulation]) -> None:
    """Compares what is free with what the checkpoints of `populations` will still take.

    Raises:
      UserError: it is less.
    """
    needed = sum(
        max(p.checkpoint_bytes - _bytes_below(_checkpoints(workdir, p)), 0) for p in populations
    )
    free = shutil.disk_usage(workdir).free
    if needed > free:
        raise UserError(
            f"workdir {workdir}: {free / 2**30:.1f} GiB free, the checkpoints of"
            f" {counted(len(populations), 'population')} take up to {needed / 2**30:.1f} GiB; make"
            " room, or lower checkpoint.keep or checkpoint.analysis_steps_per_decade"
        )


def check_devices(job: Job, populations: Sequence[PlannedPopulation]) -> None:
    """Compares a job's devices with what its rows can use.

    Raises:
      UserError: they cannot be shared out, or some would have nothing to do.
    """
    if not job.num_devices:
        return
    for population in populations:
        share = population.config.train.batch_devices
        if job.num_devices % share:
            raise UserError(
                f"population {population.name}: train.batch_devices={share} does not divide the"
                f" {job.num_devices} devices of its job; change one of them"
            )
    largest = max(populations, key=_devices_used)  # the last of a plan may be a remainder
    if _devices_used(largest) < job.num_devices:
        raise UserError(
            f"population {largest.name}: its {len(largest.run_hashes)} runs leave some of"
            f" {job.num_devices} devices idle; ask for fewer, or plan larger populations with"
            " --config.sweep.runs_per_population=N"
        )


def _devices_used(population: PlannedPopulation) -> int:
    return len(population.run_hashes) * population.config.train.batch_devices


def _checkpoints(workdir: pathlib.Path, population: PlannedPopulation) -> pathlib.Path:
    return population_folder(workdir, population.name) / "checkpoints"


def _bytes_below(folder: pathlib.Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a training that goes on has replaced it
            continue
    return total
