"""What has become of each row: from its folder, its worker's sign of life and the scheduler."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from grokjax.base.names import FAILED, FINISHED, PARTIAL, PENDING, RUNNING, STOPPED
from grokjax.base.text import aligned
from grokjax.runtime.heartbeat import Beat, read_beat
from grokjax.sweeps.plan import (
    Plan,
    PlannedPopulation,
    population_folder,
    population_state,
)
from grokjax.workdir.manifest import MANIFEST


@dataclasses.dataclass(frozen=True)
class Queued:
    """A job that a scheduler has for a row, waiting or at work."""

    job: str
    state: str  # in the scheduler's words


@dataclasses.dataclass(frozen=True)
class Row:
    """A population as it is now.

    Attributes:
      state: pending, running, stopped (begun, and nobody goes on), failed or done.
      step: of the newest sign of life.
      rate: member-steps per second of whoever trains or trained it last.
      checkpoint: the newest step to resume from; None if there is none.
      job: of the scheduler, with its state there if it is not running.
      is_taken: whether somebody trains it, or will.
    """

    population: str
    state: str
    num_runs: int
    step: int
    num_steps: int
    rate: float
    checkpoint: int | None
    job: str
    is_taken: bool


def survey(workdir: pathlib.Path, plan: Plan, queue: Mapping[str, Queued]) -> list[Row]:
    """All rows of a plan.

    Args:
      workdir: of the sweep.
      plan: its plan.
      queue: what schedulers have, by population.
    """
    return [_row(workdir, p, queue.get(p.name)) for p in plan.populations]


def unfinished(rows: Sequence[Row]) -> list[str]:
    """Rows that a submission is about: neither done nor anybody's."""
    return [row.population for row in rows if row.state != FINISHED and not row.is_taken]


def table(rows: Sequence[Row]) -> str:
    """For a terminal: a line per row, and how many are in which state."""
    header = ("population", "state", "runs", "step", "steps", "member-steps/s", "checkpoint", "job")
    lines = [
        (
            row.population,
            row.state,
            f"{row.num_runs}",
            f"{row.step:,}",
            f"{row.num_steps:,}",
            f"{row.rate:,.0f}" if row.rate else "-",
            "-" if row.checkpoint is None else f"{row.checkpoint:,}",
            row.job or "-",
        )
        for row in rows
    ]
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    return "\n".join([*aligned([header, *lines]), counts])


def last_checkpoint(folder: pathlib.Path) -> int | None:
    """The newest sealed full state of a population's folder."""
    manifests = (folder / "checkpoints" / "state").glob(f"*/{MANIFEST}")
    steps = [int(m.parent.name) for m in manifests if m.parent.name.isdecimal()]
    return max(steps, default=None)


def _row(workdir: pathlib.Path, population: PlannedPopulation, queued: Queued | None) -> Row:
    folder = population_folder(workdir, population.name)
    state, beat = population_state(workdir, population), read_beat(folder)
    checkpoint = last_checkpoint(folder)
    alive = beat is not None and beat.is_alive
    if state != FINISHED:
        state = _unfinished_state(state, alive, queued)
    num_steps = population.config.train.num_steps
    reached = beat.step if beat else checkpoint or 0
    return Row(
        population=population.name,
        state=state,
        num_runs=len(population.run_hashes),
        step=num_steps if state == FINISHED else reached,
        num_steps=num_steps,
        rate=beat.rate if beat else 0.0,
        checkpoint=checkpoint,
        job=_job(beat, queued),
        is_taken=alive or queued is not None,
    )


def _unfinished_state(state: str, alive: bool, queued: Queued | None) -> str:
    if alive or (queued is not None and queued.state == "RUNNING"):
        return RUNNING
    if queued is not None:
        return PENDING
    return STOPPED if state == PARTIAL else state if state == FAILED else PENDING


def _job(beat: Beat | None, queued: Queued | None) -> str:
    if queued is not None:
        return queued.job if queued.state == "RUNNING" else f"{queued.job} ({queued.state})"
    if beat is None:
        return ""
    return beat.job or f"{beat.host}:{beat.pid}"
