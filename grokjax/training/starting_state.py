"""Where a training starts: at its newest checkpoint, or at step 0.

At step 0 weights are drawn anew or, for finetuning, are the stored ones of other runs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.runtime.processes import on_all
from grokjax.settings.own_functions import is_own, is_own_file, refuse
from grokjax.training.population import Population
from grokjax.training.step import RunState
from grokjax.training.stored_weights import read_weights
from grokjax.workdir.arrays import with_rows
from grokjax.workdir.checkpoints import Checkpoints
from grokjax.workdir.tables import RUNS, read_table


def restore_or_start(
    saved: Checkpoints, population: Population, runs: Sequence[ConfigDict]
) -> tuple[int, RunState]:
    """The newest whole checkpoint, or the state before the first step."""
    try:
        restored = saved.restore_latest(population.abstract_state(), population.own_runs)
    except UserError as error:
        kind = population.train_config.model.kind
        if (is_own(kind) or is_own_file(kind)) and "another model" in str(error):
            said = f"draws another tree than was stored: {error}"
            raise refuse("model.kind", kind, said) from None
        raise
    if restored is None:
        return 0, starting_state(population, runs)
    return restored[0], population.place_own(restored[1])


def starting_state(population: Population, runs: Sequence[ConfigDict]) -> RunState:
    """The state before the first step: at step 0, with the weights that each run's source names.

    The average starts at those weights, as the official code's does. The optimiser starts anew, or
    goes on with a source's moments and step count (`transfer.optimizer_state`).

    Raises:
      UserError: a source is gone, has changed, is of another model, or lacks what is to be carried.
    """
    state = population.init()
    if not any(run.transfer.source for run in runs):
        return state
    sources = {run.transfer.source for run in runs}
    tables = on_all(lambda: {source: read_table(source, RUNS) for source in sources})
    weights = on_all(lambda: [_weights(tables[run.transfer.source], run.transfer) for run in runs])
    params, buffers = jax.tree.map(lambda *x: np.stack(x), *weights)
    on_all(lambda: _check_model(population, params))
    start: Any = population.place({"params": params, "ema_params": params, "buffers": buffers})
    state = dataclasses.replace(state, **start)
    if not any(run.transfer.optimizer_state == "carried" for run in runs):
        return state
    fresh = jax.device_get(population.for_all(state.opt_state))

    def own(i: int, transfer: ConfigDict) -> Any:
        if transfer.optimizer_state == "carried":
            return _optimizer_state(len(tables[transfer.source]), transfer, fresh)
        return jax.tree.map(lambda x: x[i], fresh)

    carried = on_all(lambda: [own(i, run.transfer) for i, run in enumerate(runs)])
    opt_state: Any = population.place(jax.tree.map(lambda *x: np.stack(x), *carried))
    return dataclasses.replace(state, opt_state=opt_state)


def _weights(runs: pd.DataFrame, transfer: ConfigDict) -> Any:
    """(params, buffers) of one run of a source, whose run table is `runs`."""
    if runs.run_hash.get(transfer.run_id) != transfer.run_hash:
        raise UserError(
            f"{transfer.source}: run {transfer.run_id} is no longer the run {transfer.run_hash}"
            " that this finetuning was planned from; give a new --workdir"
        )
    name = "ema_params" if transfer.weights == "ema" else "params"
    stored = read_weights(transfer.source, [name], transfer.run_id, transfer.step)
    return stored[name], stored["buffers"]


def _check_model(population: Population, params: Any) -> None:
    described = population.abstract_state().params
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, described):
        raise UserError("transfer: the source's model is another one than config.model describes")


def _optimizer_state(num_runs: int, transfer: ConfigDict, like: Any) -> Any:
    """One run's moments at a step of which everything was stored; its source has `num_runs`."""
    with Checkpoints(pathlib.Path(transfer.source) / "checkpoints") as checkpoints:
        if transfer.step not in checkpoints.steps():
            kept = ", ".join(f"{step:,}" for step in checkpoints.steps())
            raise UserError(
                f"transfer.optimizer_state: {transfer.source} has that of step {kept} only, not of"
                f" {transfer.step:,}; give fresh, or transfer.checkpoints=end"
            )
        shapes = {"opt_state": with_rows(like, num_runs)}
        return checkpoints.restore_state(transfer.step, shapes, transfer.run_id)["opt_state"]
