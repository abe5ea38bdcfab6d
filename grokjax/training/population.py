"""A population: functions of one run under `vmap`, spread over devices by runs (and by batch).

The only place where a run axis exists. `over_runs` maps a function of one run over all of them;
nothing in it communicates, so a run's numbers do not depend on its neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import RUNNING, STOPPED
from grokjax.data.dataset import Dataset, Probes, QueryTable, stack_datasets
from grokjax.runtime.processes import are_several
from grokjax.training.evaluate import EvaluateConfig, evaluate
from grokjax.training.optim import Hyperparameters
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

BY_RUN = PartitionSpec("run")
_COMPACT_BELOW = 0.75  # of the places in the program: fewer is worth compiling again


def make_mesh(num_runs: int, batch_devices: int = 1, devices: Any = None) -> Mesh:
    """The mesh ("run", "batch") that fits `num_runs` with the fewest idle places.

    Rows follow the order of the processes, shared out evenly: each process holds neighbouring runs,
    whole ones unless `batch_devices` is more than it has.

    Args:
      num_runs: R.
      batch_devices: devices that share one run's batch.
      devices: to use; all visible ones, of all processes, when None.

    Raises:
      UserError: a batch is to be split over more devices than there are, or a process has no work.
    """
    devices = jax.devices() if devices is None else devices
    if batch_devices > len(devices):
        raise UserError(f"train.batch_devices: {batch_devices}, of {len(devices)} devices here")
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    groups = [list(own) for _, own in itertools.groupby(devices, lambda d: d.process_index)]
    num_processes = len(groups)
    if batch_devices > min(map(len, groups)):
        groups = [devices]
    by_turns = sorted(
        (place, owner)
        for owner, own in enumerate(groups)
        for place in range(len(own) // batch_devices)
    )
    rows = -(-num_runs // -(-num_runs // len(by_turns)))
    chosen = sorted((owner, place) for place, owner in by_turns[:rows])
    grid = np.array(
        [groups[owner][place * batch_devices :][:batch_devices] for owner, place in chosen]
    )
    if len({device.process_index for device in grid.flat}) < num_processes:
        raise UserError(
            f"{num_processes} processes are too many for {num_runs} runs on {batch_devices} devices"
            " each: start fewer, or split batches over more devices with train.batch_devices"
        )
    return Mesh(grid, ("run", "batch"), axis_types=(AxisType.Auto,) * 2)


def over_runs(function: Callable, mesh: Mesh, donate: tuple[int, ...] = ()) -> Callable:
    """Maps a function of one run over the leading run axis of all its arguments, compiled.

    Every device holds whole runs; the step communicates only where a run's batch is split.
    """
    mapped = jax.shard_map(
        _map_runs(function, mesh), mesh=mesh, in_specs=BY_RUN, out_specs=BY_RUN, axis_names={"run"}
    )
    return jax.jit(mapped, donate_argnums=donate)


def _map_runs(function: Callable, mesh: Mesh) -> Callable:
    """`vmap`, or on CPU one run after the other: there a run's state is what fits the cache."""
    if mesh.devices.flat[0].platform == "cpu":
        return lambda *args: jax.lax.map(lambda arg: function(*arg), args)
    return jax.vmap(function)


def make_init(config: TrainConfig, mesh: Mesh) -> Callable[..., RunState]:
    """(hyper [R], init seeds [R], order seeds [R]) -> the population's first state."""
    return over_runs(functools.partial(init_run, config), mesh)


def make_train_chunk(
    config: TrainConfig, mesh: Mesh, num_steps: int
) -> Callable[[RunState, Hyperparameters, QueryTable], tuple[RunState, StepMetrics]]:
    """(state, hyper, tables) -> (state after `num_steps`, mean metrics [R]). Consumes the state."""

    def split_batch(query: Array) -> Array:
        if mesh.shape["batch"] == 1:
            return query
        return jax.lax.with_sharding_constraint(query, PartitionSpec("batch"))

    def chunk(state, hyper, table):
        return train_chunk(config, num_steps, state, hyper, table, split_batch)

    return over_runs(chunk, mesh, donate=(0,))


def make_evaluate(
    config: EvaluateConfig, mesh: Mesh, raw_weights: bool = False
) -> Callable[[RunState, Probes], dict[str, Array]]:
    """(state, probes) -> metrics, [R] each: of the EMA weights and, if asked, `raw/...`."""

    def measure(state: RunState, probes: Probes) -> dict[str, Array]:
        metrics = evaluate(config, state.ema_params, state.buffers, probes)
        if raw_weights:
            raw = evaluate(config, state.params, state.buffers, probes)
            metrics |= {f"raw/{name}": value for name, value in raw.items()}
        return metrics | {"step": state.step, "status": state.status}

    return over_runs(measure, mesh)


def pad_runs(tree: Any, mesh: Mesh) -> Any:
    """Repeats the last run until the runs divide over the mesh."""
    rows = padded_rows(jax.tree.leaves(tree)[0].shape[0], mesh)
    return jax.tree.map(lambda x: x if len(x) == len(rows) else x[rows], tree)


def padded_rows(num_runs: int, mesh: Mesh) -> np.ndarray:
    """Which run is in each row of a padded array: 0 to R - 1, and the last one again."""
    per_place = -(-num_runs // mesh.shape["run"])
    return np.minimum(np.arange(per_place * mesh.shape["run"]), num_runs - 1)


def place(tree: Any, mesh: Mesh) -> Any:
    """Puts stacked arrays on the mesh, padded to it, whole runs to each device.

    Of several processes each has the arrays of all runs, and puts the rows that its devices hold.
    """
    padded = pad_runs(tree, mesh)
    return _place_rows(padded, mesh, jax.tree.leaves(padded)[0].shape[0], first=0)


def _place_rows(tree: Any, mesh: Mesh, size: int, first: int) -> Any:
    """Arrays of `size` rows, of which `tree` has those from `first` on that are needed here."""
    sharding = NamedSharding(mesh, BY_RUN)

    def put(x: Any) -> Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        own = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))

        def rows(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            return own[start - first : stop - first]

        return jax.make_array_from_callback((size, *own.shape[1:]), sharding, rows)

    return jax.tree.map(put, tree)


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
        vocabulary = datasets[0].vocabulary
        model = model_config(config, vocabulary.size)
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
        )
        self.raw_weights = config.evaluate.raw_weights
        self.mesh = make_mesh(self.num_runs, config.train.batch_devices, devices)
        tables, probes = stack_datasets(datasets)
        if self.train_config.batch_size * int(tables.size.max()) >= 2**32:
            raise UserError(
                f"train.batch_size: {self.train_config.batch_size:,} times the largest training set"
                f" of {int(tables.size.max()):,} items must stay below 2**32"
            )
        seeds = tuple(jnp.array([run.seeds[kind] for run in runs]) for kind in ("init", "order"))
        self.hyper, self.tables, self.probes, self._seeds = place(
            (hyperparameters(runs, model.param_dtype), tables, probes, seeds), self.mesh
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

    def place(self, state: Any) -> Any:
        return place(state, self.mesh)

    @property
    def own_runs(self) -> np.ndarray:
        """The runs that this process holds, the copies that fill up the mesh included."""
        return self._rows[self._own]

    def place_own(self, state: RunState) -> RunState:
        """A state of which each process has its `own_runs` alone."""
        return _place_rows(state, self.mesh, len(self._rows), self._own.start)

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
        by_run = NamedSharding(self.mesh, BY_RUN)
        part = _take(state, own.rows, by_run)
        chunk = make_train_chunk(self.train_config, self.mesh, num_steps)
        program = self._compile((num_steps, len(own.rows)), chunk, part, own.hyper, own.tables)
        part, metrics = program(part, own.hyper, own.tables)
        metrics = _among_nan(metrics, own.rows, len(self._rows), by_run)
        return _put(state, part, own.rows, by_run), metrics

    def stop(self, state: RunState, ended: Bool[np.ndarray, " R"]) -> RunState:
        """Freezes runs that have reached their end; they leave the program when enough have."""
        ended = ended[self._rows]
        stopping = place(jnp.asarray(ended), self.mesh)
        stopping &= state.status == status_code(RUNNING)
        status = jnp.where(stopping, status_code(STOPPED), state.status)
        staying = np.flatnonzero(~ended)
        places = -(-max(len(staying), 1) // self.mesh.shape["run"]) * self.mesh.shape["run"]
        now = len(ended) if self._staying is None else len(self._staying.rows)
        if len(staying) and places <= _COMPACT_BELOW * now:
            rows = np.concatenate([staying, np.repeat(staying[-1:], places - len(staying))])
            by_run = NamedSharding(self.mesh, BY_RUN)
            self._staying = _Staying(rows, *_take((self.hyper, self.tables), rows, by_run))
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


@functools.partial(jax.jit, static_argnums=2)
def _take(tree: Any, rows: np.ndarray, by_run: NamedSharding) -> Any:
    """Some runs, spread over the devices anew."""
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x[rows], tree), by_run)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _put(tree: Any, part: Any, rows: np.ndarray, by_run: NamedSharding) -> Any:
    """Their new values in the place that they have among all."""
    whole = jax.tree.map(lambda x, y: x.at[rows].set(y), tree, part)
    return jax.lax.with_sharding_constraint(whole, by_run)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _among_nan(tree: Any, rows: np.ndarray, size: int, by_run: NamedSharding) -> Any:
    """Their metrics in the place that they have among all."""
    whole = jax.tree.map(
        lambda x: jnp.full((size, *x.shape[1:]), jnp.nan, x.dtype).at[rows].set(x), tree
    )
    return jax.lax.with_sharding_constraint(whole, by_run)


def _identity(tree: Any) -> Any:
    return tree
