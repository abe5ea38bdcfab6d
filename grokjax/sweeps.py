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
from grokjax.curves import CURVES, RUNS, read_table
from grokjax.errors import UserError
from grokjax.files import replacing, write_atomically, writing_to
from grokjax.interrupt import Interrupted
from grokjax.lock import Locked, locked
from grokjax.loop import train_and_evaluate
from grokjax.plan import (
    PLAN,
    Plan,
    PlannedPopulation,
    describe_plan,
    extend_plan,
    read_plan,
    write_plan,
)
from grokjax.results import Results
from grokjax.sweep import expand, flatten

POPULATIONS = "populations"
ALL_CURVES = "curves.parquet"
ERROR = "error.txt"
PENDING, PARTIAL, FAILED, FINISHED = "pending", "partial", "failed", "done"


class SweepFailed(Exception):
    """Some populations failed; the others are done. The same call tries them again."""


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
) -> SweepResults | None:
    """Plans what is new and trains what is not done, population by population.

    A population that fails is noted and does not stop the rest; the next call tries it again.

    Args:
      config: the settings that rows change.
      rows: {setting: value} each, from an experiment's `sweep(add)`.
      workdir: of the whole sweep; holds `plan.json`, `populations/`, `runs.csv`, `curves.parquet`.
      dry_run: only print the plan; nothing is written.

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
        plan = extend_plan(read_plan(path), config, rows)
    else:
        with locked(path, wait=True), writing_to(path):  # who plans at the same time, plans on it
            plan = extend_plan(read_plan(path), config, rows)
            write_plan(path, plan)
    states = {p.name: population_state(path, p) for p in plan.populations}
    print(describe_plan(plan, states), flush=True)
    if dry_run:
        return None
    failures = []
    for population in plan.populations:
        if states[population.name] == FINISHED:
            continue
        folder = population_folder(path, population.name)
        print(
            f"\npopulation {population.name} of {len(plan.populations)}:"
            f" {len(population.run_hashes)} runs",
            flush=True,
        )
        try:
            train_and_evaluate(population.config, folder)
        except (Interrupted, KeyboardInterrupt):
            write_tables(path, plan)
            raise
        except Locked as other:  # another sweep of the same folder: it is being done
            print(f"population {population.name} is left to it: {other}", flush=True)
        except Exception as error:  # whatever it is, the others are still worth training
            reason = str(error).split("\n")[0] or type(error).__name__
            with writing_to(path):
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / ERROR, traceback.format_exc())
            failures.append(f"{population.name} ({reason})")
            print(f"population {population.name} failed: {reason}", flush=True)
        else:
            (folder / ERROR).unlink(missing_ok=True)
        write_tables(path, plan)
    if failures:
        raise SweepFailed(
            f"{path}: {len(failures)} of {len(plan.populations)} populations failed:"
            f" {', '.join(failures)}; the same command tries them again"
        )
    return SweepResults(path, plan, *write_tables(path, plan))


def population_folder(workdir: str | os.PathLike, name: str) -> pathlib.Path:
    return pathlib.Path(workdir) / POPULATIONS / name


def population_state(workdir: pathlib.Path, population: PlannedPopulation) -> str:
    """pending, partial, failed or done, as its folder shows."""
    folder = population_folder(workdir, population.name)
    if (folder / RUNS).exists():
        runs = read_table(folder, RUNS)
        ended = (runs.status == "done") & (runs.step >= population.config.train.num_steps)
        if (ended | runs.status.isin(["diverged", "stopped"])).all():
            return FINISHED
    if (folder / ERROR).exists():
        return FAILED
    return PARTIAL if (folder / RUNS).exists() else PENDING


def write_tables(workdir: pathlib.Path, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`runs.csv` and `curves.parquet` of the whole sweep, as far as it is; what they hold."""
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
    plan = read_plan(path)
    if not plan.populations:
        raise UserError(f"{path / PLAN}: no such file; has a sweep been run here?")
    return SweepResults(path, plan, *collect(path, plan))


def load(workdir: str | os.PathLike) -> Results | SweepResults:
    """Reads a workdir, of one population or of a sweep.

    Raises:
      UserError: it is neither, or a file of it is damaged.
    """
    if (pathlib.Path(workdir) / PLAN).exists():
        return load_sweep(workdir)
    return results.load(workdir)
