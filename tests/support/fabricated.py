"""Workdirs of any shape without any training: curves are drawn from times that are given."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict
from tiny import tiny_config

from grokjax.base.names import (
    DIVERGED,
    DONE,
    OOD_ACCURACY,
    OOD_BRIDGE_CHANCE,
    OOD_BRIDGE_FOUND,
    OOD_BRIDGE_FOUND_STRICT,
    TRAINING_ACCURACY,
)
from grokjax.data.graph import resolve_augmentation
from grokjax.settings import grid, product, seeds
from grokjax.settings.config import flatten
from grokjax.settings.rows import expand, swept_settings
from grokjax.sweeps.plan import population_folder, read_plan
from grokjax.sweeps.runner import run_sweep
from grokjax.workdir.layout import write_config
from grokjax.workdir.tables import write_runs, write_timing

NEVER = math.inf


class Course(NamedTuple):
    """What becomes of one run: the steps at which it comes half way, its end, its end's accuracy.

    end: the last step; 0 is the training's. top: what OOD accuracy rises to. anywhere: when the
    bridge can be read at any site; 0 is a fifth before the path.
    """

    memorised: float = 2000.0
    path: float = NEVER
    answer: float = NEVER
    end: int = 0
    status: str = DONE
    top: float = 1.0
    anywhere: float = 0.0


Story = Callable[[Mapping[str, Any], np.random.Generator], Course]


def fabricate(
    workdir: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    story: Story,
    *,
    steps: int = 10_000,
    every: int = 500,
    untrained: Sequence[str] = (),
    config: ConfigDict | None = None,
) -> pathlib.Path:
    """A sweep's workdir: plan, settings, tables of runs and curves.

    Args:
      workdir: a new folder.
      rows: of the sweep.
      story: what becomes of a run, told from its settings.
      steps, every: of training and evaluation.
      untrained: populations that have not begun.
      config: what rows change; a tiny one by default.
    """
    path = pathlib.Path(workdir)
    config = tiny_config() if config is None else config
    config.name = path.name
    config.train.update({"num_steps": steps, "eval_every": every, "chunk_steps": every})
    config.checkpoint.every = steps
    with contextlib.redirect_stdout(io.StringIO()):
        run_sweep(config, rows, path, plan_only=True)
    for population in read_plan(path).populations:
        if population.name not in untrained:
            folder = population_folder(path, population.name)
            _fabricate_population(folder, population.config, population.run_hashes, story)
    return path


def _fabricate_population(
    folder: pathlib.Path, config: ConfigDict, hashes: Sequence[str], story: Story
) -> None:
    write_config(folder, config, 31)
    named = [n for n in swept_settings(config) if n != "data.regime"]
    runs, curves = [], []
    for run_id, (run, run_hash) in enumerate(zip(expand(config), hashes, strict=True)):
        flat = flatten(run)
        rng = np.random.default_rng(int(run_hash, 16) % 2**32)
        course = story(flat, rng)
        end = course.end or config.train.num_steps
        runs.append(
            {"run_id": run_id, "run_hash": run_hash, "regime": flat["data.regime"]}
            | {name: flat[name] for name in named}
            | {"status": course.status, "step": end, "num_test_inferred_ood": 60}
            | {f"num_hop{i}_added": int(60 * ratio) for i, ratio in enumerate(_composed(run), 1)}
        )
        curves.append(_curves(run_id, course, np.arange(0, end + 1, config.train.eval_every), rng))
    write_runs(folder, runs)
    pd.concat(curves).to_csv(folder / "curves.csv", index=False)
    session = {
        "start_step": 0, "end_step": config.train.num_steps, "num_runs": len(runs),
        "num_devices": 1, "compile_seconds": 5.0, "seconds": 12.0 * len(runs) + 5,
        "evaluation_seconds": 1.0 * len(runs), "peak_bytes": 2**30,
    }  # fmt: skip
    write_timing(folder, [session])


def _composed(run: ConfigDict) -> tuple[float, float]:
    """Shares of the OOD facts that training composes, as first and as second hop."""
    own = resolve_augmentation(run.data)
    return own.hop1_ratio, own.hop2_ratio


def _curves(
    run_id: int, course: Course, steps: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    def rise(at: float, low: float, high: float, noise: float) -> np.ndarray:
        share = np.zeros(len(steps))
        if math.isfinite(at):
            share = 1 / (1 + np.exp(np.clip(-10 * (steps - at) / max(at, 1), -50, 50)))
        return np.clip(low + (high - low) * share + noise * rng.normal(size=len(steps)), 0, 1)

    return pd.DataFrame(
        {
            "run_id": run_id,
            "step": steps,
            "loss": math.nan,
            TRAINING_ACCURACY: rise(course.memorised, 0.0, 1.0, 0.0),
            OOD_ACCURACY: rise(course.answer, 0.03, course.top, 0.01),
            "test_inferred_iid/answer_accuracy": rise(course.memorised * 1.3, 0.02, 0.99, 0.005),
            OOD_BRIDGE_FOUND: rise(course.anywhere or course.path * 0.8, 0.15, 1.0, 0.02),
            OOD_BRIDGE_FOUND_STRICT: rise(course.path, 0.03, 0.98, 0.01),
            OOD_BRIDGE_CHANCE: 0.14 + 0.01 * rng.normal(size=len(steps)),
        }
    )


# What becomes of the regimes: grokking by way of the path, without it, and not at all.
_TIMES = {
    "natural": (5000, 7000),
    "both_hop_full": (NEVER, 3000),
    "both_hop_half": (6000, 5000),
    "first_hop_full": (3500, 6000),
    "second_hop_full": (9000, 4000),
}


def by_regime(settings: Mapping[str, Any], rng: np.random.Generator) -> Course:
    """Each regime at its own time, seeds scattered around it; one in eight never gets there."""
    path, answer = (t * np.exp(0.25 * rng.normal()) for t in _TIMES[settings["data.regime"]])
    if settings["seeds.data"] % 8 == 5:
        path = answer = NEVER
    return Course(2000 * np.exp(0.1 * rng.normal()), path, answer)


def by_ratios(settings: Mapping[str, Any], rng: np.random.Generator) -> Course:
    """Both hop ratios bring the answer sooner; the second alone never brings the path."""
    h1, h2 = (max(settings[f"data.hop{i}_ratio"], 0.0) for i in (1, 2))
    answer = 6000 / (0.3 + h1 + h2) * np.exp(0.15 * rng.normal()) if h1 + h2 >= 0.5 else NEVER
    path = 0.8 * answer if h1 >= 0.5 else NEVER
    return Course(2000, path, answer, top=min(1.0, 0.2 + 0.4 * (h1 + h2)))


def regimes(num_seeds: int, names: Sequence[str] = tuple(_TIMES)) -> list[dict[str, Any]]:
    return list(product(grid("data.regime", names), seeds(num_seeds)))


def ratios(num_seeds: int, values: Sequence[float] = (0.0, 0.5, 1.0)) -> list[dict[str, Any]]:
    fixed = [{"data.hop1_k": 2, "data.hop2_k": 2}]
    both = (grid(f"data.hop{i}_ratio", values) for i in (1, 2))
    return list(product(fixed, *both, seeds(num_seeds)))


def diverges(settings: Mapping[str, Any], rng: np.random.Generator) -> Course:
    return Course(NEVER, end=1500, status=DIVERGED)
