"""What comes when: the step at which sites become causal and readable, and each run's order.

Checkpoints are stored on a log grid, so a step is known to the interval since the checkpoint
before; what is there at the first checkpoint of an analysis came before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from grokjax.analysis.tables import SITE
from grokjax.base.names import PATH_AT
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import FOUND_STRICT, Hidden, Task
from grokjax.statistics.events import first_crossing

EVENTS = ("path readable", "path causal", "answered")


def first_steps(
    steps: np.ndarray,
    values: Float[np.ndarray, "R steps *F"],
    analysed: Bool[np.ndarray, "R steps"],
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """When each run's values first reach a threshold and are there at its next checkpoint too.

    The last checkpoint counts alone; checkpoints at which a run was not analysed are none of its.

    Returns:
      [R, *F] each: the steps, inf where never; the checkpoints before, NaN where there is none.
    """
    shape = values.shape[:1] + values.shape[2:]
    first, before = np.full(shape, math.inf), np.full(shape, math.nan)
    for run in range(len(values)):
        own = steps[analysed[run]].tolist()
        if not own:
            continue
        columns = np.asarray(values[run][analysed[run]], float).reshape(len(own), -1)
        # Repeated, the last checkpoint confirms itself.
        again = np.concatenate([columns, columns[-1:]])
        found = [first_crossing([*own, own[-1]], c.tolist(), threshold, 2) for c in again.T]
        places = [own.index(at) if math.isfinite(at) else 0 for at in found]
        first[run] = np.reshape(found, shape[1:])
        before[run] = np.reshape([own[p - 1] if p else math.nan for p in places], shape[1:])
    return first, before


def causal_steps(patching: xr.Dataset, threshold: float = PATH_AT) -> pd.DataFrame:
    """A row per run, cell, direction and site: the step from which its effect is over it."""
    values = patching.effect.transpose("run", "step", "cell", "direction", "site")
    analysed = patching.num_pairs.notnull().any("cell").transpose("run", "step").to_numpy()
    first, _ = first_steps(patching.step.to_numpy(), values.to_numpy(), analysed, threshold)
    frame = values.isel(step=0).copy(data=first).to_dataframe("causal_step").reset_index()
    return frame[["run", "regime", "slot", "group", "direction", *SITE, "causal_step"]]


def readable_steps(
    lens: xr.Dataset, threshold: float = PATH_AT, task: Task = COMPOSITION
) -> pd.DataFrame:
    """A row per run, type and site: the step from which the lens mostly says what is hidden; of
    several tokens, per token."""
    tables = [_readable(lens, hidden.name, threshold, task) for hidden in task.hidden]
    if len(tables) > 1:
        tables = [t.assign(token=h.name) for t, h in zip(tables, task.hidden, strict=True)]
    return pd.concat(tables, ignore_index=True)


def _readable(lens: xr.Dataset, token: str, threshold: float, task: Task) -> pd.DataFrame:
    values = lens.top1.sel(token=token, subset="apart").transpose("run", "step", ...)
    first, _ = first_steps(lens.step.to_numpy(), values.to_numpy(), _analysed(lens), threshold)
    frame = values.isel(step=0).copy(data=first).to_dataframe("readable_step").reset_index()
    place = ["type", "stream", "stage", "position"]
    frame = frame[["run", "regime", *place, "readable_step"]]
    return frame[frame.type.isin(task.hiding)]


def _analysed(lens: xr.Dataset) -> Bool[np.ndarray, "R steps"]:
    there = lens.num_queries.notnull().any(["type", "subset", "token"])
    return there.transpose("run", "step").to_numpy()


def holds_hidden(
    given_by: Sequence[Float[np.ndarray, "*S"]], others: Sequence[Float[np.ndarray, "*S"]]
) -> Float[np.ndarray, "*S"]:
    """Score of sites, from the denoising effect of patching each token of the question.

    A site that holds a hidden token answers to those that determine it (the bridge: head and
    relation 1), and not yet to the others (relation 2). 1 is the hidden token and nothing else.
    """
    known = np.minimum.reduce(list(given_by))
    return known - np.maximum(np.maximum.reduce(list(others)), 0.0) if others else known


def causal_score(
    patching: xr.Dataset, group: str, task: Task = COMPOSITION
) -> Float[np.ndarray, "R steps"]:
    """Of the best site among the streams (`holds_hidden`), of several tokens the lowest: our
    measure of a causal path."""
    scores = [
        np.max(np.nan_to_num(_scores(patching, group, hidden, task), nan=-np.inf), axis=-1)
        for hidden in task.hidden
    ]
    best = np.minimum.reduce(scores)
    return np.where(np.isfinite(best), best, np.nan)


def _scores(
    patching: xr.Dataset, group: str, hidden: Hidden, task: Task
) -> Float[np.ndarray, "R steps S"]:
    """`holds_hidden` of every site among the streams."""
    of_group = patching.isel(cell=np.flatnonzero(patching.group == group))
    effect = _streams(of_group).effect.sel(direction="denoising").set_index(cell="slot")
    of_slot = {
        slot: effect.sel(cell=slot).transpose("run", "step", "site").to_numpy()
        for slot in task.question
    }
    given_by = [of_slot[slot] for slot in hidden.given_by]
    others = [x for slot, x in of_slot.items() if slot not in hidden.given_by]
    return holds_hidden(given_by, others)


def _streams(patching: xr.Dataset) -> xr.Dataset:
    return patching.isel(site=np.flatnonzero(patching.component.isin(["z_H", "z_L"])))


def hidden_sites(
    patching: xr.Dataset, groups: Sequence[str], task: Task = COMPOSITION
) -> pd.DataFrame:
    """The site that holds what is hidden best in each run, at the last step, of all in the streams.

    Returns:
      run, group_of_runs, group (of the queries), token, num_sites (that were looked at), component,
      place, position (empty where no effect is defined), score (`holds_hidden`).
    """
    last = patching.isel(step=[-1])
    sites = _streams(last)
    rows = []
    for split in dict.fromkeys(last.group.to_numpy().tolist()):
        for hidden in task.hidden:
            scores = _scores(last, split, hidden, task)[:, 0]
            for run, group, own in zip(last.run.to_numpy(), groups, scores, strict=True):
                known = bool(np.isfinite(own).any())
                best = int(np.nanargmax(own)) if known else 0
                named = [str(sites[n].to_numpy()[best]) if known else "" for n in SITE[:3]]
                score = float(own[best]) if known else math.nan
                rows.append((int(run), group, split, hidden.name, len(own), *named, score))
    columns = ["run", "group_of_runs", "group", "token", "num_sites", *SITE[:3], "score"]
    return pd.DataFrame(rows, columns=columns)


def order_of_events(
    patching: xr.Dataset, lens: xr.Dataset, task: Task = COMPOSITION
) -> pd.DataFrame:
    """Each run's events on held-out queries and on unseen ones; of a task that hides nothing,
    that it answered.

    Returns:
      run, regime, group, event (EVENTS), step: the first stored checkpoint at which, and at the
      next, the strict rate of the path, its score or the answer accuracy is at least 0.5; inf if
      never; step_before: the run's analysed checkpoint before, since which it came.
    """
    steps, analysed = lens.step.to_numpy(), _analysed(lens)
    rows: list[tuple] = []
    kinds = {"id": task.held_out, "ood": task.generalisation}
    for split, kind in ((split, kind) for split, kind in kinds.items() if kind):
        own = lens.sel(type=kind)
        by_event = {"answered": (own.answer_accuracy.to_numpy(), PATH_AT)}
        if task.hidden:
            by_event = {
                "path readable": (own[f"{task.path}_{FOUND_STRICT}"].to_numpy(), PATH_AT),
                "path causal": (causal_score(patching, split, task), PATH_AT),
            } | by_event
        for event, (values, threshold) in by_event.items():
            found, before = first_steps(steps, values, analysed, threshold)
            runs = zip(lens.run.to_numpy(), lens.regime.to_numpy(), found, before, strict=True)
            rows += [(int(run), str(regime), split, event, at, b) for run, regime, at, b in runs]
    return pd.DataFrame(rows, columns=["run", "regime", "group", "event", "step", "step_before"])
