"""Finetuning stored models: a population of many sources (docs/protocol.md, section 2.5).

A finetuning run is a run like any other, whose data has new facts and whose first state holds a
source's weights (`starts.py`). What is planned here are its settings: every source run, at several
of its checkpoints, and a control that was pretrained on atomic facts alone.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import write_atomically
from grokjax.data.folder import load_datasets
from grokjax.data.graph import HOP_SETTINGS
from grokjax.results import Results
from grokjax.runtime.devices import setup_devices
from grokjax.runtime.processes import is_primary, join_processes, on_primary
from grokjax.settings.experiment import read_experiment, validate
from grokjax.settings.rows import (
    SEEDS,
    TRACED,
    Row,
    config_difference,
    expand,
    flatten,
    with_settings,
)
from grokjax.statistics.events import grok_table
from grokjax.sweeps.runner import SweepResults, load
from grokjax.training.loop import train_and_evaluate

CHECKPOINTS = ("before", "saturation", "path", "grokked", "end")
CONTROL = "control_atomic"
SOURCES = "sources.csv"
_COLUMNS = ["group", "run_id", "checkpoint", "step", "event_step", "skipped"]
_EVENT_OF = {"before": "memorised", "saturation": "memorised", "path": "path", "grokked": "grokked"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A stored checkpoint of one run. One step can be several checkpoints: `saturation+path`."""

    results: Results
    run_id: int
    group: str
    checkpoint: str
    step: int
    settings: ConfigDict  # that finetuning keeps: the run's own

    def row(self) -> Row:
        """What names it in a finetuning run's settings."""
        named = {
            "source": str(self.results.workdir),
            "run_id": self.run_id,
            "run_hash": str(self.results.runs.run_hash[self.run_id]),
            "step": self.step,
            "checkpoint": self.checkpoint,
            "group": self.group,
        }
        return {f"transfer.{name}": value for name, value in named.items()}


def transfer(
    experiment: str,
    overrides: Sequence[str],
    source: str | os.PathLike,
    workdir: str | os.PathLike,
) -> Results:
    """Finetunes every run of a workdir, from several of its checkpoints, as one population.

    Pretrains `control_atomic` in a folder of `workdir` first, if the settings ask for it. The same
    call resumes; `workdir` is a population's, with `sources.csv` (what was found, what was not).

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
    path = pathlib.Path(workdir)
    if not str(workdir).strip() or path.resolve().is_relative_to(pathlib.Path(source).resolve()):
        raise UserError("--workdir: give finetuning a folder of its own, --workdir=runs/NAME")
    setup_devices()
    join_processes()
    found = load(source)
    populations = (
        [found.population(n) for n in found.runs.population[found.runs.step > 0].unique()]
        if isinstance(found, SweepResults)
        else [found]
    )
    sources, tables = [], []
    for results in populations:
        own, table = find_sources(results)
        sources += own
        tables.append(table)
    if not sources:
        raise UserError(f"{source}: has no run to finetune; train it first")
    config = plan_transfer(experiment, overrides, sources)
    skipped = _no_control(config)
    if config.transfer.control_atomic and skipped:
        row = (CONTROL, "", "end", math.nan, math.nan, skipped)
        tables.append(pd.DataFrame([row], columns=_COLUMNS))
    elif config.transfer.control_atomic:
        load_datasets(expand(config))  # what is wrong with them, before a control trains for long
        settings, natural = control_config(
            [s.settings for s in sources], config.transfer.control_steps
        )
        control = train_and_evaluate(settings, path / CONTROL)
        own, table = find_sources(control, ("end",), CONTROL)
        sources += [dataclasses.replace(s, settings=natural[s.run_id]) for s in own]
        tables.append(table)
        config = plan_transfer(experiment, overrides, sources)
    looked_for = pd.concat(tables, ignore_index=True)
    if is_primary():
        print(describe_sources(config, looked_for), flush=True)
    results = train_and_evaluate(config, path)
    text = looked_for.to_csv(index=False, lineterminator="\n")
    on_primary(lambda: write_atomically(path / SOURCES, text))
    return results


def find_sources(
    results: Results, checkpoints: Sequence[str] = CHECKPOINTS, group: str = ""
) -> tuple[list[Source], pd.DataFrame]:
    """The stored steps of every run that are such checkpoints.

    `before` is the last one before training accuracy reaches 0.95; `saturation`, `path` and
    `grokked` are the first from the event on (0.95; a path score of 0.5; 0.95 of the OOD
    compositions; three evaluations running); `end` is the last.

    Args:
      results: of the source population. Diverged runs are passed over.
      checkpoints: of CHECKPOINTS.
      group: what to call them; each run's regime by default.

    Returns:
      The sources, one for each run and step; and a table of all that was looked for: group, run_id,
      checkpoint, step (NaN where skipped), event_step (NaN where it was not observed), skipped
      (why, or nothing).
    """
    if results.config.transfer.source:
        raise UserError(
            f"{results.workdir}: is a finetuning itself; give the workdir that it came from"
        )
    stored = np.array(results.checkpoint_steps())
    if not len(stored):
        raise UserError(f"{results.workdir}: has no checkpoints to finetune; train it first")
    events = grok_table(results.runs, results.curves).set_index("run_id")
    sources: list[Source] = []
    rows = []
    for run in results.runs.itertuples():
        name = group or str(run.regime)
        found: dict[int, list[str]] = {}
        for checkpoint in checkpoints:
            at, step, skipped = _locate(checkpoint, run, events, stored)
            if not skipped:
                found.setdefault(int(step), []).append(checkpoint)
            rows.append((name, run.run_id, checkpoint, step, at, skipped))
        sources += [
            Source(results, run.run_id, name, "+".join(c), step, results.run_config(run.run_id))
            for step, c in found.items()
        ]
    return sources, pd.DataFrame(rows, columns=_COLUMNS)


def _no_control(config: ConfigDict) -> str:
    """Why none can be trained, if so."""
    if config.data.folder:
        return "the sources' data are a folder's, atomic facts alone cannot be asked of it"
    if not any("end" in run.transfer.checkpoints.split(",") for run in expand(config)):
        return "end is not among transfer.checkpoints"
    return ""


def _locate(
    checkpoint: str, run: Any, events: pd.DataFrame, stored: np.ndarray
) -> tuple[float, float, str]:
    """(step of the event, stored step, why there is none)."""
    if run.status == "diverged" or run.run_id not in events.index:
        return math.nan, math.nan, "diverged" if run.status == "diverged" else "not trained"
    if checkpoint == "end":
        return math.nan, stored[-1], ""
    event = _EVENT_OF[checkpoint]
    at = float(events.loc[run.run_id, event])
    if not math.isfinite(at):
        return at, math.nan, f"{event}: never observed"
    steps = stored[stored < at][-1:] if checkpoint == "before" else stored[stored >= at][:1]
    return (at, steps[0], "") if len(steps) else (at, math.nan, "no checkpoint stored there")


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
                configs.append(with_settings(made, named.row()))
    if not configs:
        raise UserError("transfer.checkpoints: no run has any of them; train the source for longer")
    population = as_population(configs)
    validate(population)
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
    population = ConfigDict(configs[0].to_dict())
    population.runs = tuple({name: f[name] for name in varied} for f in flat)
    return population


def describe_sources(config: ConfigDict, looked_for: pd.DataFrame) -> str:
    """What will be finetuned, and what was skipped, for a terminal."""
    lines = [f"finetuning: {len(config.runs)} runs"]
    skipped = looked_for[looked_for.skipped != ""]
    for (group, checkpoint, why), own in skipped.groupby(["group", "checkpoint", "skipped"]):
        runs = ", ".join(str(run_id) for run_id in own.run_id if run_id != "")
        lines.append(f"skipped: {checkpoint} of {group}{', runs ' if runs else ''}{runs} ({why})")
    return "\n".join(lines)
