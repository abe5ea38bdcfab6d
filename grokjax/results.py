"""What a workdir holds, read back: settings, tables and each run's parameters."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import read_json, write_atomically
from grokjax.data.dataset import Dataset
from grokjax.data.graph import regime_name, resolve_augmentation
from grokjax.data.loading import load_dataset
from grokjax.model import Buffers, ModelConfig, Params, init
from grokjax.settings.rows import expand, flatten, settings_hash, swept_settings
from grokjax.training.resolve import evaluated_model, model_config
from grokjax.training.step import STATUS_NAMES
from grokjax.workdir import tables as curves
from grokjax.workdir.checkpoints import Checkpoints
from grokjax.workdir.layout import TIMING, read_config, read_vocab_size


@dataclasses.dataclass(frozen=True)
class Results:
    """A population's workdir. Tables are as on disk; `curves` has a row per run and evaluation."""

    workdir: pathlib.Path
    config: ConfigDict
    vocab_size: int
    runs: pd.DataFrame
    curves: pd.DataFrame

    def run_config(self, run_id: int) -> ConfigDict:
        """The resolved settings of one run."""
        return self._run_configs[run_id].copy_and_resolve_references()

    @functools.cached_property
    def _run_configs(self) -> list[ConfigDict]:
        return expand(self.config)

    def dataset(self, run_id: int) -> Dataset:
        """The data of one run, made or read again.

        Raises:
          UserError: there is no such run.
        """
        if run_id not in self.runs.run_id.tolist():
            raise UserError(f"--run={run_id}: {self.workdir} has runs 0 to {len(self.runs) - 1}")
        return load_dataset(self.run_config(run_id))

    def checkpoint_steps(self) -> list[int]:
        """Steps whose parameters are stored."""
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            return checkpoints.steps("analysis")

    @property
    def model(self) -> ModelConfig:
        """The model as it is evaluated and analysed; every run's."""
        return evaluated_model(self.config, model_config(self.config, self.vocab_size))

    def parameters(self, run_id: int, step: int | None = None) -> dict[str, Any]:
        """One run's {"params", "ema_params", "buffers"} at a stored step, the last by default."""
        return jax.tree.map(jnp.asarray, self._restore(["params", "ema_params"], [run_id], step)[0])

    def weights(
        self, run_id: int, step: int | None = None, *, ema: bool = True
    ) -> tuple[Params, Buffers]:
        """One run's (params, buffers) at a stored step, the last by default."""
        return jax.tree.map(lambda x: x[0], self.stacked_weights([run_id], step, ema=ema))

    def stacked_weights(
        self, run_ids: Sequence[int], step: int | None = None, *, ema: bool = True
    ) -> tuple[Params, Buffers]:
        """The same of several runs, with a leading run axis."""
        name = "ema_params" if ema else "params"
        stored = [(x[name], x["buffers"]) for x in self._restore([name], run_ids, step)]
        return jax.tree.map(lambda *x: jnp.stack(x), *stored)

    def _restore(self, names: Sequence[str], run_ids: Sequence[int], step: int | None) -> list[Any]:
        config = model_config(self.config, self.vocab_size)
        one_run = jax.eval_shape(lambda: init(config, jax.random.key(0)))
        params, buffers = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(self.runs), *x.shape), x.dtype), one_run
        )
        like = dict.fromkeys(names, params) | {"buffers": buffers}
        settings = settings_hash(self.config)
        with Checkpoints(self.workdir / "checkpoints", settings=settings) as checkpoints:
            stored = checkpoints.steps("analysis")
            if not stored:
                raise UserError(f"{checkpoints.directory}: no parameters are stored; train first")
            step = stored[-1] if step is None else step
            return [checkpoints.restore_analysis(step, like, run_id) for run_id in run_ids]


def load(workdir: str | os.PathLike) -> Results:
    """Reads a workdir that `train_and_evaluate` has written.

    Raises:
      UserError: it holds no run, or a file of it is damaged.
    """
    path = pathlib.Path(workdir)
    config = read_config(path)
    vocab_size = read_vocab_size(path)
    runs = curves.read_table(path, curves.RUNS)
    if runs.run_id.tolist() != list(range(len(expand(config)))):
        raise UserError(f"{path / curves.RUNS}: not the runs of config.json; train again")
    return Results(path, config, vocab_size, runs, curves.read_table(path, curves.CURVES))


def run_table(config: ConfigDict, runs: Sequence[ConfigDict], datasets: Sequence[Dataset]):
    """Rows of `runs.csv`: who each run is, what it varies, what its data came to."""
    swept = [name for name in swept_settings(config) if name != "data.regime"]
    rows = []
    for run_id, (run, dataset) in enumerate(zip(runs, datasets, strict=True)):
        flat = flatten(run)
        regime = run.transfer.group or (
            pathlib.Path(run.data.folder).name
            if run.data.folder
            else regime_name(resolve_augmentation(run.data))
        )
        rows.append(
            {"run_id": run_id, "run_hash": settings_hash(run), "regime": regime}
            | {name: flat[name] for name in swept}
            | {"status": STATUS_NAMES[0], "step": 0}
            | dict(dataset.counts)
        )
    return rows


def read_timing(workdir: pathlib.Path) -> list[Any]:
    """What each session of training spent, up to its last checkpoint; empty where no log tells."""
    try:
        return list(read_json(workdir / TIMING))
    except (OSError, ValueError, TypeError):  # none yet, or damaged: it is only a log
        return []


def write_timing(workdir: pathlib.Path, sessions: Sequence[Any]) -> None:
    write_atomically(workdir / TIMING, json.dumps(sessions, indent=1) + "\n")
