"""A step's arrays, as Orbax stores them: one run's part of each is a chunk that is read alone."""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from grokjax.base.errors import UserError

ITEM = "default"
RUN_HASHES = "runs.sha256"  # [R, arrays in the order of their names, 32] bytes
_INDEX_CACHE = 2**24  # bytes; the arrays of a step share one index
_DIGEST_SIZE = hashlib.sha256().digest_size


def per_run_chunks(leaf: Any) -> ocp.SaveArgs:
    """One run's slice is one chunk, so that it can be read alone."""
    one_run = max(leaf.dtype.itemsize * math.prod(leaf.shape[1:]), 1)
    return ocp.SaveArgs(chunk_byte_size=one_run, shard_axes=(0,))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def without_keys(tree: Any) -> Any:
    """Typed random keys as the plain integers that they are made of."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def with_key(like: Any, leaf: Any) -> Any:
    return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf


def with_rows(tree: Any, num_runs: int) -> Any:
    """Shapes and dtypes of arrays with a leading run axis, for another number of runs."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_runs, *x.shape[1:]), x.dtype), tree)


def _open_array(
    folder: pathlib.Path, name: str, context: ts.Context, *, write: bool = False
) -> ts.TensorStore:
    spec = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder / ITEM}/"},
            "path": f"{name}/",
        },
    }
    return ts.open(spec, read=True, write=write, context=context).result()


def read_runs(folder: pathlib.Path, like: Any, runs: Any) -> Any:
    """Rows of each leaf, or one run's slice; those that are named are compared with their hashes,
    if there are any.

    Raises:
      UserError: an array's slice is damaged.
    """
    context = ts.Context({"cache_pool": {"total_bytes_limit": _INDEX_CACHE}})
    names = jax.tree_util.tree_map_with_path(lambda path, _: _dotted(path), like)
    futures = jax.tree.map(lambda name: _open_array(folder, name, context)[runs].read(), names)
    arrays = jax.tree.map(lambda future: future.result(), futures)
    if not isinstance(runs, slice) and (folder / RUN_HASHES).exists():
        by_name = dict(zip(jax.tree.leaves(names), jax.tree.leaves(arrays), strict=True))
        stored = sorted(_stored_shapes(folder))
        if isinstance(runs, int):
            _compare_hashes(folder, stored, runs, by_name)
        else:
            for i, run in enumerate(runs):
                own = {name: x[i] for name, x in by_name.items()}
                _compare_hashes(folder, stored, run, own)
    return arrays


def _compare_hashes(
    folder: pathlib.Path, stored: Sequence[str], run: int, arrays: Mapping[str, np.ndarray]
) -> None:
    """Of the arrays that are named; `stored` are the names that a run has hashes of, in order."""
    with open(folder / RUN_HASHES, "rb") as file:
        file.seek(run * len(stored) * _DIGEST_SIZE)
        hashes = {name: file.read(_DIGEST_SIZE) for name in stored}
    for name, array in arrays.items():
        if _digest(array) != hashes[name]:
            raise UserError(f"{folder}: {name} of run {run} is damaged")


def write_run_hashes(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Of each run's part of each of a step's arrays, as it is on the disk, array after array."""
    context = ts.Context()
    by_array = [
        [_digest(run) for run in _open_array(folder, name, context).read().result()]
        for name in sorted(names)
    ]
    (folder / RUN_HASHES).write_bytes(
        b"".join(h for run in zip(*by_array, strict=True) for h in run)
    )


def trim(folder: pathlib.Path, shapes: Mapping[str, tuple], num_runs: int | None) -> None:
    """Takes rows beyond `num_runs` out of a step's arrays, of these shapes by name: no array of R
    rows lies evenly on any mesh, so that hosts can only write the padded ones."""
    for name, shape in shapes.items():
        if num_runs and shape[0] > num_runs:
            array = _open_array(folder, name, ts.Context(), write=True)
            rows = [num_runs, *[None] * (len(shape) - 1)]
            array.resize(exclusive_max=rows, shrink_only=True).result()


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.asarray(array).tobytes()).digest()


def _dotted(path: Any) -> str:
    """`params.layers.0.mlp`: a leaf's name, whether a level is a dataclass, a tuple or a dict."""
    return ".".join(map(_level, path))


def _level(entry: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def shapes_by_name(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_dotted(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _stored_shapes(folder: pathlib.Path) -> dict[str, tuple]:
    return shapes_by_name(ocp.PyTreeCheckpointHandler().metadata(folder / ITEM).tree)


def check_shapes(folder: pathlib.Path, like: Any) -> None:
    """Orbax pads or cuts arrays of other shapes in silence; here that is an error."""
    have = _stored_shapes(folder)
    for name, shape in shapes_by_name(like).items():
        if name not in have:
            raise UserError(f"{folder}: of another model, it has no array {name}")
        if have[name] != shape:
            raise UserError(f"{folder}: of another model, {name} is {have[name]}, not {shape}")
