"""Checkpoints through Orbax (here and in `arrays.py` alone), each with a manifest of our own.

Orbax restores a flipped bit without a word and lists half-deleted steps: a step counts when
`manifest.py` has sealed it, and is skipped when its files differ from that. Two kinds:
`state/` (everything, for resume, the newest few) and `analysis/` (parameters and their average, on
a log grid, never deleted). The latter have the SHA-256 of each run's part of each array, so that a
run can be read, and verified, alone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from grokjax.base.errors import UserError
from grokjax.base.files import disk_error
from grokjax.runtime.processes import are_several, is_primary, on_all, on_primary
from grokjax.workdir.arrays import (
    RUN_HASHES,
    check_shapes,
    per_run_chunks,
    read_runs,
    shapes_by_name,
    trim,
    with_key,
    without_keys,
    write_run_hashes,
)
from grokjax.workdir.manifest import MANIFEST, examine, other_versions, verify, write_manifest

KINDS = ("state", "analysis")
_TRASH = "trash"

logging.getLogger("absl").setLevel(logging.ERROR)


def _hush() -> None:
    """What Orbax says of a full disk beside raising it: log lines, and writes that it gave up."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda r: not disk_error((r.getMessage(), r.exc_info)))
    warnings.filterwarnings("ignore", "coroutine '.*write_fragment' was never", RuntimeWarning)


_hush()


class Checkpoints:
    """The checkpoints of one workdir. Leaves have a leading run axis; keys may be typed.

    Args:
      directory: holds `state/` and `analysis/`.
      keep: full states to keep.
      settings: hash of the workdir's settings; a step of others is refused.
      num_runs: rows beyond are copies that fill up a mesh, and are not stored; None: all are.

    Several processes call everything but the reading of single runs together. Each writes its own
    shards; process 0 seals the step when all have.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 2,
        settings: str = "",
        num_runs: int | None = None,
    ):
        self.directory = pathlib.Path(directory).absolute()
        self._keep, self._settings, self._num_runs = keep, settings, num_runs
        self._managers: dict[str, _Manager] = {}
        self._unsealed: list[tuple[str, int, dict[str, tuple]]] = []  # kind, step, shapes by name
        self._verified: set[pathlib.Path] = set()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed and are_several():  # others would wait for one that failed
            return
        with contextlib.suppress(*[UserError] if failed else []):  # the first failure is told
            self.close()

    def save(self, step: int, state: Any) -> None:
        """Saves everything; the step is sealed when this returns, and older ones go then.

        Raises:
          UserError: the disk is full or refuses; the steps before are as they were.
        """
        self._save("state", step, state)
        self.wait()
        # A later one is damaged: it was skipped.
        older = on_primary(lambda: [s for s in self.steps() if s < step])
        for old in older[: max(len(older) + 1 - self._keep, 0)]:
            self._remove("state", old)

    def save_analysis(self, step: int, weights: Mapping[str, Any]) -> None:
        """Saves what the analysis reads (params, ema_params, buffers), for good."""
        self._save("analysis", step, dict(weights))

    def wait(self) -> None:
        """Until every save is on the disk and sealed with its manifest."""
        unsealed, self._unsealed = self._unsealed, []
        for manager in self._managers.values():
            on_all(functools.partial(self._write, manager.wait_until_finished))
        for saved in unsealed:
            # All wait for it: one that left before would take the others with it.
            on_primary(functools.partial(self._write, self._seal, *saved))

    def close(self) -> None:
        try:
            self.wait()
        finally:
            managers, self._managers = self._managers, {}
            for manager in managers.values():
                on_all(functools.partial(self._write, manager.close))

    def steps(self, kind: str = "state") -> list[int]:
        """Sealed steps, ascending."""
        return [
            step for step in self._found(kind) if (self._folder(kind, step) / MANIFEST).exists()
        ]

    def examine(self, kind: str, *, content: bool) -> dict[int, tuple[str, str]]:
        """By step, sealed or not: good, damaged or partial, and why.

        Args:
          kind: state or analysis.
          content: whether to read every byte; otherwise names and sizes alone.
        """
        return {s: examine(self._folder(kind, s), content=content) for s in self._found(kind)}

    def restore_latest(self, like: Any, runs: Any = slice(None)) -> tuple[int, Any] | None:
        """(step, state) of the newest step that is whole, or None if none was ever sealed.

        Args:
          like: the state's structure, shapes and dtypes, of all runs.
          runs: rows to read, in their order; of several processes each asks for its own.

        Raises:
          UserError: there are steps, and all of them are damaged or of another model.
        """
        problems = []
        for step in on_primary(lambda: self._found("state")[::-1]):
            try:
                state = self.restore(step, like, runs)
            except UserError as problem:
                problems.append(str(problem))
                if is_primary():
                    print(f"skipping checkpoint {problem}", flush=True)
            else:
                return step, state
        if problems and not on_primary(self.steps):
            return None  # the first save was cut off; whether more is lost, curves tell
        if problems:
            raise UserError(
                f"{self.directory}: no usable checkpoint ({problems[0]}); restore the folder from a"
                " copy, or start in a new workdir"
            )
        return None

    def restore(self, step: int, like: Any, runs: Any = slice(None)) -> Any:
        """The full state of a step, verified; a line tells of packages that have changed since.

        `like` and `runs` are as in `restore_latest`.

        Raises:
          UserError: it is damaged, or of other settings or another model.
        """
        folder = self._folder("state", step)
        changed = on_primary(lambda: other_versions(verify(folder, self._settings)))
        state = on_all(functools.partial(self._restore, folder, like, runs))
        if changed and is_primary():
            print(f"{folder}: saved by {changed}; what follows may round otherwise", flush=True)
        return state

    def restore_analysis(
        self, step: int, like: Any, runs: int | Sequence[int] | None = None
    ) -> Any:
        """Parameters and EMA of a step: {"params": ..., "ema_params": ...}.

        Args:
          step: one of `steps("analysis")`; its files are verified once.
          like: structure, shapes and dtypes, run axis included; a part of what is stored will do.
          runs: only these runs' slices (of a number without the run axis); reads and verifies only
            their own chunks.
        """
        folder = self._folder("analysis", step)
        if runs is not None:
            manifest = verify(folder, self._settings, content=False)
            if RUN_HASHES in manifest["files"]:
                return self._restore(folder, like, runs)
        if folder not in self._verified:
            verify(folder, self._settings)
            self._verified.add(folder)
        return self._restore(folder, like, slice(None) if runs is None else runs)

    def restore_state(self, step: int, like: Any, run: int) -> Any:
        """One run's part of a full state, `like` and `run` as above; step is one of `steps()`."""
        folder = self._folder("state", step)
        verify(folder, self._settings)
        return self._restore(folder, like, run)

    def _folder(self, kind: str, step: int) -> pathlib.Path:
        return self.directory / kind / str(step)

    def _found(self, kind: str) -> list[int]:
        folder = self.directory / kind
        names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
        return sorted(int(n) for n in names if n.isascii() and n.isdigit() and str(int(n)) == n)

    def _save(self, kind: str, step: int, tree: Any) -> None:
        self.wait()
        folder = self._folder(kind, step)
        with contextlib.suppress(UserError):
            on_primary(lambda: bool(verify(folder, self._settings)))
            return  # saved before, and whole
        if on_primary(folder.exists):  # a save that was cut off, or damaged since
            self._remove(kind, step)
            if kind in self._managers:
                self._managers.pop(kind).close()
        tree = without_keys(tree)
        args = ocp.args.PyTreeSave(tree, save_args=jax.tree.map(per_run_chunks, tree))
        manager = self._manager(kind)
        on_all(lambda: self._write(lambda: manager.save(step, args=args, force=True)))
        self._unsealed.append((kind, step, shapes_by_name(tree)))

    def _seal(self, kind: str, step: int, shapes: Mapping[str, tuple]) -> None:
        folder = self._folder(kind, step)
        trim(folder, shapes, self._num_runs)
        if kind == "analysis":
            write_run_hashes(folder, shapes)
        write_manifest(folder, self._settings)

    def _write(self, function: Callable, *args: Any) -> None:
        """Calls what writes; whatever Orbax and TensorStore raise then becomes one line."""
        try:
            function(*args)
        except Exception as error:
            for kind in self._managers if is_primary() else ():
                self._sweep(kind)
            raise UserError(
                f"{self.directory}: a checkpoint cannot be saved ({_reason(error)}); those before"
                " are whole: make room or mend it, and the same command goes on"
            ) from error

    def _sweep(self, kind: str) -> None:
        """Removes what a removal or a save left that was cut off."""
        folder = self.directory / kind
        for path in [*folder.glob(f"{_TRASH}.*"), *folder.glob("*.orbax-checkpoint-tmp*")]:
            shutil.rmtree(path, ignore_errors=True)

    def _remove(self, kind: str, step: int) -> None:
        """Renamed first, so that a step is never half there."""

        def remove() -> None:
            trash = self.directory / kind / f"{_TRASH}.{step}"
            self._write(os.rename, self._folder(kind, step), trash)
            self._sweep(kind)

        on_primary(remove)

    def _manager(self, kind: str) -> _Manager:
        if kind not in self._managers:
            folder = self.directory / kind

            def prepare() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                self._sweep(kind)

            on_primary(lambda: self._write(prepare))
            options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
            self._managers[kind] = _Manager(folder, options=options)
        return self._managers[kind]

    def _restore(self, folder: pathlib.Path, like: Any, runs: Any) -> Any:
        plain = jax.eval_shape(without_keys, like)
        try:
            check_shapes(folder, plain)
            restored = read_runs(folder, plain, runs)
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise whatever they meet
            raise UserError(f"{folder}: cannot be read ({_reason(error)})") from error
        return jax.tree.map(with_key, like, restored)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves preemption to the loop."""

    def reached_preemption(self, step: int) -> bool:
        # Processes agree to stop at the call with a certain number: others' calls would confuse it.
        return False


def log_spaced_steps(num_steps: int, per_decade: int, multiple_of: int) -> list[int]:
    """0, a log grid of multiples of `multiple_of`, and `num_steps`; a longer run keeps the grid."""
    steps = {0, num_steps}
    exponent = 0
    while (step := multiple_of * round(10 ** (exponent / per_decade))) <= num_steps:
        steps.add(step)
        exponent += 1
    return sorted(steps)


def _reason(error: Exception) -> str:
    """What the system said, out of the many lines that Orbax and TensorStore make of it."""
    return disk_error(error) or str(error).split("\n")[0][:120]
