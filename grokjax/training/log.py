"""What a training writes down: curves, TensorBoard, run table and timing."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from grokjax.base.names import (
    DIVERGED,
    DONE,
    INTERRUPTED,
    RUN_STATUSES,
    RUNNING,
    STOPPED,
)
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import Dataset
from grokjax.data.task import Task
from grokjax.data.tasks import regime_of
from grokjax.model.cost import peak_bytes
from grokjax.runtime.processes import barrier, is_primary
from grokjax.runtime.progress import headlines
from grokjax.settings.config import flatten
from grokjax.settings.identity import settings_hash
from grokjax.settings.rows import group_label, swept_settings
from grokjax.training.mirror import Mirror
from grokjax.training.population import Population
from grokjax.training.tensorboard import TensorBoardWriters
from grokjax.workdir.tables import (
    CURVES,
    CurveWriter,
    read_table,
    read_timing,
    write_runs,
    write_timing,
)


class Log:
    """Curves, TensorBoard, run table and timing of one session.

    All processes of it know the rows; the first one writes them.

    Args:
      config: the population's settings.
      runs, datasets: of each run.
      population: which trains them.
      workdir: exists.
      start_step: that this session starts from.
    """

    def __init__(
        self,
        config: ConfigDict,
        runs: Sequence[ConfigDict],
        datasets: Sequence[Dataset],
        population: Population,
        workdir: pathlib.Path,
        start_step: int,
    ):
        self._population, self._workdir, self._task = population, workdir, population.task
        self._table = run_table(config, runs, datasets)
        self._labels = [group_label(row) for row in self._table]
        self._writes = is_primary()
        if self._writes:
            write_runs(workdir, self._table)
            self._sessions = read_timing(workdir) if start_step else []
            self._curves = CurveWriter(workdir, start_step)
            names = ["regime", *(n for n in swept_settings(config) if n != "data.regime")]
            hparams = [{n: row[n] for n in names} for row in self._table]
            rows = self.rows_before() if start_step and (workdir / CURVES).exists() else []
            shown = [self._without_sites(row) for row in rows]
            board = TensorBoardWriters(
                workdir / "tensorboard",
                self._table,
                hparams,
                start_step,
                shown,
                tuple(self._task.headline_metrics.values()),
            )
            self._boards: list[TensorBoardWriters | Mirror] = [board]
            if config.train.mirror:
                self._boards.append(Mirror(config, workdir, self._table, hparams))
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
        rows = curve_rows(self._table, stages, step, measured, loss, self._task)
        rows = [row for row in rows if step <= self._stopped.get(row["run_id"], step)]
        self._pending = None
        if rows and self._writes:
            self._curves.append(rows)
            for board in self._boards:
                board.append([self._without_sites(row) for row in rows])
        return rows

    def flush(self, step: int) -> None:
        """Event files and timing reach the disk before a checkpoint that comes after them."""
        if self._writes:
            for board in self._boards:
                board.flush()
            write_timing(self._workdir, [*self._sessions, self._session(step)])

    def headlines(self, rows: list[dict]) -> list[str]:
        """What progress shows of evaluations, by what is swept."""
        groups = [self._labels[row["run_id"]] for row in rows]
        return headlines(groups, rows, self._task.headline_metrics)

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
            if run["status"] == RUNNING:
                run["status"] = STOPPED
        return bool(new)

    def all_ended(self) -> bool:
        """Whether nothing trains any more, as of the newest evaluation."""
        return all(run["status"] in (DIVERGED, STOPPED) for run in self._table)

    def close(self, step: int, finished: bool) -> None:
        """Writes what is left: final statuses, event files."""
        self.fetch()
        if not self._writes:
            return
        write_runs(self._workdir, _with_end(self._table, DONE if finished else INTERRUPTED))
        for board in self._boards:
            board.close()

    def _without_sites(self, row: dict) -> dict:
        """A row without its rates per site: TensorBoard shows one path, curves.csv has them all."""
        by_site = [f"{self._task.by_site(hidden.name)}/" for hidden in self._task.hidden]
        return {name: x for name, x in row.items() if not any(b in name for b in by_site)}

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
    table: Sequence[dict],
    stages: Sequence[str],
    step: int,
    measured: dict,
    loss: Any,
    task: Task = COMPOSITION,
) -> list[dict]:
    """Rows of `curves.csv`, one per run; `table` (of `runs.csv`) learns each run's step and status.

    Args:
      table: rows of the runs.
      stages: names that a path stage is an index of.
      step: of the evaluation.
      measured: what `Population.evaluate` gave, [R] each.
      loss: [R] over the steps before, or None.
      task: whose positions a path position is an index of.
    """
    measured, loss = jax.device_get((measured, loss))
    names = {"path_stage": stages, "path_position": task.positions}
    rows = []
    for i, run in enumerate(table):
        values = {name: np.asarray(x)[i] for name, x in measured.items()}
        run["step"] = int(values.pop("step"))
        run["status"] = RUN_STATUSES[int(values.pop("status"))]
        row = {"run_id": run["run_id"], "step": step}
        row["loss"] = float("nan") if loss is None else float(loss[i])
        for name, value in values.items():
            kind = name.rpartition("/")[2]
            row[name] = names[kind][int(value)] if kind in names else float(value)
        rows.append(row)
    return rows


def run_table(
    config: ConfigDict, runs: Sequence[ConfigDict], datasets: Sequence[Dataset]
) -> list[dict]:
    """Rows of `runs.csv`: who each run is, what it varies, what its data came to."""
    swept = [name for name in swept_settings(config) if name != "data.regime"]
    rows = []
    for run_id, (run, dataset) in enumerate(zip(runs, datasets, strict=True)):
        flat = flatten(run)
        rows.append(
            {"run_id": run_id, "run_hash": settings_hash(run), "regime": regime_of(run)}
            | {name: flat[name] for name in swept}
            | {"status": RUNNING, "step": 0}
            | dict(dataset.counts)
        )
    return rows


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
        run |= {"step": int(step), "status": RUN_STATUSES[int(code)]}
    write_runs(path, _with_end(table, DONE if finished else INTERRUPTED))


def _with_end(table: list[dict], end: str) -> list[dict]:
    """Rows of the runs when their process ends: what becomes of those that still run."""
    return [run | {"status": end} if run["status"] == RUNNING else run for run in table]
