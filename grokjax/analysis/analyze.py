"""`grokjax analyze`: lens and patching of stored checkpoints, all runs at once, resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grokjax.analysis.effects import label_effects, measure_effects
from grokjax.analysis.logit_lens import label_lens, measure_lens
from grokjax.analysis.pairs import SPLITS, draw_pairs, query_pool, stack_pairs
from grokjax.analysis.patching import DIRECTIONS
from grokjax.analysis.sites import all_sites
from grokjax.analysis.store import (
    PARTS,
    Analysis,
    analysis_folder,
    begin_sums,
    check_settings,
    is_sealed,
    load_analysis,
    part_path,
    read_sums,
    write_part,
    write_settings,
)
from grokjax.base.errors import UserError
from grokjax.base.files import refuse_links
from grokjax.data.dataset import Dataset, stack_datasets
from grokjax.data.loading import load_datasets
from grokjax.data.task import Task
from grokjax.results import Results, StoredRuns, load
from grokjax.runtime.devices import setup_devices, setup_precision
from grokjax.runtime.interrupt import Interrupt, Interrupted
from grokjax.runtime.progress import Progress
from grokjax.settings.rows import expand
from grokjax.training.mesh import make_mesh, place
from grokjax.workdir.tables import usable_runs

_RUNS_PER_ACCELERATOR = 4


def cells_of(task: Task) -> list[tuple[str, str]]:
    """What pairs of queries differ in, and of which kind they are."""
    return [(slot, split) for split in SPLITS for slot in task.question]


def runs_at_once(mesh: Mesh) -> int:
    """Runs that one call of the analysis' programs looks into."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return mesh.size * (1 if on_cpu else _RUNS_PER_ACCELERATOR)


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """What an analysis measures; another folder holds another one's.

    num_pairs: of queries, for each token of the question, ID and OOD.
    seed: of their draw.
    weights: "ema" or "raw".
    null: also patch from random donors.
    """

    num_pairs: int = 64
    seed: int = 0
    weights: str = "ema"
    null: bool = True


def analyze(
    workdir: str | os.PathLike,
    *,
    runs: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    config: AnalysisConfig | None = None,
    out: str | os.PathLike | None = None,
) -> Analysis:
    """Measures lens and patching of a workdir's stored checkpoints; what is there is not redone.

    Args:
      workdir: that a population has been trained in.
      runs: ids, all that have not diverged by default.
      steps: of stored checkpoints, the last by default.
      config: what to measure.
      out: folder, `analysis` in the workdir by default.

    Returns:
      Everything that the folder now holds.

    Raises:
      UserError: unknown runs or steps, or a folder of other settings.
      Interrupted: after Ctrl-C or SIGTERM; what was measured is stored.
    """
    setup_devices()
    results = load(workdir)
    setup_precision(results.config.model.dtype)
    config = config or AnalysisConfig()
    if config.num_pairs < 1:
        raise UserError(f"--pairs={config.num_pairs}: give at least 1")
    folder = analysis_folder(results, out)
    if why := nothing_to_analyze(results, runs):
        raise UserError(f"{results.workdir}: {why}")
    refuse_links(*((results.workdir, folder.name) if out is None else (folder, "*")))
    steps, runs = _stored_steps(results, steps), _known_runs(results, runs)
    # Regime, seeds and model of every run: another workdir's numbers are not these.
    population = hashlib.sha256(" ".join(results.runs.run_hash.astype(str)).encode()).hexdigest()
    settings = dataclasses.asdict(config) | {"population": population[:12]}
    check_settings(folder, settings)

    num_devices = len(jax.devices())
    mesh = make_mesh(min(len(runs), num_devices))
    at_once = runs_at_once(mesh)
    work = [
        (step, missing[i : i + at_once])
        for step in steps
        for missing in [_missing(folder, step, runs)]
        for i in range(0, len(missing), at_once)
    ]
    total = sum(len(run_ids) for _, run_ids in work)
    progress = Progress(1, 0, total, label="analysed", unit="checkpoints", per="min")
    inputs = _inputs(results, sorted({run for _, run_ids in work for run in run_ids}), config)
    write_settings(folder, settings)
    begin_sums(folder)
    with Interrupt() as interrupt:
        done = 0
        for step, run_ids in work:
            own = [inputs[run_id] for run_id in run_ids]
            _analyze_runs(results, step, run_ids, own, config, settings, folder, mesh)
            done += len(run_ids)
            interrupt.hold()  # before, nothing was stored
            last = done == total or interrupt.requested
            progress.update(done, f"step {step:,}, runs {run_ids[0]} to {run_ids[-1]}", last=last)
            if interrupt.requested and done < total:
                raise Interrupted(f"{folder}: {done} of {total} stored; the same command goes on")
    return load_analysis(results, folder)


def _analyze_runs(
    results: Results,
    step: int,
    run_ids: Sequence[int],
    inputs: Sequence[_Input],
    config: AnalysisConfig,
    settings: dict[str, Any],
    folder: pathlib.Path,
    mesh: Any,
) -> None:
    """Some runs at one step, side by side."""
    model = results.model
    weights = results.stacked_weights(run_ids, step, ema=config.weights == "ema")
    _, probes = stack_datasets([x.dataset for x in inputs])
    queries = tuple(np.stack(x) for x in zip(*(x.cells for x in inputs), strict=True))
    weights, probes, queries = place(jax.tree.map(jnp.asarray, (weights, probes, queries)), mesh)
    path_site = results.config.evaluate.path_stage, results.config.evaluate.path_position
    task = results.task
    lens = measure_lens(model, weights, probes, path_site=path_site, mesh=mesh, task=task)
    sites = all_sites(model)
    measured = measure_effects(model, weights, queries, sites=sites, null=config.null, mesh=mesh)
    for i, run_id in enumerate(run_ids):
        parts = {
            "lens": label_lens(model, lens, i, probes.names, task),
            "patching": label_effects(measured, i, cells_of(task), DIRECTIONS, sites),
        }
        for part, data in parts.items():
            write_part(part_path(folder, part, step, run_id), data, settings)


class _Input(NamedTuple):
    """What a run is asked, at every step."""

    dataset: Dataset
    cells: tuple[np.ndarray, ...]  # of `stack_pairs`


def _inputs(results: Results, run_ids: Sequence[int], config: AnalysisConfig) -> dict[int, _Input]:
    """Data and pairs by run; runs of the same data share them."""
    configs = expand(results.config)
    datasets = load_datasets([configs[run_id] for run_id in run_ids])
    distinct = {id(dataset): dataset for dataset in datasets}
    cells = {key: _stacked_cells(dataset, config) for key, dataset in distinct.items()}
    pairs = zip(run_ids, datasets, strict=True)
    return {run_id: _Input(dataset, cells[id(dataset)]) for run_id, dataset in pairs}


def _stacked_cells(dataset: Dataset, config: AnalysisConfig) -> tuple[np.ndarray, ...]:
    pool = query_pool(dataset)
    pairs = [
        draw_pairs(dataset, slot, split, config.num_pairs, config.seed, pool)
        for slot, split in cells_of(dataset.task)
    ]
    if not any(len(p.clean) for p in pairs):
        raise UserError(f"{dataset.name}: no two of its queries differ in one token and the answer")
    return stack_pairs(pairs, config.num_pairs)


def _missing(folder: pathlib.Path, step: int, runs: Sequence[int]) -> list[int]:
    sums = read_sums(folder)

    def is_there(run_id: int) -> bool:
        paths = (part_path(folder, part, step, run_id) for part in PARTS)
        return all(is_sealed(folder, path, sums) for path in paths)

    return [run_id for run_id in runs if not is_there(run_id)]


def nothing_to_analyze(results: Results, runs: Sequence[int] | None) -> str:
    """Why a population, or the runs of it that are asked for, has nothing; empty where it has."""
    if not results.checkpoint_steps():
        return "no stored checkpoint; train it first"
    is_empty = runs is None and not len(usable_runs(results.runs))
    return "all of its runs have diverged" if is_empty else ""


def _stored_steps(results: Results, steps: Sequence[int] | None) -> list[int]:
    stored = results.checkpoint_steps()
    if steps is None:
        return stored[-1:]
    for step in steps:
        if step not in stored:
            shown = ", ".join(f"{s}" for s in stored)
            raise UserError(f"--steps={step}: not stored; there are {shown} (or all)")
    return sorted(set(steps))


def _known_runs(results: Results, runs: Sequence[int] | None) -> list[int]:
    usable = usable_runs(results.runs).run_id.tolist()
    if runs is None:
        return usable
    check_run_ids(results, runs)
    return sorted(set(runs))


def check_run_ids(found: StoredRuns, run_ids: Sequence[int]) -> None:
    """Refuses runs that there are not, of a population or of a sweep."""
    known = set(found.runs.run_id)
    for run_id in run_ids:
        if run_id not in known:
            raise UserError(f"--runs={run_id}: no such run; they are 0 to {max(known)}")
