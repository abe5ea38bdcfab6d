"""A population: functions of one run under `vmap`, spread over devices by runs (and by batch).

Here and in `mesh.py` alone a run axis exists. `over_runs` maps a function of one run over all of
them; nothing in it communicates, so a run's numbers do not depend on its neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import RUNNING, STOPPED
from grokjax.data.dataset import Dataset, Probes, QueryTable, stack_datasets
from grokjax.runtime.processes import are_several
from grokjax.training.choices import (
    choose_layout,
    evaluation_bytes,
    runs_at_once,
    training_bytes,
)
from grokjax.training.evaluate import EvaluateConfig, evaluate
from grokjax.training.mesh import (
    BY_RUN,
    among_nan,
    make_mesh,
    over_runs,
    padded_rows,
    place,
    place_rows,
    platform_of,
    put_rows,
    take_rows,
)
from grokjax.training.optim import Hyperparameters
from grokjax.training.own_checks import check_own_functions
from grokjax.training.resolve import (
    evaluated_model,
    hyperparameters,
    model_config,
    optimizer_config,
)
from grokjax.training.step import (
    RunState,
    StepMetrics,
    TrainConfig,
    init_run,
    status_code,
    train_chunk,
)
from grokjax.workdir.arrays import with_rows

_COMPACT_BELOW = 0.75  # of the places in the program: fewer is worth compiling again


# Populations of one shape, or one that is resumed in the same process, share their programs: JAX
# keeps what it traced and compiled with the function.
_kept = functools.lru_cache(maxsize=16)


@_kept
def make_init(config: TrainConfig, mesh: Mesh) -> Callable[..., RunState]:
    """(hyper [R], init seeds [R], order seeds [R]) -> the population's first state."""
    return over_runs(functools.partial(init_run, config), mesh)


@_kept
def make_train_chunk(
    config: TrainConfig, mesh: Mesh, num_steps: int
) -> Callable[[RunState, Hyperparameters, QueryTable], tuple[RunState, StepMetrics]]:
    """(state, hyper, tables) -> (state after `num_steps`, mean metrics [R]). Consumes the state."""

    num_shares = mesh.shape["batch"]
    if config.batch_size % num_shares:
        raise UserError(
            f"train.batch_size: {config.batch_size} is no multiple of the {num_shares} devices"
            " that share a batch (train.batch_devices)"
        )
    # Dropout draws one mask for a whole batch, so XLA has to divide what follows from it.
    by_hand = num_shares > 1 and not config.model.dropout
    share = config.batch_size // num_shares
    model = choose_layout(config.model, platform_of(mesh), share, whole=num_shares == 1 or by_hand)
    axis = "batch" if by_hand else None
    config = dataclasses.replace(config, model=model, batch_axis=axis)

    def split_batch(query: Array) -> Array:
        if num_shares == 1 or by_hand:
            return query
        return jax.lax.with_sharding_constraint(query, PartitionSpec("batch"))

    def chunk(state, hyper, table):
        return train_chunk(config, num_steps, state, hyper, table, split_batch)

    at_once = runs_at_once(platform_of(mesh), training_bytes(model, share))
    return over_runs(chunk, mesh, donate=(0,), at_once=at_once, shares_batch=by_hand)


@_kept
def make_evaluate(
    config: EvaluateConfig, mesh: Mesh, raw_weights: bool = False
) -> Callable[[RunState, Probes], dict[str, Array]]:
    """(state, probes) -> metrics, [R] each: of the EMA weights and, if asked, `raw/...`."""

    whole = mesh.shape["batch"] == 1
    model = choose_layout(config.model, platform_of(mesh), config.batch_size, whole)
    config = dataclasses.replace(config, model=model)

    def measure(state: RunState, probes: Probes) -> dict[str, Array]:
        metrics = evaluate(config, state.ema_params, state.buffers, probes)
        if raw_weights:
            raw = evaluate(config, state.params, state.buffers, probes)
            metrics |= {f"raw/{name}": value for name, value in raw.items()}
        return metrics | {"step": state.step, "status": state.status}

    at_once = runs_at_once(platform_of(mesh), evaluation_bytes(model, config.batch_size))
    return over_runs(measure, mesh, at_once=at_once)


class Population:
    """R runs with their data on the devices, and the compiled programs that move them on.

    Args:
      config: the shared settings.
      runs: each run's resolved settings, R of them.
      datasets: each run's data, R of them.
      devices: to train on; all visible ones when None.
    """

    def __init__(
        self,
        config: ConfigDict,
        runs: Sequence[ConfigDict],
        datasets: Sequence[Dataset],
        devices: Sequence[Any] | None = None,
    ):
        vocabulary, self.task = datasets[0].vocabulary, datasets[0].task
        model = model_config(config, vocabulary.size, self.task)
        self.num_runs = len(runs)
        self.train_config = TrainConfig(
            model,
            config.train.batch_size,
            config.train.loss,
            vocabulary.end_id,
            optimizer_config(config, runs),
        )
        self.evaluate_config = EvaluateConfig(
            evaluated_model(config, model),
            config.evaluate.batch_size,
            vocabulary.end_id,
            config.evaluate.path_stage,
            config.evaluate.path_position,
            config.evaluate.metrics,
            self.task,
        )
        self.raw_weights = config.evaluate.raw_weights
        numbers = hyperparameters(runs, model.param_dtype)
        check_own_functions(config, self.task, model, numbers)
        self.mesh = make_mesh(self.num_runs, config.train.batch_devices, devices)
        tables, probes = stack_datasets(datasets)
        if self.train_config.batch_size * int(tables.size.max()) >= 2**32:
            raise UserError(
                f"train.batch_size: {self.train_config.batch_size:,} times the largest training set"
                f" of {int(tables.size.max()):,} items must stay below 2**32"
            )
        seeds = tuple(jnp.array([run.seeds[kind] for run in runs]) for kind in ("init", "order"))
        self.hyper, self.tables, self.probes, self._seeds = place(
            (numbers, tables, probes, seeds), self.mesh
        )
        self._rows = padded_rows(self.num_runs, self.mesh)
        # Of these the process holds neighbouring ones.
        held = NamedSharding(self.mesh, BY_RUN).addressable_devices_indices_map(self._rows.shape)
        own = np.concatenate([np.arange(len(self._rows))[index] for index in held.values()])
        self._own = slice(int(own.min()), int(own.max()) + 1)
        self.compile_seconds = 0.0
        self._num_evaluations = 0
        self._evaluation_times: list[float] = []
        self._programs: dict[Any, Any] = {}
        self._staying: _Staying | None = None  # of runs that still train, once some have left

    def init(self) -> RunState:
        return make_init(self.train_config, self.mesh)(self.hyper, *self._seeds)

    def abstract_state(self) -> RunState:
        """Shapes and dtypes of the R runs' state, as checkpoints hold it."""
        shapes = jax.eval_shape(make_init(self.train_config, self.mesh), self.hyper, *self._seeds)
        return with_rows(shapes, self.num_runs)

    @property
    def state_bytes(self) -> int:
        """Of the state, by its shapes: of this machine on CPUs, of one device elsewhere."""
        shapes = jax.tree.leaves(self.abstract_state())
        per_run = sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in shapes)
        devices = self.mesh.local_devices
        rows = len(self._rows) // self.mesh.shape["run"]
        return per_run * rows * (len(devices) if devices[0].platform == "cpu" else 1)

    def place(self, state: Any) -> Any:
        return place(state, self.mesh)

    @property
    def own_runs(self) -> np.ndarray:
        """The runs that this process holds, the copies that fill up the mesh included."""
        return self._rows[self._own]

    def place_own(self, state: RunState) -> RunState:
        """A state of which each process has its `own_runs` alone."""
        return place_rows(state, self.mesh, len(self._rows), self._own.start)

    def for_all(self, tree: Any) -> Any:
        """Small arrays with a run axis, so that every process can read them."""
        if not are_several():
            return tree
        return jax.jit(_identity, out_shardings=NamedSharding(self.mesh, PartitionSpec()))(tree)

    def train_program(self, state: RunState, num_steps: int) -> Any:
        """Compiled: state -> (state, metrics) over `num_steps`. Consumes the state."""
        chunk = make_train_chunk(self.train_config, self.mesh, num_steps)
        return self._compile(num_steps, chunk, state, self.hyper, self.tables)

    def train(self, state: RunState, num_steps: int) -> tuple[RunState, StepMetrics]:
        """The state after `num_steps`, and mean metrics: NaN of runs that have left."""
        if self._staying is None:
            return self.train_program(state, num_steps)(state, self.hyper, self.tables)
        own = self._staying
        part = take_rows(state, own.rows, self.mesh)
        chunk = make_train_chunk(self.train_config, self.mesh, num_steps)
        program = self._compile((num_steps, len(own.rows)), chunk, part, own.hyper, own.tables)
        part, metrics = program(part, own.hyper, own.tables)
        metrics = among_nan(metrics, own.rows, len(self._rows), self.mesh)
        return put_rows(state, part, own.rows, self.mesh), metrics

    def stop(self, state: RunState, ended: Bool[np.ndarray, " R"]) -> RunState:
        """Freezes runs that have reached their end; they leave the program when enough have."""
        ended = ended[self._rows]
        stopping = place(jnp.asarray(ended), self.mesh)
        stopping &= state.status == status_code(RUNNING)
        status = jnp.where(stopping, status_code(STOPPED), state.status)
        # A frozen run costs as much as any, for its row is computed and dropped. So the others move
        # into a smaller program, once that saves more than it costs to compile.
        staying = np.flatnonzero(~ended)
        places = -(-max(len(staying), 1) // self.mesh.shape["run"]) * self.mesh.shape["run"]
        now = len(ended) if self._staying is None else len(self._staying.rows)
        if len(staying) and places <= _COMPACT_BELOW * now:
            rows = np.concatenate([staying, np.repeat(staying[-1:], places - len(staying))])
            own = take_rows((self.hyper, self.tables), rows, self.mesh)
            self._staying = _Staying(rows, *own)
        return dataclasses.replace(state, status=status)

    def evaluate(self, state: RunState) -> dict[str, Array]:
        measure = make_evaluate(self.evaluate_config, self.mesh, self.raw_weights)
        program = self._compile("evaluate", measure, state, self.probes)
        self._num_evaluations += 1
        if self._num_evaluations & (self._num_evaluations - 1):
            return self.for_all(program(state, self.probes))
        # The 1st, 2nd, 4th, 8th ... is timed: to wait for each would keep the devices idle.
        jax.block_until_ready(state)
        start = time.perf_counter()
        measured = jax.block_until_ready(self.for_all(program(state, self.probes)))
        self._evaluation_times.append(time.perf_counter() - start)
        return measured

    @property
    def evaluation_seconds(self) -> float:
        """Of all evaluations so far, from the median of those that were timed."""
        times = self._evaluation_times[1:] or self._evaluation_times  # the first one warms up
        return self._num_evaluations * float(np.median(times)) if times else 0.0

    def _compile(self, name: Any, function: Any, *args: Any) -> Any:
        if name not in self._programs:
            start = time.perf_counter()
            self._programs[name] = function.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - start
        return self._programs[name]


@dataclasses.dataclass(frozen=True)
class _Staying:
    """Rows of the runs that still train, the last repeated to fill the mesh, and their data."""

    rows: np.ndarray
    hyper: Hyperparameters
    tables: QueryTable


def _identity(tree: Any) -> Any:
    return tree
