"""A run axis over devices: the mesh, functions of one run mapped over it, arrays placed on it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from grokjax.base.errors import UserError

BY_RUN = PartitionSpec("run")


def make_mesh(num_runs: int, batch_devices: int = 1, devices: Any = None) -> Mesh:
    """The mesh ("run", "batch") that fits `num_runs` with the fewest idle places.

    Args:
      num_runs: R.
      batch_devices: devices that share one run's batch.
      devices: to use; all visible ones, of all processes, when None.

    Raises:
      UserError: a batch is to be split over more devices than there are, or a process has no work.
    """
    grid = arrange(num_runs, batch_devices, jax.devices() if devices is None else devices)
    return Mesh(grid, ("run", "batch"), axis_types=(AxisType.Auto,) * 2)


def arrange(num_runs: int, batch_devices: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices by run place and batch part, an array of objects.

    Rows follow the order of the processes, shared out evenly: each process holds neighbouring runs,
    whole ones unless `batch_devices` is more than it has. Arguments and errors are `make_mesh`'s.
    """
    if batch_devices > len(devices):
        raise UserError(f"train.batch_devices: {batch_devices}, of {len(devices)} devices here")
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    groups = [list(own) for _, own in itertools.groupby(devices, lambda d: d.process_index)]
    num_processes = len(groups)
    if batch_devices > min(map(len, groups)):
        groups = [devices]
    # A place of each process in turn, so that none has many while another has none ...
    by_turns = sorted(
        (place, owner)
        for owner, own in enumerate(groups)
        for place in range(len(own) // batch_devices)
    )
    # ... and no more of them than it takes: 5 runs on 4 devices are two each on 3 of them ...
    rows = -(-num_runs // -(-num_runs // len(by_turns)))
    # ... in the order of processes, whose runs are neighbours: one slice of every array.
    chosen = sorted((owner, place) for place, owner in by_turns[:rows])
    grid = np.array(
        [groups[owner][place * batch_devices :][:batch_devices] for owner, place in chosen]
    )
    if len({device.process_index for device in grid.flat}) < num_processes:
        raise UserError(
            f"{num_processes} processes are too many for {num_runs} runs on {batch_devices} devices"
            " each: start fewer, or split batches over more devices with train.batch_devices"
        )
    return grid


def platform_of(mesh: Mesh) -> str:
    """Of its devices, as JAX names it: cpu, gpu or tpu; they need not be here."""
    return str(mesh.devices.flat[0].platform)


def over_runs(
    function: Callable,
    mesh: Mesh,
    donate: tuple[int, ...] = (),
    at_once: int | None = None,
    shares_batch: bool = False,
) -> Callable:
    """Maps a function of one run over the leading run axis of all its arguments, compiled.

    Every device holds whole runs; the step communicates only where a run's batch is split.

    Args:
      function: of one run; where it shares the batch, it names the axis "batch" in what it sums.
      mesh: from `make_mesh`.
      donate: places of arguments that are consumed.
      at_once: runs of a device that are computed together; all when None. On a CPU it is one: it
        keeps a core busy, and its state stays in the cache, where all runs' do not.
      shares_batch: whether the function divides its batch itself; else XLA does as it likes.
    """
    mapped = jax.shard_map(
        one_by_one(function) if platform_of(mesh) == "cpu" else map_runs(function, at_once),
        mesh=mesh,
        in_specs=BY_RUN,
        out_specs=BY_RUN,
        axis_names={"run", "batch"} if shares_batch else {"run"},
        check_vma=False,  # kernels do not say how their results vary
    )
    return jax.jit(mapped, donate_argnums=donate)


def one_by_one(function: Callable) -> Callable:
    """One run after the other, each as if it were alone."""
    return lambda *args: jax.lax.map(lambda arg: function(*arg), args)


def map_runs(function: Callable, at_once: int | None) -> Callable:
    """`vmap`, over all runs or over one group of them after the other."""

    def mapped(*args: Any) -> Any:
        num_runs = jax.tree.leaves(args)[0].shape[0]
        if at_once is None or num_runs <= at_once:
            return jax.vmap(function)(*args)
        size = group_size(num_runs, at_once)
        return jax.lax.map(lambda arg: function(*arg), args, batch_size=size)

    return mapped


def group_size(num_runs: int, at_most: int) -> int:
    """Without a remainder, whose program would be another one, if that costs less than half."""
    whole = max(size for size in range(1, at_most + 1) if num_runs % size == 0)
    return whole if 2 * whole >= at_most else at_most


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
    return place_rows(padded, mesh, jax.tree.leaves(padded)[0].shape[0], first=0)


def place_rows(tree: Any, mesh: Mesh, size: int, first: int) -> Any:
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


@functools.partial(jax.jit, static_argnums=2)
def take_rows(tree: Any, rows: Int[np.ndarray | Array, " r"], mesh: Mesh) -> Any:
    """Some runs, spread over the devices anew."""
    return _spread(jax.tree.map(lambda x: x[rows], tree), mesh)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def put_rows(tree: Any, part: Any, rows: Int[np.ndarray | Array, " r"], mesh: Mesh) -> Any:
    """Their new values in the place that they have among all."""
    return _spread(jax.tree.map(lambda x, y: x.at[rows].set(y), tree, part), mesh)


@functools.partial(jax.jit, static_argnums=(2, 3))
def among_nan(tree: Any, rows: Int[np.ndarray | Array, " r"], size: int, mesh: Mesh) -> Any:
    """Their metrics in the place that they have among all `size`."""
    nothing = jax.tree.map(lambda x: jnp.full((size, *x.shape[1:]), jnp.nan, x.dtype), tree)
    return _spread(jax.tree.map(lambda x, y: x.at[rows].set(y), nothing, tree), mesh)


def _spread(tree: Any, mesh: Mesh) -> Any:
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, BY_RUN))
