"""Finetuning stored models: a population of many sources (docs/protocol.md, section 2.5).

A finetuning run is a run like any other, whose data has new facts and whose first state holds a
source's weights (`training/starting_state.py`). What is planned here are its settings: every source
run, at several of its checkpoints, and a control that was pretrained on atomic facts alone.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import given_path, refuse_links, write_atomically
from grokjax.base.names import CHECKPOINTS, END
from grokjax.data.graph import HOP_SETTINGS
from grokjax.data.loading import load_datasets
from grokjax.results import Results, train_and_evaluate
from grokjax.runtime.devices import setup_devices
from grokjax.runtime.processes import is_primary, join_processes, on_primary
from grokjax.settings import read_experiment
from grokjax.settings.config import flatten, with_settings
from grokjax.settings.declarations import SEEDS, TRACED
from grokjax.settings.identity import config_difference
from grokjax.settings.rows import expand
from grokjax.sweeps.results import load
from grokjax.training.resolve import check_settings
from grokjax.transfer.halves import measure_halves
from grokjax.transfer.sources import (
    Source,
    describe_sources,
    find_sources,
    looked_for_in_vain,
)

CONTROL = "control_atomic"
SOURCES = "sources.csv"


def transfer(
    experiment: str,
    overrides: Sequence[str],
    source: str | os.PathLike,
    workdir: str | os.PathLike,
) -> Results:
    """Finetunes every run of a workdir, from several of its checkpoints, as one population.

    Pretrains `control_atomic` in a folder of `workdir` first, if the settings ask for it. The same
    call resumes; `workdir` is a population's, with `sources.csv` (what was found, what was not) and
    `halves.csv` (which half of the circuit fails: `measure_halves`).

    Args:
      experiment: file with `get_config(source)`, which makes finetuning settings of a run's, and a
        `sweep(add)` if it varies some of them (`transfer.checkpoints` too).
      overrides: `--config.SECTION.NAME=VALUE`.
      source: workdir of a trained population or sweep; only read.
      workdir: of the finetuning.

    Raises:
      UserError: bad settings, nothing to finetune, or sources of different models.
      Interrupted: after Ctrl-C or SIGTERM; everything up to the last chunk is saved.
    """
    path = given_path(workdir)
    if path.resolve().is_relative_to(pathlib.Path(source).resolve()):
        raise UserError("--workdir: give finetuning a folder of its own, --workdir=runs/NAME")
    refuse_links(path, CONTROL)
    setup_devices()
    join_processes()
    sources, tables = [], []
    for results in load(source).populations().values():
        if not results.task.of_facts:
            raise UserError(
                f"{results.workdir}: {results.task.name} has no facts that new ones could be"
                " chained with; transfer takes runs of compositions"
            )
        own, table = find_sources(results)
        sources += own
        tables.append(table)
    if not sources:
        raise UserError(f"{source}: has no run to finetune; train it first")
    config = plan_transfer(experiment, overrides, sources)
    skipped = _no_control(config)
    if config.transfer.control_atomic and skipped:
        tables.append(looked_for_in_vain(CONTROL, END, skipped))
    elif config.transfer.control_atomic:
        load_datasets(expand(config))  # what is wrong with them, before a control trains for long
        settings, natural = control_config(
            [s.settings for s in sources], config.transfer.control_steps
        )
        control = train_and_evaluate(settings, path / CONTROL)
        own, table = find_sources(control, (END,), CONTROL)
        sources += [dataclasses.replace(s, settings=natural[s.run_id]) for s in own]
        tables.append(table)
        config = plan_transfer(experiment, overrides, sources)
    looked_for = pd.concat(tables, ignore_index=True)
    if is_primary():
        print(describe_sources(config, looked_for), flush=True)
    results = train_and_evaluate(config, path)
    text = looked_for.to_csv(index=False, lineterminator="\n")
    on_primary(lambda: write_atomically(path / SOURCES, text))
    on_primary(lambda: measure_halves(results))
    return results


def _no_control(config: ConfigDict) -> str:
    """Why none can be trained, if so."""
    if config.data.folder:
        return "the sources' data are a folder's, atomic facts alone cannot be asked of it"
    if not any(END in run.transfer.checkpoints.split(",") for run in expand(config)):
        return f"{END} is not among transfer.checkpoints"
    return ""


def control_config(
    runs: Sequence[ConfigDict], num_steps: int
) -> tuple[ConfigDict, list[ConfigDict]]:
    """A population pretrained on atomic facts alone, one run for each seeds that the sources have.

    Args:
      runs: the sources' settings; of several with the same seeds the first counts.
      num_steps: to train for; 0 means as long as the sources.

    Returns:
      Its settings, and for each of its runs those of the natural one of the same seeds.
    """
    by_seeds = {tuple(flatten(run)[name] for name in SEEDS): run for run in runs[::-1]}
    natural, atomic = [], []
    for _, run in sorted(by_seeds.items()):
        plain = dict.fromkeys(HOP_SETTINGS, -1) | {"data.regime": "natural"}
        natural.append(with_settings(run, plain))
        atomic.append(with_settings(natural[-1], {"data.phi": 0.0}))
    population = as_population(atomic)
    population.name = CONTROL
    if num_steps:
        population.train.num_steps = num_steps
    return population, natural


def plan_transfer(
    experiment: str, overrides: Sequence[str], sources: Sequence[Source]
) -> ConfigDict:
    """Settings of the finetuning population: the experiment's rows, for each source they ask for.

    Raises:
      UserError: bad settings, or sources of different models.
    """
    configs = []
    for source in sources:
        config, rows = read_experiment(experiment, overrides, source.settings)
        config.runs = ()
        for row in rows or [{}]:
            made = with_settings(config, row)
            wanted = made.transfer.checkpoints.split(",")
            if unknown := sorted(set(wanted) - set(CHECKPOINTS)):
                known = ", ".join(CHECKPOINTS)
                raise UserError(f"transfer.checkpoints: '{unknown[0]}' is none of {known}")
            # Only by the names that were asked for: another one would have some of its runs alone.
            if names := [name for name in source.checkpoint.split("+") if name in wanted]:
                named = dataclasses.replace(source, checkpoint="+".join(names))
                configs.append(with_settings(made, named.naming()))
    if not configs:
        raise UserError("transfer.checkpoints: no run has any of them; train the source for longer")
    population = as_population(configs)
    check_settings(population)
    return population


def as_population(configs: Sequence[ConfigDict]) -> ConfigDict:
    """One config whose rows are these runs.

    Raises:
      UserError: they differ in what a population shares.
    """
    flat = [flatten(config) for config in configs]
    shared = [{n: v for n, v in f.items() if n not in TRACED} for f in flat]
    for config, settings in zip(configs, shared, strict=True):
        if settings != shared[0]:
            difference = [
                text
                for text in config_difference(configs[0], config)
                if text.split(":")[0] not in TRACED
            ]
            raise UserError(
                f"transfer: the sources differ in {difference[0]}; finetune those of one model at"
                " a time"
            )
    varied = [n for n in flat[0] if n in TRACED and any(f[n] != flat[0][n] for f in flat)]
    population = with_settings(configs[0], {})
    population.runs = tuple({name: f[name] for name in varied} for f in flat)
    return population
