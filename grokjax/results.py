"""What a workdir holds, read back: settings, tables and each run's parameters."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.text import counted
from grokjax.data.dataset import Dataset
from grokjax.data.loading import load_dataset
from grokjax.data.task import Task
from grokjax.model import Buffers, ModelConfig, Params
from grokjax.settings.rows import expand, rows_left
from grokjax.training.resolve import evaluated_model, model_config
from grokjax.training.stored_weights import read_weights
from grokjax.workdir.checkpoints import Checkpoints
from grokjax.workdir.gaps import describe_gaps
from grokjax.workdir.layout import read_config, read_task, read_vocab_size
from grokjax.workdir.tables import CURVES, EMPTY_CURVES, RUNS, read_runs, read_table


class StoredRuns(abc.ABC):
    """What `grokjax.load` gives, of one population or of a sweep's several.

    workdir: the folder. config: the settings. runs: a row per run. curves: a row per run and
    evaluation.
    """

    workdir: pathlib.Path
    config: ConfigDict
    runs: pd.DataFrame
    curves: pd.DataFrame

    @property
    def finetuning(self) -> Results | None:
        """These results, if their runs start from those of another workdir."""
        return None

    def __repr__(self) -> str:
        states = ", ".join(f"{n} {state}" for state, n in self.runs.status.value_counts().items())
        regimes = list(dict.fromkeys(self.runs.regime))
        num_runs = counted(len(self.runs), "run")
        shown = ", ".join(map(str, regimes[:4])) + ", ..." * (len(regimes) > 4)
        steps = f"steps 0 to {self.curves.step.max():,}" if len(self.curves) else "no curves yet"
        return (
            f"<{type(self).__name__} {str(self.workdir)[-60:]}: {num_runs} ({states}) of"
            f" {shown}; {steps}; see .runs, .curves, .config, .weights(run_id),"
            " .dataset(run_id)>"
        )

    @property
    @abc.abstractmethod
    def run_configs(self) -> Sequence[ConfigDict]:
        """The resolved settings of all runs; `run_config` gives a copy of one."""

    @property
    @abc.abstractmethod
    def model(self) -> ModelConfig:
        """The model as it is evaluated and analysed; every run's.

        Raises:
          UserError: the runs of a sweep have several; `locate(run_id)[0].model` is one's.
        """

    @property
    @abc.abstractmethod
    def task(self) -> Task:
        """What the runs' task declares; every run's.

        Raises:
          UserError: as `model`.
        """

    @abc.abstractmethod
    def checkpoint_steps(self) -> list[int]:
        """Steps whose parameters are stored, of every run that has been trained."""

    @abc.abstractmethod
    def stacked_weights(
        self, run_ids: Sequence[int], step: int | None = None, *, ema: bool = True
    ) -> tuple[Params, Buffers]:
        """(params, buffers) of several runs of one model, with a leading run axis."""

    @abc.abstractmethod
    def populations(self) -> dict[str, Results]:
        """Each population that has been trained, in full or in part, by its name."""

    @abc.abstractmethod
    def gaps(self) -> str:
        """Which evaluations and checkpoints for analysis are not there any more; or nothing."""

    def require_curves(self) -> None:
        """For what cannot be without them.

        Raises:
          UserError: nothing has been evaluated yet, or what was is lost.
        """
        if len(self.curves):
            return
        if said := self.gaps():
            raise UserError(f"{said}; a copy of the file would bring them back")
        raise UserError(f"{self.workdir}: nothing has been trained yet; run the sweep first")

    @abc.abstractmethod
    def _own(self, run_id: int) -> tuple[Results, int]:
        """The population of a run that there is, and its id there."""

    def locate(self, run_id: int) -> tuple[Results, int]:
        """The population that a run is in, and its id there.

        Raises:
          UserError: there is no such run.
        """
        self._require(run_id)
        return self._own(run_id)

    def _require(self, run_id: int) -> None:
        if run_id not in self.runs.run_id.tolist():
            raise UserError(f"--run={run_id}: {self.workdir} has runs 0 to {len(self.runs) - 1}")

    def run_config(self, run_id: int) -> ConfigDict:
        """The resolved settings of one run."""
        population, own = self.locate(run_id)
        return population.run_configs[own].copy_and_resolve_references()

    def dataset(self, run_id: int) -> Dataset:
        """The data of one run, made or read again."""
        return load_dataset(self.run_config(run_id))

    def parameters(self, run_id: int, step: int | None = None) -> dict[str, Any]:
        """One run's {"params", "ema_params", "buffers"} at a stored step, the last by default."""
        population, own = self.locate(run_id)
        stored = read_weights(population.workdir, ["params", "ema_params"], own, step)
        return jax.tree.map(jnp.asarray, stored)

    def weights(
        self, run_id: int, step: int | None = None, *, ema: bool = True
    ) -> tuple[Params, Buffers]:
        """One run's (params, buffers) at a stored step, the last by default."""
        return jax.tree.map(lambda x: x[0], self.stacked_weights([run_id], step, ema=ema))


@dataclasses.dataclass(frozen=True, repr=False)
class Results(StoredRuns):
    """A population's workdir. Tables are as on disk; `curves` has a row per run and evaluation."""

    workdir: pathlib.Path
    config: ConfigDict
    vocab_size: int
    runs: pd.DataFrame
    curves: pd.DataFrame

    @functools.cached_property
    def task(self) -> Task:
        return read_task(self.workdir, self.config)

    @property
    def finetuning(self) -> Results | None:
        return self if self.config.transfer.source else None

    @property
    def model(self) -> ModelConfig:
        made = model_config(self.config, self.vocab_size, self.task)
        return evaluated_model(self.config, made)

    @functools.cached_property
    def run_configs(self) -> list[ConfigDict]:
        return expand(self.config)

    def populations(self) -> dict[str, Results]:
        return {"": self}

    def gaps(self) -> str:
        return describe_gaps(self.workdir)

    def _own(self, run_id: int) -> tuple[Results, int]:
        return self, run_id

    def checkpoint_steps(self) -> list[int]:
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            return checkpoints.steps("analysis")

    def stacked_weights(
        self, run_ids: Sequence[int], step: int | None = None, *, ema: bool = True
    ) -> tuple[Params, Buffers]:
        name = "ema_params" if ema else "params"
        stored = read_weights(self.workdir, [name], run_ids, step)
        return jax.tree.map(jnp.asarray, (stored[name], stored["buffers"]))


def load(workdir: str | os.PathLike) -> Results:
    """Reads a workdir that `train_and_evaluate` has written.

    Raises:
      UserError: it holds no run, or a file of it is damaged.
    """
    path = pathlib.Path(workdir)
    config = read_config(path)
    vocab_size = read_vocab_size(path)
    runs = read_runs(path)
    if runs.run_id.tolist() != list(range(len(rows_left(config)))):
        raise UserError(f"{path / RUNS}: not the runs of config.json; train again")
    curves = read_table(path, CURVES) if (path / CURVES).exists() else EMPTY_CURVES
    return Results(path, config, vocab_size, runs, curves)


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> Results:
    """Trains every run of `config` in one program; the workdir holds whatever comes of it.

    The same call again resumes where the last one stopped, or finds that nothing is left to do; a
    larger `train.num_steps` extends. Several processes, if the environment tells of them, share
    the runs.

    Args:
      config: from `grokjax.load_experiment`, or an experiment file's `get_config`.
      workdir: a folder of its own; made if need be.
      on_step: called with the step that is reached, after every chunk.

    Returns:
      What `grokjax.load(workdir)` gives.

    Raises:
      UserError: bad settings, data or workdir, or one that another process works in; nothing has
        been written then. Or a disk that is full or refuses: what was saved before is whole.
      Interrupted: after Ctrl-C or SIGTERM; everything up to the last chunk is saved.
    """
    from grokjax.training.loop import train  # who only reads needs no training

    train(config, workdir, on_step=on_step)
    return load(workdir)
