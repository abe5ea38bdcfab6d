"""Training a population from start to end: the whole story, and all that touches the host."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import writing_to
from grokjax.data.dataset import POSITIONS, Dataset
from grokjax.data.folder import data_hash, load_datasets
from grokjax.model.cost import Estimate, estimate, peak_bytes
from grokjax.results import Results, load, read_timing, run_table, write_timing
from grokjax.runtime.devices import setup_devices, setup_precision
from grokjax.runtime.interrupt import Interrupt, Interrupted
from grokjax.runtime.processes import barrier, is_primary, join_processes, on_all, on_primary
from grokjax.runtime.progress import Progress, headline
from grokjax.settings.experiment import validate
from grokjax.settings.rows import expand, settings_hash, swept_settings
from grokjax.training.population import Population
from grokjax.training.starts import starting_state
from grokjax.training.step import DIVERGED, DONE, RUNNING, STATUS_NAMES, STOPPED, RunState
from grokjax.training.stopping import Stopping
from grokjax.training.tensorboard import TensorBoardWriters
from grokjax.workdir.checkpoints import Checkpoints, log_spaced_steps
from grokjax.workdir.layout import check_data, open_workdir, write_config
from grokjax.workdir.lock import locked_once
from grokjax.workdir.tables import CURVES, CurveWriter, read_table, write_runs

_ENDED = (STATUS_NAMES[DIVERGED], STATUS_NAMES[STOPPED])


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
    setup_devices()
    join_processes()
    validate(config)
    setup_precision(config.model.dtype)
    path = on_all(lambda: open_workdir(workdir, config))
    runs = expand(config)
    datasets = on_all(lambda: load_datasets(runs))
    data_sha256 = data_hash(datasets)
    on_all(lambda: check_data(path, data_sha256))
    population = Population(config, runs, datasets)
    num_steps, eval_every = config.train.num_steps, config.train.eval_every

    checkpoints = Checkpoints(
        path / "checkpoints",
        keep=config.checkpoint.keep,
        settings=settings_hash(config),
        num_runs=len(runs),
    )
    with Interrupt() as interrupt, locked_once(path), writing_to(path), checkpoints as saved:
        step, state = restore_or_start(saved, population, runs)
        on_step(step)
        progress = Progress(len(runs), step, num_steps)
        if step == 0:
            on_primary(lambda: refuse_lost_checkpoints(path, config))
        ended = population.for_all((state.step, state.status))
        all_ended = np.all(np.asarray(ended[1]) != RUNNING)
        if step >= num_steps or (step and all_ended):
            if is_primary():
                table = run_table(config, runs, datasets)
                write_final_runs(path, table, ended[0], ended[1], step >= num_steps)
            barrier("final")
            if all_ended:
                said = f"all runs have ended by step {step:,}; nothing is left to do"
            else:
                said = f"done at step {step:,}; a larger train.num_steps extends it"
            progress.say(f"{path}: {said}")
            return load(path)
        needs = on_all(lambda: check_memory(config, population, state, num_steps - step))
        progress.say(describe(datasets))
        progress.say(f"{path}: resuming at step {step:,}" if step else str(needs))
        if is_primary():
            write_config(path, config, datasets[0].vocabulary.size, data_sha256)
        log = Log(config, runs, datasets, population, path, step)
        analysis_steps = log_spaced_steps(
            num_steps, config.checkpoint.analysis_steps_per_decade, eval_every
        )
        stopping = Stopping(config, len(runs))
        if config.train.stop_at and step:
            stopping.note(log.rows_before())
        if step == 0:
            log.expect(0, population.evaluate(state), None)
            saved.save_analysis(0, weights(state))
        is_last = False
        interrupt.hold()
        while not is_last:
            if log.stop(step, ended := stopping.ended(step)):
                state = population.stop(state, ended)
            end = min(step - step % config.train.chunk_steps + config.train.chunk_steps, num_steps)
            state, metrics = population.train(state, end - step)
            step = end
            rows = log.fetch()  # of the evaluation before, while this chunk runs
            stopping.note(rows)
            if step % eval_every == 0 or step == num_steps:
                log.expect(step, population.evaluate(state), metrics)
            # Whatever is saved must leave the device before the next chunk consumes it.
            if step in analysis_steps:
                saved.save_analysis(step, weights(state))
            interrupted = interrupt.reached()
            is_last = step == num_steps or interrupted or log.all_ended()
            if step % config.checkpoint.every == 0 or is_last:
                if newer := log.fetch():
                    stopping.note(newer)
                    rows = newer
                log.flush(step)
                saved.save(step, state)
            on_step(step)
            progress.update(step, log.headline(rows) if rows else None, last=is_last)
        log.close(step, finished=step == num_steps)
    barrier("written")
    if step < num_steps and interrupted:
        raise Interrupted(f"{path}: saved at step {step:,}; the same command goes on from there")
    return load(path)


def describe(datasets: Sequence[Dataset]) -> str:
    """One line: training items, and what is wrong with a folder that is used all the same."""
    sizes = sorted({int(d.train.size) for d in datasets})
    text = f"data: {sizes[0]:,}" + (f" to {sizes[-1]:,}" if len(sizes) > 1 else "")
    text += " training items a run"
    missing, contradicting = (
        max(d.counts.get(name, 0) for d in datasets)
        for name in ("num_missing_facts", "num_contradictions")
    )
    if missing or contradicting:
        text += (
            f"; {missing:,} compositions without one of their facts, {contradicting:,} that"
            " contradict them"
        )
    return text


def restore_or_start(
    saved: Checkpoints, population: Population, runs: Sequence[ConfigDict]
) -> tuple[int, RunState]:
    """The newest whole checkpoint, or the state before the first step."""
    restored = saved.restore_latest(population.abstract_state(), population.own_runs)
    if restored is None:
        return 0, starting_state(population, runs)
    return restored[0], population.place_own(restored[1])


def refuse_lost_checkpoints(path: pathlib.Path, config: ConfigDict) -> None:
    """Curves beyond the first checkpoint without a checkpoint: starting anew would lose them.

    Raises:
      UserError: what is missing.
    """
    if not (path / CURVES).exists():
        return
    table = read_table(path, CURVES)
    reached = table.step.max() if len(table) else 0
    if reached > config.checkpoint.every:
        raise UserError(
            f"{path}: its curves reach step {reached:,.0f} but checkpoints/state is gone; restore"
            " it, or start in a new workdir"
        )


def write_final_runs(
    path: pathlib.Path, table: list[dict], steps: Any, status: Any, finished: bool
) -> None:
    """`runs.csv` after the last save, by a process that only finds it: its own may be dead.

    Args:
      path: the workdir.
      table: rows of the runs.
      steps, status: of each run, in the last state.
      finished: whether it is of the last step.
    """
    for run, step, code in zip(table, steps, status, strict=False):  # a padded state
        run |= {"step": int(step), "status": STATUS_NAMES[int(code)]}
    write_runs(path, with_done(table) if finished else table)


def with_done(table: list[dict]) -> list[dict]:
    """Rows of the runs, after the last step."""
    done = {"status": STATUS_NAMES[DONE]}
    return [run | done if run["status"] == STATUS_NAMES[RUNNING] else run for run in table]


def weights(state: RunState) -> dict[str, Any]:
    """What the analysis reads of a state."""
    return {name: getattr(state, name) for name in ("params", "ema_params", "buffers")}


def check_memory(
    config: ConfigDict, population: Population, state: RunState, num_steps: int
) -> Estimate:
    """Compiles the training program and says what it will take, before anything is written."""
    program = population.train_program(state, min(config.train.chunk_steps, num_steps))
    needs = estimate(
        population.train_config.model,
        population.num_runs,
        num_steps * config.train.batch_size,
        program,
        list(population.mesh.local_devices),
    )
    if needs.bytes_available and needs.bytes_needed > needs.bytes_available:
        raise UserError(
            f"memory: {needs}; train fewer runs at once, lower train.batch_size, or split batches"
            " over devices with train.batch_devices"
        )
    return needs


class Log:
    """Curves, TensorBoard, run table and timing of one session. All processes of it know the rows;
    the first one writes them."""

    def __init__(self, config, runs, datasets, population: Population, workdir, start_step: int):
        self._population, self._workdir = population, workdir
        self._table = run_table(config, runs, datasets)
        self._writes = is_primary()
        if self._writes:
            write_runs(workdir, self._table)
            self._sessions = read_timing(workdir) if start_step else []
            self._curves = CurveWriter(workdir, start_step)
            names = ["regime", *(n for n in swept_settings(config) if n != "data.regime")]
            hparams = [{n: row[n] for n in names} for row in self._table]
            folder = workdir / "tensorboard"
            self._board = TensorBoardWriters(folder, self._table, hparams, start_step)
        barrier("tables")
        self._start_step = start_step
        self._start = time.perf_counter() - population.compile_seconds  # spent before this log
        self._pending: tuple | None = None
        self._stopped: dict[int, int] = {}  # at which step, by run

    def expect(self, step: int, measured: dict, metrics: Any) -> None:
        """Notes an evaluation that the devices are still busy with."""
        loss = None if metrics is None else self._population.for_all(metrics.loss)
        self._pending = (step, measured, loss)

    def fetch(self) -> list[dict]:
        """Waits for the noted evaluation and writes it down; its rows, or none."""
        if self._pending is None:
            return []
        step, measured, loss = self._pending
        stages = self._population.evaluate_config.model.evaluation_stages
        rows = curve_rows(self._table, stages, step, measured, loss)
        rows = [row for row in rows if step <= self._stopped.get(row["run_id"], step)]
        self._pending = None
        if rows and self._writes:
            self._curves.append(rows)
            self._board.append(rows)
        return rows

    def flush(self, step: int) -> None:
        """Event files and timing reach the disk before a checkpoint that comes after them."""
        if self._writes:
            self._board.flush()
            write_timing(self._workdir, [*self._sessions, self._session(step)])

    def headline(self, rows: list[dict]) -> str:
        return headline([self._table[row["run_id"]]["regime"] for row in rows], rows)

    def rows_before(self) -> list[dict]:
        """Evaluations of the processes before, up to the step that this one starts from."""
        return read_table(self._workdir, CURVES).sort_values("step").to_dict("records")

    def stop(self, step: int, ended: Any) -> bool:
        """Notes runs that have reached their end, where their curves end; whether any is new."""
        new = [
            run
            for run, over in zip(self._table, ended, strict=True)
            if over and run["run_id"] not in self._stopped
        ]
        for run in new:
            self._stopped[run["run_id"]] = step
            if run["status"] == STATUS_NAMES[RUNNING]:
                run["status"] = STATUS_NAMES[STOPPED]
        return bool(new)

    def all_ended(self) -> bool:
        """Whether nothing trains any more, as of the newest evaluation."""
        return all(run["status"] in _ENDED for run in self._table)

    def close(self, step: int, finished: bool) -> None:
        """Writes what is left: final statuses, event files."""
        self.fetch()
        if not self._writes:
            return
        write_runs(self._workdir, with_done(self._table) if finished else self._table)
        self._board.close()

    def _session(self, step: int) -> dict[str, Any]:
        """What this process has spent so far."""
        population = self._population
        seconds = time.perf_counter() - self._start
        return {
            "start_step": self._start_step,
            "end_step": step,
            "num_runs": len(self._table),
            "num_devices": population.mesh.size,
            "compile_seconds": population.compile_seconds,
            "evaluation_seconds": min(
                population.evaluation_seconds, seconds - population.compile_seconds
            ),
            "peak_bytes": peak_bytes(population.mesh.devices.flat[0]),
            "seconds": seconds,
        }


def curve_rows(
    table: Sequence[dict], stages: Sequence[str], step: int, measured: dict, loss: Any
) -> list[dict]:
    """Rows of `curves.csv`, one per run; `table` (of `runs.csv`) learns each run's step and status.

    Args:
      table: rows of the runs.
      stages: names that a path stage is an index of.
      step: of the evaluation.
      measured: what `Population.evaluate` gave, [R] each.
      loss: [R] over the steps before, or None.
    """
    measured, loss = jax.device_get((measured, loss))
    names = {"path_stage": stages, "path_position": POSITIONS}
    rows = []
    for i, run in enumerate(table):
        values = {name: np.asarray(x)[i] for name, x in measured.items()}
        run["step"] = int(values.pop("step"))
        run["status"] = STATUS_NAMES[int(values.pop("status"))]
        row = {"run_id": run["run_id"], "step": step}
        row["loss"] = float("nan") if loss is None else float(loss[i])
        for name, value in values.items():
            kind = name.rpartition("/")[2]
            row[name] = names[kind][int(value)] if kind in names else float(value)
        rows.append(row)
    return rows
