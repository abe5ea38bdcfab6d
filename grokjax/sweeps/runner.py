"""Running a sweep: its populations one after the other, and one table over all of them."""

from __future__ import annotations

import os
import pathlib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import DiskError, UserError
from grokjax.base.files import given_path, refuse_links, replacing, write_atomically, writing_to
from grokjax.base.names import FINISHED
from grokjax.runtime.devices import require_devices, setup_devices
from grokjax.runtime.heartbeat import Heartbeat, require_free
from grokjax.runtime.interrupt import Interrupted
from grokjax.runtime.processes import are_several, is_primary, join_processes, on_all, on_primary
from grokjax.sweeps.plan import (
    ERROR,
    PLAN,
    POPULATIONS,
    Plan,
    PlannedPopulation,
    note_failure,
    population_folder,
    population_state,
    read_plan,
    require_plan,
    write_plan,
)
from grokjax.sweeps.planner import describe_plan, extend_plan
from grokjax.sweeps.results import SweepResults, collect
from grokjax.training.loop import train
from grokjax.workdir.lock import Locked, locked
from grokjax.workdir.tables import RUNS

ALL_CURVES = "curves.parquet"


class SweepFailed(Exception):
    """Some populations failed; the others are done. The same call tries them again."""


class PopulationFailed(Exception):
    """One of them, and why."""


def run_sweep(
    config: ConfigDict,
    rows: Sequence[Mapping[str, Any]],
    workdir: str | os.PathLike,
    *,
    dry_run: bool = False,
    plan_only: bool = False,
) -> SweepResults | None:
    """Plans what is new and trains what is not done, population by population.

    A population that fails is noted and does not stop the rest; the next call tries it again.

    Args:
      config: the settings that rows change.
      rows: {setting: value} each, from an experiment's `sweep(add)`.
      workdir: of the whole sweep; holds `plan.json`, `populations/`, `runs.csv`, `curves.parquet`.
      dry_run: only print the plan; nothing is written.
      plan_only: only print and write it.

    Raises:
      UserError: rows that cannot be planned, or a workdir that is something else.
      SweepFailed: after all others, if some populations failed.
      Interrupted: after Ctrl-C or SIGTERM; the same call goes on.
    """
    path = given_path(workdir)
    if (path / "config.json").exists():
        raise UserError(f"workdir {path}: holds one population; give a sweep a folder of its own")
    refuse_links(path, PLAN, RUNS, ALL_CURVES, POPULATIONS)
    if dry_run:
        plan = on_all(lambda: extend_plan(read_plan(path), config, rows))
    else:
        on_primary(lambda: _write_extended(path, config, rows))
        plan = read_plan(path)  # process 0's: memory suggests sizes, and each host has its own
    states = on_primary(lambda: {p.name: population_state(path, p) for p in plan.populations})
    if is_primary():
        print(describe_plan(plan, states), flush=True)
    if dry_run or plan_only:
        return None
    failures = []
    for population in plan.populations:
        if states[population.name] == FINISHED:
            continue
        try:
            _require_free(path, population.name)
        except UserError as busy:
            if is_primary():
                print(f"left alone: {busy}", flush=True)
            continue
        try:
            _train(path, plan, population)
        except Locked as other:  # another sweep of the same folder: it is being done
            if is_primary():
                print(f"left alone: {other}", flush=True)
        except PopulationFailed as failed:
            failures.append(f"{population.name} ({failed})")
        finally:
            write_tables(path, plan)
    if failures:
        raise SweepFailed(
            f"{path}: {len(failures)} of {len(plan.populations)} populations failed:"
            f" {', '.join(failures)}; the same command tries them again"
        )
    return SweepResults(path, plan, *write_tables(path, plan))


def _write_extended(
    path: pathlib.Path, config: ConfigDict, rows: Sequence[Mapping[str, Any]]
) -> None:
    with locked(path, wait=True), writing_to(path):  # who plans at the same time, plans on it
        write_plan(path, extend_plan(read_plan(path), config, rows))


def train_population(workdir: str | os.PathLike, name: str, devices: str = "") -> None:
    """Trains one population of a planned sweep: what one worker of many does.

    It reads the plan and writes to the population's folder alone, so that workers on several
    machines do not meet; `grokjax.load` gathers what all of them have made.

    Args:
      workdir: of the sweep; has a plan.
      name: of the population.
      devices: `PLATFORM:COUNT` that it must find, over all processes; empty: whatever there is.

    Raises:
      UserError: no plan, no such population, or somebody trains it; nothing has been written then.
      SweepFailed: it could not be trained; `error.txt` in its folder says why.
      Interrupted: after Ctrl-C or SIGTERM; the same call goes on.
    """
    path = pathlib.Path(workdir)
    plan = require_plan(path)
    population = plan.population(name)
    folder = population_folder(path, name)
    refuse_links(path, f"{POPULATIONS}/{name}")
    setup_devices()
    try:
        join_processes()
    except UserError as error:
        note_failure(folder, f"{error}\n")
        raise
    if on_primary(lambda: population_state(path, population)) == FINISHED:
        print(f"{folder}: done; nothing is left to do", flush=True)
        return
    _require_free(path, name)
    try:
        _train(path, plan, population, devices)
    except PopulationFailed as failed:
        raise SweepFailed(f"{path}: population {name} failed: {failed}") from None


def _require_free(path: pathlib.Path, name: str) -> None:
    on_primary(lambda: require_free(population_folder(path, name)))


def _train(path: pathlib.Path, plan: Plan, population: PlannedPopulation, devices="") -> None:
    """One population; whatever goes wrong is noted in its folder's `error.txt`.

    Raises:
      PopulationFailed: in one line, what went wrong.
      Interrupted: on request.
    """
    folder = population_folder(path, population.name)
    num_runs = len(population.run_hashes)
    heartbeat = Heartbeat(folder, num_runs)
    if is_primary():
        total = len(plan.populations)
        print(f"\npopulation {population.name} of {total}: {num_runs} runs", flush=True)
    try:
        require_devices(devices)
        with heartbeat:
            beat = {"on_step": heartbeat.update} if is_primary() else {}
            train(population.config, folder, **beat)
    except Interrupted:
        if is_primary():
            heartbeat.note_saved()
        raise
    except Locked:
        raise
    except Exception as error:  # whatever it is, the others are still worth training
        reason = str(error).split("\n")[0] or type(error).__name__
        own = isinstance(error, DiskError) or not isinstance(error, UserError)
        if is_primary() or own:
            note_failure(folder, traceback.format_exc())
        if are_several() and own:
            raise  # of this process alone: the others wait for it
        if is_primary():
            print(f"population {population.name} failed: {reason}", flush=True)
        raise PopulationFailed(reason) from error
    if is_primary():
        (folder / ERROR).unlink(missing_ok=True)


def write_tables(workdir: pathlib.Path, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`runs.csv` and `curves.parquet` of the whole sweep, as far as it is; what they hold."""
    if not is_primary():
        return collect(workdir, plan)
    with locked(workdir, wait=True), writing_to(workdir):
        runs, curves = collect(workdir, plan)
        write_atomically(workdir / RUNS, runs.to_csv(index=False, lineterminator="\n"))
        with replacing(workdir / ALL_CURVES) as scratch:
            curves.to_parquet(scratch, index=False)
    return runs, curves
