"""Which stored checkpoints start a finetuning: of every run, those that an event chooses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import (
    ANSWER,
    BEFORE,
    CHECKPOINTS,
    DIVERGED,
    END,
    EVENT_AT,
    GROKKED,
    MEMORISED,
    PATH,
    PATH_AT,
    SATURATION,
)
from grokjax.base.text import counted
from grokjax.results import Results
from grokjax.settings.config import Row
from grokjax.statistics.events import at_kept_site, order_table

_EVENT_OF = {  # what each waits for, and the column of `order_table` that has its step
    BEFORE: (MEMORISED, MEMORISED),
    SATURATION: (MEMORISED, MEMORISED),
    PATH: (PATH, f"{PATH}_{PATH_AT:g}"),
    GROKKED: (GROKKED, f"{ANSWER}_{EVENT_AT:g}"),
}
_COLUMNS = ["group", "run_id", "run_hash", "checkpoint", "step", "event_step", "skipped"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A stored checkpoint of one run. One step can be several checkpoints: `saturation+path`."""

    results: Results
    run_id: int
    group: str
    checkpoint: str
    step: int
    settings: ConfigDict  # that finetuning keeps: the run's own

    def naming(self) -> Row:
        """The settings by which a finetuning run names it."""
        named = {
            "source": str(self.results.workdir),
            "run_id": self.run_id,
            "run_hash": str(self.results.runs.run_hash[self.run_id]),
            "step": self.step,
            "checkpoint": self.checkpoint,
            "group": self.group,
        }
        return {f"transfer.{name}": value for name, value in named.items()}


def find_sources(
    results: Results, checkpoints: Sequence[str] = CHECKPOINTS, group: str = ""
) -> tuple[list[Source], pd.DataFrame]:
    """The stored steps of every run that are such checkpoints.

    `before` is the last one before the run memorises; `saturation`, `path` and `grokked` are the
    first from where it memorises, has a path and groks (`Task.event_metrics`); `end` is the last.

    Args:
      results: of the source population. Diverged runs are passed over.
      checkpoints: of CHECKPOINTS.
      group: what to call them; each run's regime by default.

    Returns:
      The sources, one for each run and step; and a table of all that was looked for: group, run_id
      and run_hash, checkpoint, step (NaN where skipped), event_step (NaN where it was not
      observed), skipped (why, or nothing).
    """
    if results.config.transfer.source:
        raise UserError(
            f"{results.workdir}: is a finetuning itself; give the workdir that it came from"
        )
    stored = np.array(results.checkpoint_steps())
    if not len(stored):
        raise UserError(f"{results.workdir}: has no checkpoints to finetune; train it first")
    results.require_curves()
    ends = results.runs[results.runs.status == DIVERGED].set_index("run_id").step.to_dict()
    curves = at_kept_site(results.curves, ends)
    events = order_table(results.runs, curves, (PATH_AT, EVENT_AT)).set_index("run_id")
    sources: list[Source] = []
    rows = []
    for run in results.runs.itertuples():
        name = group or str(run.regime)
        found: dict[int, list[str]] = {}
        for checkpoint in checkpoints:
            at, step, skipped = _locate(checkpoint, run, events, stored)
            if not skipped:
                found.setdefault(int(step), []).append(checkpoint)
            rows.append((name, run.run_id, str(run.run_hash), checkpoint, step, at, skipped))
        sources += [
            Source(results, run.run_id, name, "+".join(c), step, results.run_config(run.run_id))
            for step, c in found.items()
        ]
    return sources, pd.DataFrame(rows, columns=_COLUMNS)


def looked_for_in_vain(group: str, checkpoint: str, why: str) -> pd.DataFrame:
    """The table of `find_sources` where there is no run at all to look at."""
    row = (group, "", "", checkpoint, math.nan, math.nan, why)
    return pd.DataFrame([row], columns=_COLUMNS)


def _locate(
    checkpoint: str, run: Any, events: pd.DataFrame, stored: np.ndarray
) -> tuple[float, float | np.integer, str]:
    """(step of the event, stored step, why there is none)."""
    if run.status == DIVERGED or run.run_id not in events.index:
        return math.nan, math.nan, DIVERGED if run.status == DIVERGED else "not trained"
    if checkpoint == END:
        return math.nan, stored[-1], ""
    event, column = _EVENT_OF[checkpoint]
    at = float(events.loc[run.run_id, column])
    if not math.isfinite(at):
        return at, math.nan, f"{event}: never observed"
    steps = stored[stored < at][-1:] if checkpoint == BEFORE else stored[stored >= at][:1]
    return (at, steps[0], "") if len(steps) else (at, math.nan, "no checkpoint stored there")


def describe_sources(config: ConfigDict, looked_for: pd.DataFrame) -> str:
    """What will be finetuned, and what was skipped, for a terminal."""
    lines = [f"finetuning: {counted(len(config.runs), 'run')}"]
    skipped = looked_for[looked_for.skipped != ""]
    for (group, checkpoint, why), own in skipped.groupby(["group", "checkpoint", "skipped"]):
        runs = ", ".join(str(run_id) for run_id in own.run_id if run_id != "")
        lines.append(f"skipped: {checkpoint} of {group}{', runs ' if runs else ''}{runs} ({why})")
    return "\n".join(lines)
