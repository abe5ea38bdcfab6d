"""Training a population from start to end: the whole story."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import writing_to
from grokjax.base.names import RUNNING
from grokjax.data.dataset import Dataset
from grokjax.data.loading import data_hash, load_datasets
from grokjax.model.cost import Estimate, available_bytes, estimate
from grokjax.runtime.devices import setup_devices, setup_precision
from grokjax.runtime.interrupt import Interrupt, Interrupted
from grokjax.runtime.processes import barrier, is_primary, join_processes, on_all, on_primary
from grokjax.runtime.progress import Progress
from grokjax.settings.identity import settings_hash
from grokjax.settings.rows import expand
from grokjax.training.early_stopping import Stopping
from grokjax.training.log import Log, run_table, write_final_runs
from grokjax.training.mirror import check_mirror
from grokjax.training.own_checks import check_measured
from grokjax.training.population import Population
from grokjax.training.resolve import check_settings
from grokjax.training.starting_state import restore_or_start
from grokjax.training.step import RunState, status_code
from grokjax.training.stored_weights import analysis_weights
from grokjax.workdir.checkpoints import Checkpoints, log_spaced_steps
from grokjax.workdir.gaps import tell_gaps
from grokjax.workdir.layout import check_data, open_workdir, write_config
from grokjax.workdir.lock import locked_once
from grokjax.workdir.tables import CURVES, read_table

_MANY_ITEMS, _SMALL_DECAY = 4_000, 0.3  # more of both at once: the quickstart's model stays at 0.7


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains every run of `config` in one program; arguments and errors are those of
    `grokjax.train_and_evaluate`, which reads what this has written."""
    # The host's part: all that can be refused is, before anything is written.
    setup_devices()
    join_processes()
    check_settings(config)
    check_mirror(config)
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
        # Where to go on from; perhaps nothing is left to do.
        on_all(lambda: check_state(population))
        step, state = restore_or_start(saved, population, runs)
        on_step(step)
        progress = Progress(len(runs), step, num_steps)
        if step == 0:
            on_primary(lambda: refuse_lost_checkpoints(path, config))
        reached, statuses = map(np.asarray, population.for_all((state.step, state.status)))
        if step:
            on_primary(lambda: tell_gaps(path, config, saved, reached[: len(runs)]))
        all_ended = bool(np.all(statuses != status_code(RUNNING)))
        if step >= num_steps or (step and all_ended):
            if is_primary():
                table = run_table(config, runs, datasets)
                write_final_runs(path, table, reached, statuses, step >= num_steps)
            barrier("final")
            progress.say(f"{path}: {describe_end(step, all_ended)}")
            return
        progress.note("compiling the training program ...")
        needs = on_all(lambda: check_memory(config, population, state, num_steps - step))
        first = None
        if step == 0 and config.evaluate.metrics:
            first = population.evaluate(state)
            found = jax.device_get(population.for_all(first))
            on_all(lambda: check_measured(config, found, [d.counts for d in datasets]))

        # From here on things are written: settings, tables, what the first evaluation finds.
        progress.say(describe_data(datasets, runs))
        progress.say(f"{path}: resuming at step {step:,}" if step else str(needs))
        if is_primary():
            size = datasets[0].vocabulary.size
            write_config(path, config, size, data_sha256, task=population.task)
        log = Log(config, runs, datasets, population, path, step)
        stopping = Stopping(config, len(runs), population.task.accuracy)
        if config.train.stop_at and step:
            stopping.note(log.rows_before())
        analysis_steps = log_spaced_steps(
            num_steps, config.checkpoint.analysis_steps_per_decade, eval_every
        )
        progress.note("compiling the evaluation ...")
        if step == 0:
            log.expect(0, first or population.evaluate(state), None)
            saved.save_analysis(0, analysis_weights(state))

        # Chunk after chunk. The host reads an evaluation while the devices train the next chunk.
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
                saved.save_analysis(step, analysis_weights(state))
            interrupted = interrupt.reached()
            is_last = step == num_steps or interrupted or log.all_ended()
            # Tables before the checkpoint: a resume drops rows beyond it, and cannot make others.
            if step % config.checkpoint.every == 0 or is_last:
                if newer := log.fetch():
                    stopping.note(newer)
                    rows = newer
                log.flush(step)
                saved.save(step, state)
            on_step(step)
            progress.update(step, log.headlines(rows) if rows else None, last=is_last)
        log.close(step, finished=step == num_steps)
    barrier("written")
    if step < num_steps and interrupted:
        raise Interrupted(f"{path}: saved at step {step:,}; the same command goes on from there")


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
        there = (path / "checkpoints" / "state").is_dir()
        lost = "no step in checkpoints/state has its manifest"
        raise UserError(
            f"{path}: its curves reach step {reached:,.0f} but"
            f" {lost if there else 'checkpoints/state is gone'}; restore it from a copy, or start"
            " in a new workdir"
        )


def check_state(population: Population) -> None:
    """Refuses a state that the memory does not hold, by its shapes: making it would be the end.

    Raises:
      UserError: it says so, before anything is made.
    """
    needed, available = population.state_bytes, available_bytes(population.mesh.local_devices[0])
    if available and needed > available:
        raise UserError(
            f"memory: {needed / 2**30:,.1f} GiB of {available / 2**30:.1f} GiB for the state alone;"
            " train fewer runs at once, or a smaller model"
        )


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


def describe_data(datasets: Sequence[Dataset], runs: Sequence[ConfigDict]) -> str:
    """One line: training items, and what is wrong with a folder that is used all the same, or with
    settings that were found for fewer items than it has."""
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
    decay = max((run.optimizer.weight_decay for run in runs if run.data.folder), default=0.0)
    if sizes[-1] > _MANY_ITEMS and decay > _SMALL_DECAY:
        text += (
            f"; optimizer.weight_decay={decay:g} keeps a small model from memorising so many:"
            " experiments/pretrain.py:folder has what suits some 8,000"
        )
    return text


def describe_end(step: int, all_ended: bool) -> str:
    """Why nothing is left to do."""
    if all_ended:
        return f"all runs have ended by step {step:,}; nothing is left to do"
    return f"done at step {step:,}; a larger train.num_steps extends it"
