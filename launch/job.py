"""The one description of a job, from which every launcher renders."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
import sys
from collections.abc import Mapping

from grokjax.base.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """What each row of a plan needs; a row is one population, one process group.

    Attributes:
      workdir: of the sweep, absolute, the same on every machine.
      populations: names in the plan, one row each.
      nodes: machines of a row.
      tasks_per_node: processes on each.
      platform: cpu, gpu or tpu, as JAX calls it.
      devices_per_node: accelerators of a machine; 0 on CPUs: one per core, uncounted.
      python: the interpreter on those machines.
      setup: a line of shell before it, `source ENV/bin/activate` or `module load ...`.
      container: an image to run in; empty: none.
      experiment: that names files of the user's own, on those machines too; empty: none does.
    """

    workdir: pathlib.Path
    populations: tuple[str, ...]
    nodes: int = 1
    tasks_per_node: int = 1
    platform: str = "cpu"
    devices_per_node: int = 0
    python: str = sys.executable
    setup: str = ""
    container: str = ""
    experiment: str = ""

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("tasks_per_node", 1), ("devices_per_node", 0)):
            require_number(f"--{name.replace('_', '-')}", getattr(self, name), least)
        for field in dataclasses.fields(self):
            if "\n" in str(getattr(self, field.name)):
                raise UserError(f"{field.name}: has a line break; give one line")

    @property
    def name(self) -> str:
        """Of all jobs of this workdir, and of no other's: by it a scheduler is asked for them."""
        return job_name(self.workdir)

    @property
    def num_devices(self) -> int:
        """Of a row, over all its machines; 0: not known before it runs."""
        return self.nodes * self.devices_per_node

    def worker(self, population: str) -> list[str]:
        """The command that every process of a row runs.

        Args:
          population: its name, or text that the job's shell turns into it.
        """
        command = [self.python, "-m", "launch", "worker", f"--workdir={self.workdir}"]
        if self.num_devices:
            command.append(f"--devices={self.platform}:{self.num_devices}")
        if self.experiment:
            command.append(f"--config={self.experiment}")
        return [*command, f"--population={population}"]


def require_number(option: str, value: int, least: int = 0, most: int = 2**16) -> None:
    """Raises:
    UserError: no cluster has, or takes, so many.
    """
    if not least <= value <= most:
        raise UserError(f"{option}={value}: must be at least {least} and at most {most}")


def single_process(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what tells of other processes: of the shell's own Slurm job, say."""
    others = ("SLURM_", "OMPI_", "JAX_COORDINATOR_", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    return {n: v for n, v in environment.items() if n == "SLURM_CONF" or not n.startswith(others)}


def job_name(workdir: pathlib.Path) -> str:
    """`grokjax-NAME-HASH`, fit for Slurm and for Kubernetes."""
    digest = hashlib.sha256(str(workdir).encode()).hexdigest()[:8]
    readable = re.sub("[^a-z0-9]+", "-", workdir.name.lower())[:20].strip("-")
    return f"grokjax-{readable}-{digest}" if readable else f"grokjax-{digest}"
