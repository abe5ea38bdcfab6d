"""Running a sweep: its populations one after the other, and one table over all of them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from grokjax import results
from grokjax.base.errors import DiskError, UserError
from grokjax.base.files import replacing, write_atomically, writing_to
from grokjax.results import Results
from grokjax.runtime.devices import require_devices, setup_devices
from grokjax.runtime.heartbeat import Heartbeat, require_free
from grokjax.runtime.interrupt import Interrupted
from grokjax.runtime.processes import are_several, is_primary, join_processes, on_all, on_primary
from grokjax.settings.config import flatten
from grokjax.settings.rows import expand
from grokjax.sweeps.plan import (
    ERROR,
    FINISHED,
    PENDING,
    PLAN,
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
from grokjax.training.loop import train_and_evaluate
from grokjax.workdir.lock import Locked, locked
from grokjax.workdir.tables import CURVES, RUNS, read_table

ALL_CURVES = "curves.parquet"


class SweepFailed(Exception):
    """Some populations failed; the others are done. The same call tries them again."""


class PopulationFailed(Exception):
    """One of them, and why."""


@dataclasses.dataclass(frozen=True)
class SweepResults:
    """A sweep's workdir. `runs` has a row per planned run, trained or not; run_id is the sweep's.

    curves: a row per run and evaluation of those that were trained, with the sweep's run_id.
    """

    workdir: pathlib.Path
    plan: Plan
    runs: pd.DataFrame
    curves: pd.DataFrame

    @property
    def config(self) -> ConfigDict:
        """The first population's settings: what all share, and its own."""
        return self.plan.populations[0].config

    def population(self, name: str) -> Results:
        """One population's own results."""
        return results.load(population_folder(self.workdir, name))

    def locate(self, run_id: int) -> tuple[Results, int]:
        """The population that a run is in, and its id there."""
        row = self.runs.set_index("run_id").loc[run_id]
        return self.population(str(row.population)), int(row.population_run_id)


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
    path = pathlib.Path(workdir)
    if not str(workdir).strip():
        raise UserError("workdir: the path is empty; give one, --workdir=runs/NAME")
    if (path / "config.json").exists():
        raise UserError(f"workdir {path}: holds one population; give a sweep a folder of its own")
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
            train_and_evaluate(population.config, folder, **beat)
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


def collect(workdir: pathlib.Path, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves of all populations, run ids counted through."""
    resolved = [flatten(run) for p in plan.populations for run in expand(p.config)]
    ignored = ("name", "runs", "train.num_steps", "data.regime")
    first = resolved[0]
    swept = [n for n in first if n not in ignored and any(f[n] != first[n] for f in resolved)]
    rows: list[dict[str, Any]] = []
    curves = []
    for population in plan.populations:
        folder = population_folder(workdir, population.name)
        start, trained = len(rows), None
        if (folder / CURVES).exists():
            known = ["run_id", "run_hash", *swept]
            trained = read_table(folder, RUNS).drop(columns=known, errors="ignore")
            own = read_table(folder, CURVES).sort_values("run_id", kind="stable")
            curves.append(own.assign(run_id=own.run_id + start))
        for own_id, run_hash in enumerate(population.run_hashes):
            settings = resolved[start + own_id]
            row = {
                "run_id": start + own_id,
                "population": population.name,
                "population_run_id": own_id,
                "run_hash": run_hash,
                "regime": settings["data.regime"],
            }
            row |= {name: settings[name] for name in swept}
            if trained is None:
                row |= {"status": PENDING, "step": 0}
            else:
                row |= trained.loc[own_id].to_dict()
            rows.append(row)
    empty = pd.DataFrame({"run_id": pd.Series(dtype=int), "step": pd.Series(dtype=int)})
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True) if curves else empty


def load_sweep(workdir: str | os.PathLike) -> SweepResults:
    """Reads a sweep's workdir, from its populations: what the tables on disk say, at this moment.

    Raises:
      UserError: there is no plan.
    """
    path = pathlib.Path(workdir)
    plan = require_plan(path)
    return SweepResults(path, plan, *collect(path, plan))


def load(workdir: str | os.PathLike) -> Results | SweepResults:
    """Reads a workdir, of one population or of a sweep.

    Raises:
      UserError: it is neither, or a file of it is damaged.
    """
    if (pathlib.Path(workdir) / PLAN).exists():
        return load_sweep(workdir)
    return results.load(workdir)
