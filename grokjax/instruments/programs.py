"""The programs of a population, as shapes alone: what a machine that need not be there would run.

Beside each the floor of its design: the matrix products that its model cannot do without, and the
arrays that come in and go out, once each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from grokjax.analysis.analyze import runs_at_once
from grokjax.analysis.effects import patches_within_budget
from grokjax.analysis.logit_lens import lens_program, queries_within_budget
from grokjax.analysis.patching import Patching, shape_of_one_run
from grokjax.analysis.sites import all_sites
from grokjax.data.dataset import stack_datasets
from grokjax.data.loading import load_datasets
from grokjax.instruments.targets import Target
from grokjax.model import BLOCK_COMPONENTS
from grokjax.model.cost import evaluation_flops, forward_flops, train_flops
from grokjax.settings.rows import expand
from grokjax.training.evaluate import EvaluateConfig
from grokjax.training.mesh import BY_RUN, make_mesh
from grokjax.training.population import make_evaluate, make_train_chunk
from grokjax.training.resolve import (
    evaluated_model,
    hyperparameters,
    model_config,
    optimizer_config,
)
from grokjax.training.step import TrainConfig, init_run

PROGRAMS = ("training", "evaluation", "lens", "patching")
PAIRS = 64  # of a patching cell, `grokjax analyze`'s default


@dataclasses.dataclass(frozen=True)
class Floor:
    """What one device cannot do without, in an optimiser step or a call.

    flops: of the model's matrix products, nothing computed twice, its share of the runs and the
    batch. bytes: state, or arguments and results, in and out once; no activations.
    """

    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Lowerable:
    """A program that `trace` makes for the target, to be lowered and compiled.

    num_steps: optimiser steps in a call of it; 1 of any other than training.
    """

    trace: Callable[[], Any]
    num_runs: int
    num_devices: int
    num_steps: int
    floor: Floor


class Programs:
    """A population's programs, with whole runs on each device of a target.

    Args:
      config: of the population, its rows in `config.runs`.
      target: whose devices they are made for.
      num_runs: as if the population had that many like its first; default: its own.
    """

    def __init__(self, config: ConfigDict, target: Target, num_runs: int | None):
        runs = expand(config)
        self._config, self._runs, self._target = config, runs, target
        datasets = load_datasets(runs)
        vocabulary = datasets[0].vocabulary
        self._model = model_config(config, vocabulary.size, datasets[0].task)
        self._train = TrainConfig(
            self._model,
            config.train.batch_size,
            config.train.loss,
            vocabulary.end_id,
            optimizer_config(config, runs),
        )
        self._evaluate = EvaluateConfig(
            evaluated_model(config, self._model),
            config.evaluate.batch_size,
            vocabulary.end_id,
            config.evaluate.path_stage,
            config.evaluate.path_position,
            task=datasets[0].task,
        )
        wanted = num_runs or len(runs)
        self._mesh = make_mesh(wanted, config.train.batch_devices, target.devices)
        self._num_runs = _filled(wanted, self._mesh)
        self._tables, self._probes = stack_datasets(datasets)
        self._num_probes = max(int(self._probes.table.size.max()), 1)

    def training(self) -> Lowerable:
        """A chunk of steps."""
        hyper, state = self._hyper(), self._state()
        steps = int(self._config.train.chunk_steps)
        chunk: Any = make_train_chunk(self._train, self._mesh, steps)
        tables = self._spread(self._tables)
        flops = train_flops(self._model) * self._train.batch_size / self._mesh.shape["batch"]
        return self._lowerable(
            lambda: chunk.trace(state, hyper, tables), steps, flops, 2 * self._bytes(state)
        )

    def evaluation(self) -> Lowerable:
        state, probes = self._state(), self._spread(self._probes)
        raw = self._config.evaluate.raw_weights
        measure: Any = make_evaluate(self._evaluate, self._mesh, raw)
        flops = (1 + raw) * evaluation_flops(self._evaluate.model) * self._num_probes
        weights = (1 + raw) * self._bytes((state.ema_params, state.buffers))
        return self._lowerable(
            lambda: measure.trace(state, probes), 1, flops, weights + self._bytes(probes)
        )

    def lens(self) -> Lowerable:
        """As `grokjax analyze` calls it, some runs at once."""
        c, model = self._config.evaluate, self._evaluate.model
        mesh, num_runs = self._of_analysis()
        weights, probes = self._weights(mesh, num_runs), self._spread(self._probes, mesh, num_runs)
        batch_size = queries_within_budget(model, self._target.platform)
        site = (c.path_stage, c.path_position)
        program: Any = lens_program(model, batch_size, site, mesh)
        states = (1 if model.is_stack else 2) * len(model.evaluation_stages) * model.seq_len
        heads = 2 * model.hidden_size * model.vocab_size * states
        flops = model.halt_max_steps * forward_flops(model, head=False) + heads
        floor = flops * self._num_probes, self._bytes((weights, probes))
        return self._lowerable(
            lambda: program.trace(weights, probes), 1, *floor, mesh=mesh, num_runs=num_runs
        )

    def patching(self) -> Lowerable:
        """Patches of the streams; those within blocks are a program like it."""
        model = self._evaluate.model
        mesh, num_runs = self._of_analysis()
        sites = [s for s in all_sites(model) if s.component not in BLOCK_COMPONENTS]
        at_once = min(patches_within_budget(model, PAIRS, self._target.platform), len(sites))
        streams = tuple(dict.fromkeys(s.component for s in sites))
        patching = Patching(model, streams, at_once, mesh)
        weights = self._weights(mesh, num_runs)
        one_run = jax.tree.map(shape_of_one_run, weights)
        shapes = self._spread(patching.shapes(one_run, PAIRS), mesh, num_runs)
        program: Any = patching.program
        passes = model.halt_max_steps * at_once * PAIRS
        floor = forward_flops(model) * passes, self._bytes((weights, shapes))
        return self._lowerable(
            lambda: program.trace(weights, *shapes), 1, *floor, mesh=mesh, num_runs=num_runs
        )

    def _lowerable(
        self,
        trace: Callable[[], Any],
        num_steps: int,
        flops: float,
        total_bytes: float,
        *,
        mesh: Mesh | None = None,
        num_runs: int | None = None,
    ) -> Lowerable:
        """`flops` are one run's, `total_bytes` those of all runs."""
        mesh, num_runs = mesh or self._mesh, num_runs or self._num_runs
        places = mesh.shape["run"]
        floor = Floor(flops * num_runs / places, total_bytes / places)
        return Lowerable(trace, num_runs, mesh.size, num_steps, floor)

    def _of_analysis(self) -> tuple[Mesh, int]:
        mesh = make_mesh(self._num_runs, devices=self._target.devices)
        return mesh, _filled(min(self._num_runs, runs_at_once(mesh)), mesh)

    def _hyper(self) -> Any:
        return self._spread(hyperparameters(self._runs, self._model.param_dtype))

    def _state(self, mesh: Mesh | None = None, num_runs: int | None = None) -> Any:
        hyper = hyperparameters(self._runs, self._model.param_dtype)
        seeds = (np.zeros(len(self._runs), np.int32),) * 2

        def first(hyper: Any, init_seed: Any, order_seed: Any) -> Any:
            return init_run(self._train, hyper, init_seed, order_seed)

        return self._spread(jax.eval_shape(jax.vmap(first), hyper, *seeds), mesh, num_runs)

    def _weights(self, mesh: Mesh, num_runs: int) -> tuple[Any, Any]:
        state = self._state(mesh, num_runs)
        return state.ema_params, state.buffers

    def _spread(self, tree: Any, mesh: Mesh | None = None, num_runs: int | None = None) -> Any:
        """Shapes with a run axis, whole runs to each device."""
        sharding = NamedSharding(mesh or self._mesh, BY_RUN)
        rows = num_runs or self._num_runs

        def shape(x: Any) -> jax.ShapeDtypeStruct:
            dtype = jax.dtypes.canonicalize_dtype(x.dtype) if not _is_key(x) else x.dtype
            return jax.ShapeDtypeStruct((rows, *x.shape[1:]), dtype, sharding=sharding)

        return jax.tree.map(shape, tree)

    @staticmethod
    def _bytes(tree: Any) -> int:
        leaves = [x for x in jax.tree.leaves(tree) if not _is_key(x)]
        return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves)


def _filled(num_runs: int, mesh: Mesh) -> int:
    """The runs that a mesh's places hold once the last of them is filled up."""
    places = mesh.shape["run"]
    return -(-num_runs // places) * places


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
