"""What a training report rests on: groups of runs that differ in nothing but their seeds."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from grokjax.base import names
from grokjax.base.errors import UserError
from grokjax.base.names import DIVERGED, OBSERVED, ORDER_LEVELS, PENDING
from grokjax.data.composition import COMPOSITION
from grokjax.data.graph import HOP_SETTINGS
from grokjax.data.task import CHANCE, CHANCE_STRICT, FOUND, Task
from grokjax.model.cost import evaluation_flops, train_flops
from grokjax.report.reuse import keys_in, run_key, siblings
from grokjax.report.wording import in_words, value_in_words
from grokjax.results import Results, StoredRuns
from grokjax.settings.declarations import SEEDS
from grokjax.settings.rows import flat_runs
from grokjax.statistics.events import at_kept_site, event_table, order_table
from grokjax.statistics.survival import CENSORED, COMPETING, EVENT
from grokjax.workdir.layout import read_content
from grokjax.workdir.tables import read_timing

MOST_GROUPS = 12  # that one figure shows
_LOGGED = [  # of `timing.json`
    *("start_step", "end_step", "num_devices"),
    *("seconds", "compile_seconds", "evaluation_seconds", "peak_bytes"),
]


_PER_LEVEL = [  # of `outcomes.csv`, in this order
    *(f"{event}_{x:g}" for x in ORDER_LEVELS for event in ("answer", "path", "any_path")),
    *(
        name.format(prefix=prefix, x=f"{x:g}")
        for x in ORDER_LEVELS
        for prefix in ("", "any_")
        for name in (
            "{prefix}lag_{x}", "{prefix}lag_{x}_low", "{prefix}lag_{x}_high",
            "{prefix}order_{x}", "{prefix}order_label_{x}",
        )
    ),
]  # fmt: skip
_AT_END = (
    "path_score", "strict_chance", "any_path_score", "any_chance",
    "final_training_accuracy", "final_iid_accuracy", "final_ood_accuracy",
)  # fmt: skip
OUTCOMES = [
    "run_id", "run_hash", "regime", "group", *SEEDS, "copies", "also_in", "status", "end_step",
    "num_queries", "memorised", *_PER_LEVEL, "delay", "simultaneous",
    "path_stage", "path_position", "path_site_kept", *_AT_END,
    "flops", *(f"flops_to_{x:g}" for x in ORDER_LEVELS), "seconds", "evaluation_seconds",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainingRuns:
    """A workdir's runs with their groups, and what each step of them costs.

    runs: as `grokjax.load` gives them, each once, with columns group, copies (rows of this workdir
      that are the same run), also_in (other workdirs that have it), flops_per_step,
      evaluation_flops (of one evaluation), seconds_per_step and evaluation_seconds_per_step
      (device-seconds of training and of the evaluations that fall on a step, shared, without
      compilation; NaN if unknown).
    curves: with `Task.kept_path`, the strict path rate at the site that a run keeps.
    task: of all runs.
    machine: what each population took, as `_machine_time` says.
    """

    name: str
    workdir: pathlib.Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    config: ConfigDict  # of its first population
    origin: str  # of `origin_of`: what repeats the numbers
    machine: pd.DataFrame
    task: Task = COMPOSITION

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(self.runs.group))

    @property
    def step(self) -> int:
        """The last one that any run has reached."""
        return int(self.curves.step.max())

    @functools.cached_property
    def events(self) -> pd.DataFrame:
        """`event_table`, with each run's group, and `cause`: how it ended for `aalen_johansen`."""
        events = event_table(self.runs, self.curves, task=self.task)
        group = self.runs.set_index("run_id").group
        cause = events.status.map({OBSERVED: EVENT, DIVERGED: COMPETING}).fillna(CENSORED)
        return events.assign(group=group.loc[events.run_id].to_numpy(), cause=cause.astype(int))

    @functools.cached_property
    def horizons(self) -> dict[tuple[str, float], float]:
        """By event and level, the step to which every run's time is known: where the first one is
        censored."""
        cells = self.events.groupby(["event", "threshold"])
        unseen = {what: own.step[own.cause == CENSORED] for what, own in cells}
        return {what: float(own.min() if len(own) else self.step) for what, own in unseen.items()}

    @functools.cached_property
    def outcomes(self) -> pd.DataFrame:
        """A row per trained run, columns OUTCOMES (docs/tables.md), without those of a path where
        nothing is hidden."""
        table = order_table(self.runs, self.curves, task=self.task)
        if not len(table):
            return pd.DataFrame(columns=OUTCOMES)
        own = self.runs.set_index("run_id").loc[table.run_id].reset_index()
        last = self._last_rows().loc[table.run_id].reset_index()
        for name in ("run_hash", "group", "status", "copies", "also_in"):
            table[name] = own.get(name, 1 if name == "copies" else "")
        for name in SEEDS:
            table[name] = own.get(name, 0)
        table["num_queries"] = own.get(f"num_{self.task.generalisation}", np.nan)
        table["end_step"] = last.step
        for name, metric in self._at_end().items():
            table[name] = last.get(metric, np.nan)
        if self.task.hidden:
            table["path_site_kept"] = last.get("path_site_kept", True)
            for name in ("path_stage", "path_position"):
                columns = [self.task.site_column(h.name, name) for h in self.task.hidden]
                nowhere = pd.Series("", last.index)
                first, *others = (last.get(column, nowhere) for column in columns)
                table[name] = first.str.cat(others, sep=", ") if others else first
        table["flops"] = own.flops_per_step * table.end_step
        for level in ORDER_LEVELS:
            table[f"flops_to_{level:g}"] = own.flops_per_step * table[f"answer_{level:g}"]
        table["seconds"] = own.seconds_per_step * table.end_step
        table["evaluation_seconds"] = own.evaluation_seconds_per_step * table.end_step
        return table[[name for name in OUTCOMES if name in table]]

    def _at_end(self) -> dict[str, str]:
        """Columns of the outcomes, and of the curves, at a run's end."""
        task = self.task
        metrics: dict[str, str] = {}
        if task.hidden:
            metrics |= {
                "path_score": task.kept_path,
                "strict_chance": task.of_path(CHANCE_STRICT),
                "any_path_score": task.of_path(FOUND),
                "any_chance": task.of_path(CHANCE),
            }
        return metrics | {
            "final_training_accuracy": names.TRAINING_ACCURACY,
            "final_iid_accuracy": task.held_out_accuracy,
            "final_ood_accuracy": task.accuracy,
        }

    def _last_rows(self) -> pd.DataFrame:
        """Of each run's curve, its end: what a diverged run says later is not its doing."""
        ends = self.runs[self.runs.status == DIVERGED].set_index("run_id").step
        end = self.curves.run_id.map(ends).fillna(np.inf)
        until = self.curves[(self.curves.step <= end) | (self.curves.step == 0)]
        return until.sort_values("step").groupby("run_id").tail(1).set_index("run_id")


def read_training(found: StoredRuns) -> TrainingRuns:
    """Reads what a report needs.

    Raises:
      UserError: nothing has been trained, or what was measured is lost.
    """
    found.require_curves()
    populations = {name: own for name, own in found.populations().items() if len(own.curves)}
    runs = found.runs.copy()
    runs["group"] = group_labels(runs)
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
        runs.loc[member, "run_key"] = [run_key(run) for run in flat_runs(own.config)]
    runs = _each_once(runs, found.workdir)
    curves = found.curves[found.curves.run_id.isin(runs.run_id)]
    ends = runs[runs.status == DIVERGED].set_index("run_id").step.to_dict()
    first = next(iter(populations.values()))
    origin = origin_of(first.workdir, str(runs.run_hash.iloc[0]))
    name = str(first.config.name)
    return TrainingRuns(
        name,
        found.workdir,
        runs,
        at_kept_site(curves, ends, found.task),
        first.config,
        origin,
        machine,
        found.task,
    )


def _each_once(runs: pd.DataFrame, workdir: pathlib.Path) -> pd.DataFrame:
    """Runs by what they are: given twice, a run is still one; and where else it was trained."""
    key = runs.run_key.fillna(runs.run_hash) if "run_key" in runs else runs.run_hash
    runs = runs.assign(run_key=key, copies=key.map(key.value_counts()))
    trained_first = (runs.status == PENDING).sort_values(kind="stable").index
    runs = runs.loc[trained_first].drop_duplicates("run_key").sort_index().copy()
    elsewhere = {folder.name: keys_in(folder) for folder in siblings(workdir)}
    runs["also_in"] = [
        ", ".join(name for name, keys in elsewhere.items() if own in keys) for own in runs.run_key
    ]
    return runs


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


def group_labels(runs: pd.DataFrame) -> list[str]:
    """Each run's group in words: its regime where there are several, and what else was swept.

    Hop ratios and k that a run sets itself stand for a regime; where all are the regime's own, its
    name tells more.
    """
    settings = [c for c in runs if "." in c and c not in SEEDS and c != "data.regime"]
    several = runs.regime.nunique() > 1
    return [_label(row, settings, several) for row in runs.to_dict("records")]


def _label(row: dict[str, Any], settings: list[str], several_regimes: bool) -> str:
    shown = [
        f"{in_words(name)} {value_in_words(row[name])}"
        for name in settings
        if not (name in HOP_SETTINGS and row[name] < 0)
    ]
    regime = str(row["regime"])
    own_numbers = any(name in HOP_SETTINGS and row[name] >= 0 for name in settings)
    named = several_regimes and not own_numbers
    return ", ".join([*([regime] if named else []), *shown]) or regime


def _num_probes(own: Results) -> float:
    columns = [c for c in own.runs if c.removeprefix("num_") in own.task.type_names]
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
