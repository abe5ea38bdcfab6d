"""What a workdir should have by a step and lacks: evaluations, checkpoints for analysis."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import RUNNING
from grokjax.workdir.checkpoints import Checkpoints, log_spaced_steps
from grokjax.workdir.layout import read_config, read_content
from grokjax.workdir.tables import CURVES, EMPTY_CURVES, RUNS, read_table

_MOST_SHOWN = 4


def tell_gaps(path: pathlib.Path, config: ConfigDict, saved: Checkpoints, reached: Any) -> None:
    """Says what was there and is missing, which no training makes again.

    Args:
      path: the workdir.
      config: its settings.
      saved: its checkpoints.
      reached: each run's step in the one that training goes on from.

    Raises:
      UserError: evaluations are, by which runs would end early.
    """
    steps = [int(step) for step in reached]
    curves = read_table(path, CURVES) if (path / CURVES).exists() else EMPTY_CURVES
    said = missing_evaluations(curves, steps, config.train.eval_every)
    if said and config.train.stop_at:
        raise UserError(
            f"{path / CURVES}: {said}, by which train.stop_at ends runs; restore it from a copy, or"
            " start in a new workdir"
        )
    if said:
        print(f"{path / CURVES}: {said}; a copy of the file would bring them back", flush=True)
    if said := missing_weights(saved, config, max(steps)):
        print(f"{path / 'checkpoints' / 'analysis'}: {said}", flush=True)


def missing_evaluations(curves: pd.DataFrame, reached: Sequence[int], eval_every: int) -> str:
    """Which evaluations a table lacks; empty where it has all.

    Args:
      curves: a row per run and evaluation.
      reached: the step of each run in the newest checkpoint.
      eval_every: steps between evaluations. A training that ended in between has one more, of all
        runs that were still in it: it is known by those that have it.
    """
    steps = {run_id: set(own.step) for run_id, own in curves.groupby("run_id")}
    between = {int(step) for step in curves.step.unique() if step % eval_every}
    wanted = {
        run_id: sorted({*range(0, last + 1, eval_every), *(s for s in between if s <= last)})
        for run_id, last in enumerate(map(int, reached))
    }
    lacking = {
        run_id: lost
        for run_id, due in wanted.items()
        if (lost := [step for step in due if step not in steps.get(run_id, ())])
    }
    if not lacking:
        return ""
    runs = [f"run {run_id}: {_shown(lost)}" for run_id, lost in lacking.items()]
    num, due = sum(map(len, lacking.values())), sum(map(len, wanted.values()))
    return f"{num:,} of {due:,} evaluations are missing ({_shown(runs, '; ')})"


def missing_weights(stored: Checkpoints, config: ConfigDict, step: int) -> str:
    """Which checkpoints for analysis are not there any more; empty where all are.

    Args:
      stored: the workdir's.
      config: its settings.
      step: of the newest checkpoint.
    """
    there = set(stored.steps("analysis"))
    c, t = config.checkpoint, config.train
    grid = log_spaced_steps(t.num_steps, c.analysis_steps_per_decade, t.eval_every)
    # The end of a training is on no grid: whether it was the end of one, nobody knows.
    due = [s for s in grid if s <= step and (s % t.eval_every == 0) and s != t.num_steps]
    lost = [s for s in due if s not in there]
    return f"{len(lost)} of {len(due)} steps are missing ({_shown(lost)})" if lost else ""


def describe_gaps(workdir: pathlib.Path) -> str:
    """What a population's workdir lacks, in one line; empty where it is whole.

    Evaluations and checkpoints for analysis, as far as its newest checkpoint says; a training that
    is under way may have written more.
    """
    if read_content(workdir).get("imported_from"):
        return ""
    config, runs = read_config(workdir), read_table(workdir, RUNS)
    stored = Checkpoints(workdir / "checkpoints")
    newest = max(stored.steps(), default=0)
    is_under_way = runs.status == RUNNING
    reached = runs.step.where(~is_under_way, newest)
    try:
        curves = read_table(workdir, CURVES)
    except UserError:
        curves = EMPTY_CURVES
    lacking = {
        CURVES: missing_evaluations(curves, reached.tolist(), config.train.eval_every),
        "checkpoints/analysis": missing_weights(stored, config, newest),
    }
    return "; ".join(f"{workdir / name}: {said}" for name, said in lacking.items() if said)


def _shown(items: Iterable, between: str = ", ") -> str:
    texts = [x if isinstance(x, str) else f"{x:,}" for x in items]
    more = f"{between}and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    return between.join(texts[:_MOST_SHOWN]) + more
