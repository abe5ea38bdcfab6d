"""Slurm: one array job, a task per row, `srun` in each; a row that has saved is requeued."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterable

from grokjax.base.errors import RESUMABLE, UserError
from grokjax.runtime.heartbeat import ATTEMPT, JOB, SAVED, STATUS
from grokjax.sweeps.plan import ERROR, POPULATIONS
from grokjax.workdir.manifest import MANIFEST
from launch.books import attempts_folder, books_folder, stop_file
from launch.client import TIMEOUT, ask
from launch.job import Job, job_name, require_number
from launch.status import Queued

_FORMS = (
    ("time", r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|infinite|unlimited", "minutes or 1-12:30:00"),
    ("mem", r"\d+[kmgt]?b?", "64G"),
)
_ATTEMPTS = 3  # of a job, from the same checkpoint; another one is none


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """What `sbatch` is told beyond the job: each empty one is left to the cluster.

    Attributes:
      at_once: rows that may run at a time; 0: all.
      extra: further options, `--constraint=a100` say.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""
    mem: str = ""
    cpus_per_task: int = 0
    at_once: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number("--at-once", self.at_once)
        require_number("--cpus-per-task", self.cpus_per_task)
        for name, pattern, example in _FORMS:
            if (value := getattr(self, name)) and not re.fullmatch(pattern, value, re.IGNORECASE):
                raise UserError(f"--{name}={value[:40]}: give {example}, as sbatch takes it")


def render(job: Job, options: SlurmOptions) -> str:
    """The batch script."""
    lines = [f"#SBATCH {option}" for option in _sbatch_options(job, options)]
    container = []
    if job.container:
        mount = f"{job.workdir}:{job.workdir}"
        container = [f"--container-image={job.container}", f"--container-mounts={mount}"]
    srun = shlex.join(["srun", "--kill-on-bad-exit=1", *container, *job.worker("")])
    populations = shlex.quote(str(job.workdir / POPULATIONS))
    folder = f'{populations}/"$population"'
    books, attempts = (
        shlex.quote(str(path)) for path in (books_folder(job.workdir), attempts_folder(job.workdir))
    )
    # A rank that is slow to leave is killed after KillWait: its code then hides the others' 75,
    # which a sign of life of this very attempt still shows.
    return f"""#!/bin/bash
{chr(10).join(lines)}
{job.setup}
export {JOB}="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
export {ATTEMPT}="${{SLURM_RESTART_COUNT:-0}}"
population=$(printf '%03d' "$SLURM_ARRAY_TASK_ID")
for written in {books} {attempts} {attempts}/"$population" \\
    {populations} {folder} {folder}/{ERROR}; do
  if [ -L "$written" ]; then
    echo "$written: a link; nothing is written through it: take it away" >&2
    exit 2
  fi
done
place="${JOB} $(ls -v {folder}/checkpoints/state/*/{MANIFEST} 2>/dev/null | tail -n 1)"
mkdir -p {attempts} && echo "$place" >> {attempts}/"$population"
same=$(tail -n {_ATTEMPTS + 1} {attempts}/"$population" | grep -cxF -- "$place")
if [ "${ATTEMPT}" -ge {_ATTEMPTS} ] && [ "$same" -gt {_ATTEMPTS} ]; then
  said="{_ATTEMPTS} attempts came no further than the one before; see $SLURM_JOB_ID's log"
  echo "population $population: $said" >&2
  mkdir -p {folder} && echo "$said" > {folder}/{ERROR}
  exit 1
fi
{srun}"$population"
code=$?
saved=$(printf '"state": "{SAVED}", "job": "%s", "attempt": %s,' "${JOB}" "${ATTEMPT}")
if [ "$code" -gt 128 ] && grep -qsF "$saved" {folder}/{STATUS}; then
  code={RESUMABLE}
fi
if [ "$code" -eq {RESUMABLE} ] && [ ! -e {shlex.quote(str(stop_file(job.workdir)))} ]; then
  timeout {TIMEOUT} scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def submit(script: pathlib.Path) -> str:
    """Hands a script to Slurm.

    Returns:
      The array's job id.
    """
    return _client("sbatch", "--parsable", str(script)).strip().split(";")[0]


def queue(workdir: pathlib.Path) -> dict[str, Queued]:
    """Tasks that Slurm has for a workdir's rows, by population."""
    own = ("--me", f"--name={job_name(workdir)}")
    listed = _client("squeue", *own, "--noheader", "--array", "--format=%F %K %T")
    tasks = {}
    for line in listed.splitlines():
        array, index, state = line.split()
        tasks[f"{int(index):03d}"] = Queued(f"{array}_{index}", state)
    return tasks


def stop(tasks: Iterable[Queued]) -> None:
    """Waiting tasks are cancelled; the processes of running ones get a SIGTERM, save and leave."""
    for task in tasks:
        signal = ["--signal=TERM"] if task.state == "RUNNING" else []
        _client("scancel", *signal, task.job)


def _sbatch_options(job: Job, options: SlurmOptions) -> list[str]:
    rows = ",".join(str(int(name)) for name in job.populations)
    log = str(books_folder(job.workdir) / "logs").replace("%", "%%") + "/%A_%a.out"
    values = {
        "job-name": job.name,
        "array": rows + (f"%{options.at_once}" if options.at_once else ""),
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "gpus-per-node": job.devices_per_node if job.platform == "gpu" else 0,
        "cpus-per-task": options.cpus_per_task,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "time": options.time,
        "mem": options.mem,
        # To the tasks, not to this script: they save within it and leave to be requeued.
        "signal": "TERM@90",
        "output": log,
        "open-mode": "append",
    }
    written = [f"--{name}={shlex.quote(str(value))}" for name, value in values.items() if value]
    for option in (*written, *options.extra):
        if "\n" in option:
            raise UserError(f"{option.splitlines()[0]}: has a line break; give one line")
    return [*written, "--requeue", *options.extra]


def _client(*command: str) -> str:
    return ask(
        command,
        missing="is this a machine of a Slurm cluster?",
        silent="is the controller up (scontrol ping)?",
    )
