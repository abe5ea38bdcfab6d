"""What a training report rests on: groups of runs that differ in nothing but their seeds."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import DIVERGED, EVENT_AT, OBSERVED, OOD_ACCURACY
from grokjax.model.cost import evaluation_flops, train_flops
from grokjax.results import Results, StoredRuns
from grokjax.settings.declarations import SEEDS
from grokjax.statistics.events import event_table, grok_table
from grokjax.statistics.survival import CENSORED, COMPETING, EVENT
from grokjax.workdir.layout import read_content
from grokjax.workdir.tables import read_timing

RATIOS = ("data.hop1_ratio", "data.hop2_ratio")
MOST_GROUPS = 12  # that one figure shows
_LOGGED = [  # of `timing.json`
    *("start_step", "end_step", "num_devices"),
    *("seconds", "compile_seconds", "evaluation_seconds", "peak_bytes"),
]


@dataclasses.dataclass(frozen=True)
class TrainingRuns:
    """A workdir's runs with their groups, and what each step of them costs.

    runs: as `grokjax.load` gives them, with columns group, flops_per_step, evaluation_flops (of one
      evaluation), seconds_per_step and evaluation_seconds_per_step (device-seconds of training and
      of the evaluations that fall on a step, shared, without compilation; NaN if unknown).
    machine: what each population took, as `_machine_time` says.
    """

    name: str
    workdir: pathlib.Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    config: ConfigDict  # of its first population
    origin: str  # of `origin_of`: what repeats the numbers
    machine: pd.DataFrame

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(self.runs.group))

    @property
    def step(self) -> int:
        """The last one that any run has reached."""
        return int(self.curves.step.max())

    @functools.cached_property
    def events(self) -> pd.DataFrame:
        """`event_table`, with each run's group."""
        events = event_table(self.runs, self.curves)
        group = self.runs.set_index("run_id").group
        return events.assign(group=group.loc[events.run_id].to_numpy())

    @functools.cached_property
    def outcomes(self) -> pd.DataFrame:
        """A row per trained run: group, its events (`grok_table`), its costs.

        grok_table's columns, group, seed (of the data), end_step, flops (of the whole training),
        flops_to_grok (NaN if it did not), seconds (device-seconds), final OOD accuracy.
        """
        table = grok_table(self.runs, self.curves, EVENT_AT)
        last = self.curves.sort_values("step").groupby("run_id").tail(1).set_index("run_id")
        last = last.loc[table.run_id]
        own = self.runs.set_index("run_id").loc[table.run_id]
        table["group"] = own.group.to_numpy()
        table["seed"] = own["seeds.data"].to_numpy() if "seeds.data" in own else 0
        table["end_step"] = last.step.to_numpy()
        table["flops"] = own.flops_per_step.to_numpy() * table.end_step
        table["flops_to_grok"] = own.flops_per_step.to_numpy() * table.grokked
        table["seconds"] = own.seconds_per_step.to_numpy() * table.end_step
        table["final_ood_accuracy"] = last[OOD_ACCURACY].to_numpy()
        return table


def read_training(found: StoredRuns) -> TrainingRuns:
    """Reads what a report needs.

    Raises:
      UserError: nothing has been trained.
    """
    populations = found.populations()
    if not populations or not len(found.curves):
        raise UserError(f"{found.workdir}: nothing has been trained yet; run the sweep first")
    runs = found.runs.copy()
    settings = [c for c in runs if "." in c and c not in SEEDS and c != "data.regime"]
    runs["group"] = [_label(row, settings) for row in runs.to_dict("records")]
    population = runs.population.astype(str) if "population" in runs else pd.Series("", runs.index)
    machine = pd.DataFrame([{"population": n} | _machine_time(r) for n, r in populations.items()])
    for (name, own), took in zip(populations.items(), machine.itertuples(), strict=True):
        member = population == name
        model, config = own.model, own.config
        runs.loc[member, "flops_per_step"] = train_flops(model) * config.train.batch_size
        probes = _num_probes(own)
        runs.loc[member, "evaluation_flops"] = evaluation_flops(model) * probes
        run_steps = took.steps * took.num_runs or np.nan
        runs.loc[member, "seconds_per_step"] = took.training_seconds / run_steps
        runs.loc[member, "evaluation_seconds_per_step"] = took.evaluation_seconds / run_steps
    first = next(iter(populations.values()))
    origin = origin_of(first.workdir, str(runs.run_hash.iloc[0]))
    name = str(first.config.name)
    return TrainingRuns(name, found.workdir, runs, found.curves, first.config, origin, machine)


def origin_of(workdir: pathlib.Path, run_hash: str) -> str:
    """A caption's end: a run's hash, hardware, versions, and the command that repeats it.

    Raises:
      UserError: `config.json` does not say.
    """
    content = read_content(workdir)
    try:
        command, jax_version = map(str, content["command"][1:]), str(content["versions"]["jax"])
    except (KeyError, TypeError):
        raise UserError(f"{workdir / 'config.json'}: damaged; restore it") from None
    return (
        f"first run's config hash {run_hash}; {content.get('device', '')}, jax {jax_version},"
        f" commit {str(content.get('commit', ''))[:12]}. Repeat:"
        f" {' '.join(['grokjax', *command])}"
    )


def causes(events: pd.DataFrame) -> Int[np.ndarray, " N"]:
    """How each run ended, as `aalen_johansen` takes it."""
    cause = {OBSERVED: EVENT, DIVERGED: COMPETING}
    return events.status.map(cause).fillna(CENSORED).to_numpy(int)


def _label(row: dict[str, Any], settings: list[str]) -> str:
    shown = [
        f"{name.split('.')[-1]} {row[name]:g}"
        if isinstance(row[name], (int, float)) and not isinstance(row[name], bool)
        else f"{name.split('.')[-1]} {row[name]}"
        for name in settings
        if not (name in RATIOS and row[name] < 0)
    ]
    regime = str(row["regime"])
    custom = any(name.startswith("data.hop") for name in settings)
    return ", ".join([*([] if custom else [regime]), *shown]) or regime


def _num_probes(own: Results) -> float:
    columns = [c for c in own.runs if c.startswith("num_") and ("atomic" in c or "inferred" in c)]
    return float(own.runs[columns].sum(axis=1).mean()) if columns else 0.0


def _machine_time(own: Results) -> dict[str, float]:
    """Of the sessions that trained a population: num_runs, steps, num_devices, training_seconds and
    evaluation_seconds (device-seconds), compile_seconds, peak_bytes; NaN where no log tells."""
    logged = pd.DataFrame(read_timing(own.workdir)).reindex(columns=_LOGGED)
    sessions = logged.apply(pd.to_numeric, errors="coerce").dropna()
    evaluation = sessions.evaluation_seconds * sessions.num_devices
    busy = (sessions.seconds - sessions.compile_seconds) * sessions.num_devices
    return {
        "num_runs": len(own.runs),
        "steps": (sessions.end_step - sessions.start_step).sum(min_count=1),
        "num_devices": sessions.num_devices.max(),
        "training_seconds": (busy - evaluation).sum(min_count=1),
        "evaluation_seconds": evaluation.sum(min_count=1),
        "compile_seconds": sessions.compile_seconds.sum(min_count=1),
        "peak_bytes": sessions.peak_bytes.max(),
    }
