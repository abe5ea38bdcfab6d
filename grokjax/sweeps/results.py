"""What a sweep's workdir holds, read back from its populations as far as they are."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from grokjax import results
from grokjax.base.errors import UserError
from grokjax.base.names import PENDING
from grokjax.data.task import Task
from grokjax.data.tasks import regime_of
from grokjax.model import Buffers, ModelConfig, Params
from grokjax.results import Results, StoredRuns
from grokjax.settings.rows import expand, flat_runs
from grokjax.sweeps.plan import PLAN, Plan, population_folder, require_plan
from grokjax.workdir.gaps import describe_gaps
from grokjax.workdir.tables import CURVES, RUNS, read_runs, read_table


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResults(StoredRuns):
    """A sweep's workdir. `runs` has a row per planned run, trained or not; run_id is the sweep's.

    curves: a row per run and evaluation of those that were trained, with the sweep's run_id.
    """

    workdir: pathlib.Path
    plan: Plan
    runs: pd.DataFrame
    curves: pd.DataFrame

    @functools.cached_property
    def config(self) -> ConfigDict:
        """The first population's settings: what all share, and its own."""
        return self.plan.populations[0].config

    @functools.cached_property
    def run_configs(self) -> list[ConfigDict]:
        return [run for p in self.plan.populations for run in expand(p.config)]

    @property
    def model(self) -> ModelConfig:
        return self._only("model")

    @property
    def task(self) -> Task:
        return self._only("task")

    @property
    def vocab_size(self) -> int:
        return self._only("vocab_size")

    def checkpoint_steps(self) -> list[int]:
        stored = [set(p.checkpoint_steps()) for p in self.populations().values()]
        return sorted(set.intersection(*stored)) if stored else []

    def stacked_weights(
        self, run_ids: Sequence[int], step: int | None = None, *, ema: bool = True
    ) -> tuple[Params, Buffers]:
        for run_id in run_ids:
            self._require(run_id)
        rows = self.runs.set_index("run_id").loc[list(run_ids)].reset_index()
        by_population = list(rows.groupby("population", sort=False))
        found = [
            self.population(str(name)).stacked_weights(
                own.population_run_id.tolist(), step, ema=ema
            )
            for name, own in by_population
        ]
        shapes = [jax.tree.map(lambda x: x.shape[1:], weights) for weights in found]
        if any(shape != shapes[0] for shape in shapes):
            raise UserError(f"{self.workdir}: runs {list(run_ids)} are of different models")
        places = np.argsort(np.concatenate([own.index for _, own in by_population]))
        return jax.tree.map(lambda *x: jnp.concatenate(x)[places], *found)

    def run_config(self, run_id: int) -> ConfigDict:
        self._require(run_id)
        return self.run_configs[run_id].copy_and_resolve_references()

    def _only(self, name: str) -> Any:
        """What all populations that have been trained have alike."""
        found = [getattr(p, name) for p in self.populations().values()]
        if not found:
            raise UserError(f"{self.workdir}: nothing has been trained yet")
        if any(value != found[0] for value in found):
            raise UserError(
                f"{self.workdir}: its runs differ in their {name}; .locate(run_id)[0].{name} is one"
            )
        return found[0]

    def population(self, name: str) -> Results:
        """One population's own results."""
        return results.load(population_folder(self.workdir, name))

    def populations(self) -> dict[str, Results]:
        begun = self.runs.population[self.runs.status != PENDING].unique()
        found = {str(name): self.population(str(name)) for name in begun}
        return {n: own for n, own in found.items() if len(own.curves) or own.checkpoint_steps()}

    def gaps(self) -> str:
        folders = [population_folder(self.workdir, p.name) for p in self.plan.populations]
        return "; ".join(filter(None, map(describe_gaps, (f for f in folders if has_begun(f)))))

    def _own(self, run_id: int) -> tuple[Results, int]:
        row = self.runs.set_index("run_id").loc[run_id]
        return self.population(str(row.population)), int(row.population_run_id)


def load(workdir: str | os.PathLike) -> Results | SweepResults:
    """Reads a workdir, of one population or of a sweep: what the tables on disk say by now.

    Raises:
      UserError: it is neither, or a file of it is damaged.
    """
    path = pathlib.Path(workdir)
    if not (path / PLAN).exists():
        return results.load(path)
    plan = require_plan(path)
    return SweepResults(path, plan, *collect(path, plan))


def has_begun(folder: pathlib.Path) -> bool:
    """Whether a population's folder has its table of runs, whatever else it lacks."""
    return (folder / RUNS).exists()


def collect(workdir: pathlib.Path, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves of all populations, run ids counted through."""
    resolved = [run for p in plan.populations for run in flat_runs(p.config)]
    ignored = ("name", "runs", "train.num_steps", "data.regime")
    first = resolved[0]
    swept = [n for n in first if n not in ignored and any(f[n] != first[n] for f in resolved)]
    rows: list[dict[str, Any]] = []
    curves = []
    for population in plan.populations:
        folder = population_folder(workdir, population.name)
        start, trained = len(rows), None
        if has_begun(folder):
            known = ["run_id", "run_hash", *swept]
            trained = read_runs(folder).drop(columns=known, errors="ignore")
        else:
            regimes = [regime_of(run) for run in expand(population.config)]
        if (folder / CURVES).exists():
            own = read_table(folder, CURVES).sort_values("run_id", kind="stable")
            curves.append(own.assign(run_id=own.run_id + start))
        for own_id, run_hash in enumerate(population.run_hashes):
            settings = resolved[start + own_id]
            row = {
                "run_id": start + own_id,
                "population": population.name,
                "population_run_id": own_id,
                "run_hash": run_hash,
                "regime": regimes[own_id] if trained is None else trained.regime[own_id],
            }
            row |= {name: settings[name] for name in swept}
            if trained is None:
                row |= {"status": PENDING, "step": 0}
            else:
                row |= trained.loc[own_id].to_dict()
            rows.append(row)
    empty = pd.DataFrame({"run_id": pd.Series(dtype=int), "step": pd.Series(dtype=int)})
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True) if curves else empty
