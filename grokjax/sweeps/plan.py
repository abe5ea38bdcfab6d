"""`plan.json`: the populations of a sweep, and what has become of each; read without JAX.

Whoever trains, launches or reads a sweep goes by this file and by the populations' folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import read_json, refuse_links, write_atomically
from grokjax.base.names import DIVERGED, DONE, FAILED, FINISHED, PARTIAL, PENDING, STOPPED
from grokjax.settings.config import from_json, to_json
from grokjax.settings.declarations import SETTINGS
from grokjax.settings.identity import run_hashes
from grokjax.workdir.tables import RUNS, read_table

PLAN = "plan.json"
POPULATIONS = "populations"
ERROR = "error.txt"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class PlannedPopulation:
    """What one call of `train_and_evaluate` trains.

    checkpoint_bytes: an estimate of what its checkpoints will take; 0 if nobody has made one.
    """

    name: str
    config: ConfigDict
    run_hashes: tuple[str, ...]
    checkpoint_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """All populations of a sweep, in the order in which they were planned."""

    populations: tuple[PlannedPopulation, ...] = ()

    @property
    def run_hashes(self) -> set[str]:
        return {h for population in self.populations for h in population.run_hashes}

    def population(self, name: str) -> PlannedPopulation:
        """The one of that name.

        Raises:
          UserError: there is none.
        """
        for population in self.populations:
            if population.name == name:
                return population
        last = self.populations[-1].name if self.populations else "none"
        raise UserError(f"population '{name}': not in the plan, which goes up to {last}")


def read_plan(workdir: str | os.PathLike) -> Plan:
    """The plan of a sweep's workdir; an empty one if there is none.

    Raises:
      UserError: `plan.json` is damaged, or of another version.
    """
    path = pathlib.Path(workdir) / PLAN
    try:
        content = read_json(path)
    except FileNotFoundError:
        return Plan()
    except (OSError, ValueError):
        raise UserError(f"{path}: damaged; restore it, or sweep in a new workdir") from None
    if not isinstance(content, Mapping) or content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: not a plan of this version; sweep in a new workdir")
    try:
        populations = tuple(
            PlannedPopulation(
                str(p["name"]),
                from_json(p["config"]),
                tuple(p["run_hashes"]),
                int(p.get("checkpoint_bytes", 0)),
            )
            for p in content["populations"]
        )
        known = [_has_every_setting(p["config"]) for p in content["populations"]]
        wrong = _contradiction(populations, known)
    except (KeyError, TypeError, ValueError, AttributeError, UserError):
        wrong = "not what a plan has"
    if wrong:
        raise UserError(f"{path}: damaged ({wrong}); restore it, or sweep in a new workdir")
    return Plan(populations)


def _contradiction(populations: Sequence[PlannedPopulation], comparable: Sequence[bool]) -> str:
    """What no plan says of itself; empty where all is well.

    Args:
      populations: of the plan.
      comparable: whether a population's hashes are made as today.
    """
    if not populations:
        return "it has no populations"
    seen: set[str] = set()
    for number, population in enumerate(populations):
        if population.name != f"{number:03d}":  # names become folders, and numbers of tasks
            return f"its population {number} is called {population.name[:20]!a}"
        named, hashes = population.run_hashes, tuple(run_hashes(population.config))
        if len(named) != len(hashes) or (comparable[number] and named != hashes):
            return f"the runs of population {population.name} are not those of its hashes"
        if seen & set(named):
            return f"population {population.name} has a run of another one"
        seen |= set(named)
    return ""


def _has_every_setting(config: Mapping[str, Any]) -> bool:
    """Whether a stored config has all that counted before any was added; older hashes differ."""
    sections = {n: v for n, v in config.items() if isinstance(v, Mapping)}
    names = {*config, *(f"{section}.{name}" for section in sections for name in sections[section])}
    return {name for name, setting in SETTINGS.items() if not setting.added} <= names


def require_plan(workdir: str | os.PathLike) -> Plan:
    """The plan of a sweep's workdir.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    plan = read_plan(workdir)
    if not plan.populations:
        raise UserError(
            f"{pathlib.Path(workdir) / PLAN}: no such file; has a sweep been run here, and is the"
            " workdir visible on this machine?"
        )
    return plan


def write_plan(workdir: pathlib.Path, plan: Plan) -> None:
    """Replaces `plan.json` in one step."""
    workdir.mkdir(parents=True, exist_ok=True)
    content = {
        "schema_version": SCHEMA_VERSION,
        "populations": [
            {
                "name": p.name,
                "config": to_json(p.config),
                "run_hashes": list(p.run_hashes),
                "checkpoint_bytes": p.checkpoint_bytes,
            }
            for p in plan.populations
        ],
    }
    write_atomically(workdir / PLAN, json.dumps(content, indent=1) + "\n")


def population_folder(workdir: str | os.PathLike, name: str) -> pathlib.Path:
    return pathlib.Path(workdir) / POPULATIONS / name


def note_failure(folder: pathlib.Path, text: str) -> None:
    """Leaves in a population's folder why it failed, if it can be written."""
    with contextlib.suppress(OSError, UserError):  # what has failed is told anyway
        refuse_links(folder.parents[1], f"{POPULATIONS}/{folder.name}")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, text)


def population_state(workdir: str | os.PathLike, population: PlannedPopulation) -> str:
    """pending, partial, failed or done, as its folder shows."""
    folder = population_folder(workdir, population.name)
    if (folder / RUNS).exists():
        runs = read_table(folder, RUNS)
        ended = (runs.status == DONE) & (runs.step >= population.config.train.num_steps)
        if (ended | runs.status.isin([DIVERGED, STOPPED])).all():
            return FINISHED
    if (folder / ERROR).exists():
        return FAILED
    return PARTIAL if (folder / RUNS).exists() else PENDING
