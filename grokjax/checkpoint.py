"""Checkpoints through Orbax, each with a manifest of our own; the only file that imports it.

Orbax restores a flipped bit without a word and lists half-deleted steps, so every step gets a
`manifest.json`, written last and renamed into place: a step without one does not exist, and one
whose files differ from it is skipped. Two kinds: `state/` (everything, for resume, the newest few)
and `analysis/` (parameters and their average, on a log grid, never deleted).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts

from grokjax.distributed import are_several, barrier, is_primary, on_all, on_primary
from grokjax.errors import UserError
from grokjax.files import write_atomically

MANIFEST = "manifest.json"
_ITEM = "default"

logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one workdir. Leaves have a leading run axis; keys may be typed.

    Args:
      directory: holds `state/` and `analysis/`.
      keep: full states to keep.
      num_runs: rows beyond are copies that fill up a mesh, and are not stored; None: all are.

    Several processes call everything but the reading of analysis checkpoints together. Each writes
    its own shards; process 0 seals the step when all have.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, num_runs: int | None = None):
        self.directory = pathlib.Path(directory).absolute()
        self._keep, self._num_runs = keep, num_runs
        self._managers: dict[str, _Manager] = {}
        self._unsealed: list[tuple[str, int]] = []
        self._verified: set[pathlib.Path] = set()
        if is_primary():
            for kind in ("state", "analysis"):
                shutil.rmtree(self.directory / kind / "trash", ignore_errors=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or not are_several():  # others would wait for one that failed
            self.close()

    def save(self, step: int, state: Any) -> None:
        """Saves everything; the step is sealed when this returns."""
        self._save("state", step, state)
        self.wait()

    def save_analysis(self, step: int, weights: Mapping[str, Any]) -> None:
        """Saves what the analysis reads (params, ema_params, buffers), for good."""
        self._save("analysis", step, dict(weights))

    def wait(self) -> None:
        """Until every save is on the disk and sealed with its manifest."""
        for manager in self._managers.values():
            manager.wait_until_finished()
        for kind, step in self._unsealed:
            # All wait for it: one that left before would take the others with it.
            on_primary(functools.partial(self._seal, self.directory / kind / str(step)))
        self._unsealed = []

    def close(self) -> None:
        self.wait()
        for manager in self._managers.values():
            manager.close()
        self._managers = {}

    def steps(self, kind: str = "state") -> list[int]:
        """Sealed steps, ascending."""
        folder = self.directory / kind
        if not folder.is_dir():
            return []
        names = (p.name for p in folder.iterdir() if (p / MANIFEST).is_file())
        return sorted(int(name) for name in names if name.isdigit())

    def restore_latest(self, like: Any, runs: Any = slice(None)) -> tuple[int, Any] | None:
        """(step, state) of the newest step that is whole, or None if none was ever sealed.

        Args:
          like: the state's structure, shapes and dtypes, of all runs.
          runs: rows to read, in their order; of several processes each asks for its own.

        Raises:
          UserError: there are steps, and all of them are damaged or of another model.
        """
        problems = []
        for step in on_primary(lambda: self.steps()[::-1]):
            folder = self.directory / "state" / str(step)
            try:
                on_primary(functools.partial(verify, folder))
                state = on_all(functools.partial(self._restore, folder, like, runs))
            except UserError as problem:
                problems.append(str(problem))
                if is_primary():
                    print(f"skipping checkpoint {problem}", flush=True)
            else:
                return step, state
        if problems:
            raise UserError(
                f"{self.directory}: no usable checkpoint ({problems[0]}); restore the folder from a"
                " copy, or start in a new workdir"
            )
        return None

    def restore_analysis(self, step: int, like: Any, run: int | None = None) -> Any:
        """Parameters and EMA of a step: {"params": ..., "ema_params": ...}.

        Args:
          step: one of `steps("analysis")`; its files are verified once.
          like: structure, shapes and dtypes, run axis included; a part of what is stored will do.
          run: only this run's slice, without the run axis; reads only its own chunks.
        """
        return self._restore_verified("analysis", step, like, run)

    def restore_state(self, step: int, like: Any, run: int) -> Any:
        """One run's part of a full state, `like` and `run` as above; step is one of `steps()`."""
        return self._restore_verified("state", step, like, run)

    def _restore_verified(self, kind: str, step: int, like: Any, run: int | None) -> Any:
        folder = self.directory / kind / str(step)
        if folder not in self._verified:
            verify(folder)
            self._verified.add(folder)
        return self._restore(folder, like, slice(None) if run is None else run)

    def _save(self, kind: str, step: int, tree: Any) -> None:
        self.wait()
        folder = self.directory / kind / str(step)
        with contextlib.suppress(UserError):
            on_primary(functools.partial(verify, folder))
            return  # saved before, and whole
        if on_primary(folder.exists):  # a save that was cut off, or damaged since
            if is_primary():
                shutil.rmtree(folder, ignore_errors=True)
            if kind in self._managers:
                self._managers.pop(kind).close()
            barrier("removed")
        manager = self._manager(kind)
        tree = _without_keys(tree)
        save_args = jax.tree.map(_per_run_chunks, tree)
        manager.save(step, args=ocp.args.PyTreeSave(tree, save_args=save_args), force=True)
        self._unsealed.append((kind, step))

    def _seal(self, folder: pathlib.Path) -> None:
        if folder.is_dir():
            _trim(folder, self._num_runs)
            write_manifest(folder)

    def _manager(self, kind: str) -> _Manager:
        if kind not in self._managers:
            folder = self.directory / kind
            folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep if kind == "state" else None,
                todelete_subdir="trash",
                enable_async_checkpointing=True,
            )
            self._managers[kind] = _Manager(folder, options=options)
        return self._managers[kind]

    def _restore(self, folder: pathlib.Path, like: Any, runs: Any) -> Any:
        plain = jax.eval_shape(_without_keys, like)
        try:
            handler = ocp.PyTreeCheckpointHandler()
            _check_shapes(folder, handler.metadata(folder / _ITEM).tree, plain)
            restored = _read_runs(folder / _ITEM, plain, runs)
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise whatever they meet
            reason = str(error).split("\n")[0][:120]
            raise UserError(f"{folder}: cannot be read ({reason})") from error
        return jax.tree.map(_with_key, like, restored)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves preemption to the loop."""

    def reached_preemption(self, step: int) -> bool:
        # Processes agree to stop at the call with a certain number: others' calls would confuse it.
        return False


def log_spaced_steps(num_steps: int, per_decade: int, multiple_of: int) -> list[int]:
    """0, a log grid of multiples of `multiple_of`, and `num_steps`; a longer run keeps the grid."""
    steps = {0, num_steps}
    exponent = 0
    while (step := multiple_of * 10 ** (exponent / per_decade)) <= num_steps:
        steps.add(multiple_of * round(step / multiple_of))
        exponent += 1
    return sorted(s for s in steps if s <= num_steps)


def write_manifest(folder: pathlib.Path) -> None:
    """Seals a step: size and SHA-256 of each of its files, renamed into place as the last act."""
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_atomically(folder / MANIFEST, json.dumps({"files": files}, indent=1))


def verify(folder: pathlib.Path) -> None:
    """Compares a step with its manifest.

    Raises:
      UserError: what is missing or differs.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        entries = [(name, entry["size"], entry["sha256"]) for name, entry in files.items()]
    except FileNotFoundError:
        raise UserError(f"{folder}: no such checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{folder}: its manifest is damaged") from None
    for name, size, digest in entries:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise UserError(f"{folder}: {name} is missing")
        if path.stat().st_size != size or _sha256(path) != digest:
            raise UserError(f"{folder}: {name} is damaged")


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _per_run_chunks(leaf: Any) -> ocp.SaveArgs:
    """One run's slice is one chunk, so that it can be read alone."""
    one_run = max(leaf.dtype.itemsize * math.prod(leaf.shape[1:]), 1)
    return ocp.SaveArgs(chunk_byte_size=one_run, shard_axes=(0,))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
    """Typed random keys as the plain integers that they are made of."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _with_key(like: Any, leaf: Any) -> Any:
    return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf


def _open(folder: pathlib.Path, path: Any, *, write: bool = False) -> ts.TensorStore:
    """A leaf of a step, as Orbax has stored it."""
    spec = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder}/"},
            "path": _dotted(path) + "/",
        },
    }
    return ts.open(spec, read=True, write=write).result()


def _read_runs(folder: pathlib.Path, like: Any, runs: Any) -> Any:
    """Rows of each leaf, or one run's slice, read chunk by chunk."""
    futures = jax.tree_util.tree_map_with_path(
        lambda path, _: _open(folder, path)[runs].read(), like
    )
    return jax.tree.map(lambda future: future.result(), futures)


def _trim(folder: pathlib.Path, num_runs: int | None) -> None:
    """Takes rows beyond `num_runs` out of a step: no array of R rows lies evenly on any mesh, so
    that hosts can only write the padded ones."""
    if num_runs is None:
        return
    stored = ocp.PyTreeCheckpointHandler().metadata(folder / _ITEM).tree
    for path, leaf in jax.tree_util.tree_leaves_with_path(stored):
        if leaf.shape[0] > num_runs:
            rows = [num_runs, *[None] * (len(leaf.shape) - 1)]
            array = _open(folder / _ITEM, path, write=True)
            array.resize(exclusive_max=rows, shrink_only=True).result()


def _dotted(path: Any) -> str:
    """`params.layers.0.mlp`: a leaf's name, whether a level is a dataclass, a tuple or a dict."""

    def name(entry: Any) -> str:
        for attribute in ("name", "key", "idx"):
            if hasattr(entry, attribute):
                return str(getattr(entry, attribute))
        return str(entry)

    return ".".join(name(entry) for entry in path)


def _check_shapes(folder: pathlib.Path, found: Any, like: Any) -> None:
    """Orbax pads or cuts arrays of other shapes in silence; here that is an error."""

    def shapes(tree: Any) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {_dotted(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    have = shapes(found)
    for name, shape in shapes(like).items():
        if name not in have:
            raise UserError(f"{folder}: of another model, it has no array {name}")
        if have[name] != shape:
            raise UserError(f"{folder}: of another model, {name} is {have[name]}, not {shape}")
