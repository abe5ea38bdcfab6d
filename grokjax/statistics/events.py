"""When runs memorise, form the path and answer, and in which order (docs/protocol.md, section 4).

An event's step is the first of three evaluations at the level; it came since the evaluation
before. A run that ends first is right-censored, a diverged one has met a competing event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from grokjax.base import names
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import FOUND_STRICT, Task

_EVENT_COLUMNS = ["run_id", "regime", "event", "threshold", "status", "step", "step_before"]


class When(NamedTuple):
    """An event of one run: what has become of it; its step, or where the run ended; since when.

    before: the evaluation before, NaN unless observed.
    """

    status: str
    step: float
    before: float

    @property
    def seen(self) -> bool:
        return self.status == names.OBSERVED


class Order(NamedTuple):
    """Answer less path, in steps: NaN where one has not come, then with an infinite bound."""

    lag: float
    low: float
    high: float
    word: str  # of names.ORDERS
    label: str  # with the horizon


def first_crossing(
    steps: ArrayLike,
    values: ArrayLike,
    threshold: float,
    consecutive: int = names.CONSECUTIVE,
) -> float:
    """The first step of `consecutive` evaluations at or above the threshold; inf if never."""
    above = np.asarray(values, float) >= threshold
    for i in range(len(above) - consecutive + 1):
        if above[i : i + consecutive].all():
            return float(np.asarray(steps)[i])
    return math.inf


def when(
    steps: ArrayLike,
    values: ArrayLike,
    threshold: float,
    consecutive: int = names.CONSECUTIVE,
    diverged_at: float = math.inf,
) -> When:
    """The event in one run's curve; what a diverged run's frozen weights say later does not count.

    Args:
      steps, values: of its evaluations, in order.
      threshold, consecutive: as in `first_crossing`.
      diverged_at: the step at which the run diverged, if it did.
    """
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    ended = math.isfinite(diverged_at)
    until = steps <= diverged_at
    at = first_crossing(steps[until], values[until], threshold, consecutive)
    if not math.isfinite(at):
        status = names.DIVERGED if ended else names.CENSORED
        return When(status, diverged_at if ended else float(steps[-1]), math.nan)
    place = int(np.searchsorted(steps, at))
    return When(names.OBSERVED, at, float(steps[place - 1]) if place else 0.0)


def order_of(path: When, answer: When) -> Order:
    """In which order path and answer came in one run, both at one level.

    A time that has not come is later than the run's own end.
    """
    if path.seen and answer.seen:
        lag = answer.step - path.step
        low, high = answer.before - path.step, answer.step - path.before
        if max(path.before, answer.before) < min(path.step, answer.step):
            widest = max(path.step, answer.step) - min(path.before, answer.before)
            return Order(lag, low, high, names.TOGETHER, f"together, within {widest:,.0f}")
        word = names.PATH_FIRST if lag > 0 else names.ANSWER_FIRST
        return Order(lag, low, high, word, f"{word} by {abs(lag):,.0f}")
    if path.seen:
        end = _end("answer", answer)
        return Order(
            math.nan, answer.step - path.step, math.inf, names.PATH_FIRST,
            f"{names.PATH_FIRST}, {end}",
        )  # fmt: skip
    if answer.seen:
        end = _end("path", path)
        return Order(
            math.nan, -math.inf, answer.step - path.step, names.ANSWER_FIRST,
            f"{names.ANSWER_FIRST}, {end}",
        )  # fmt: skip
    return Order(
        math.nan, -math.inf, math.inf, names.UNDECIDED, f"{names.UNDECIDED}, {_end('either', path)}"
    )


def _end(what: str, event: When) -> str:
    nothing = "neither" if what == "either" else f"no {what}"
    if event.status == names.DIVERGED:
        return f"{nothing} before it diverged at {event.step:,.0f}"
    return f"{nothing} by {event.step:,.0f}"


def at_kept_site(
    curves: pd.DataFrame,
    last_step: dict[int, float] | None = None,
    task: Task = COMPOSITION,
) -> pd.DataFrame:
    """The curves with each run's strict path rate at one site, kept for all steps.

    The site is the one that read the hidden token best on familiar queries at the run's end. Curves
    without a rate per site (of a declared site, or of before) have the strict rate itself. Of
    several hidden tokens the path's rate is the lowest: all of them are read.

    Args:
      curves: of any runs.
      last_step: at which a run ended, where its later rows are not its doing.
      task: of the runs.

    Returns:
      The curves with columns `Task.kept_path` and `path_site_kept` (whether the sites were kept);
      as they are, of a task that hides nothing.
    """
    curves = curves.copy()
    if not task.hidden:
        return curves
    curves["path_site_kept"] = True
    kept = []
    for hidden in task.hidden:
        column = f"{task.generalisation}/{hidden.name}_found_at_site"
        strict = f"{task.generalisation}/{hidden.name}_{FOUND_STRICT}"
        curves[column] = curves.get(strict, pd.Series(math.nan, curves.index))
        kept.append(column)
        where = [task.site_column(hidden.name, c) for c in ("path_stage", "path_position")]
        chosen = [c for c in where if c in curves]
        for run_id, own in curves.groupby("run_id", sort=False):
            site = _site_column(own, (last_step or {}).get(run_id, math.inf), where)
            by_site = f"{task.by_site(hidden.name)}/{site}"
            if by_site in curves:
                curves.loc[own.index, column] = own[by_site]
            elif chosen and (own[chosen].nunique() > 1).any():
                curves.loc[own.index, "path_site_kept"] = False
    curves[task.kept_path] = curves[kept].min(axis=1, skipna=False)
    return curves


def _site_column(own: pd.DataFrame, end: float, where: Sequence[str]) -> str:
    """STAGE/POSITION that a run's last evaluation chose to read a hidden token at."""
    own = own[own.step <= end]
    if not set(where) <= set(own) or not len(own):
        return ""
    return "/".join(map(str, own.loc[own.step.idxmax(), list(where)]))


def event_table(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    thresholds: Sequence[float] = names.LEVELS,
    consecutive: int = names.CONSECUTIVE,
    task: Task = COMPOSITION,
) -> pd.DataFrame:
    """Every event of every run that was trained, at several thresholds.

    Returns:
      run_id, regime, event (of `Task.event_metrics`), threshold; status (observed, censored or
      diverged), step (of the event, or where the run ended), step_before (the evaluation before,
      since which the event came; NaN unless observed).
    """
    rows = []
    by_run = dict(iter(curves.groupby("run_id", sort=False)))
    for run in runs.itertuples():
        if run.run_id not in by_run:
            continue
        own = by_run[run.run_id].sort_values("step")
        diverged_at = float(run.step) if run.status == names.DIVERGED else math.inf
        for event, metric in task.event_metrics.items():
            values = own[metric].to_numpy(float) if metric in own else np.full(len(own), np.nan)
            for threshold in thresholds:
                found = when(own.step.to_numpy(), values, threshold, consecutive, diverged_at)
                rows.append((run.run_id, run.regime, event, threshold, *found))
    return pd.DataFrame(rows, columns=_EVENT_COLUMNS)


def order_table(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    levels: Sequence[float] = names.ORDER_LEVELS,
    consecutive: int = names.CONSECUTIVE,
    task: Task = COMPOSITION,
) -> pd.DataFrame:
    """A row per run that was trained: when it memorised, answered and had a path, in which order.

    Returns:
      run_id, regime, memorised (a step, NaN if not observed); for each level the steps answer_L,
      path_L (strict) and any_path_L, and for both readings of the path lag_L with _low and _high,
      order_L, order_label_L, any_lag_L ...; delay (answer at `EVENT_AT` less memorised),
      simultaneous (the intervals of both overlap). Of a task that hides nothing, no path.
    """
    wanted = tuple(dict.fromkeys([names.EVENT_AT, *levels]))
    events = event_table(runs, curves, wanted, consecutive, task)
    rows = []
    for (run_id, regime), own in events.groupby(["run_id", "regime"], sort=False):
        found = {
            (e.event, e.threshold): When(e.status, float(e.step), float(e.step_before))
            for e in own.itertuples()
        }
        memorised = found[names.MEMORISED, names.EVENT_AT]
        answered = found[names.ANSWER, names.EVENT_AT]
        row = {"run_id": run_id, "regime": regime, "memorised": _step(memorised)}
        for level in levels:
            answer = found[names.ANSWER, level]
            row[f"answer_{level:g}"] = _step(answer)
            if not task.hidden:
                continue
            path, any_path = (found[e, level] for e in (names.PATH, names.ANY_PATH))
            row |= {f"path_{level:g}": _step(path), f"any_path_{level:g}": _step(any_path)}
            for prefix, reading in (("", path), ("any_", any_path)):
                row |= _order_columns(prefix, level, order_of(reading, answer))
        row["delay"] = _step(answered) - _step(memorised)
        row["simultaneous"] = bool(
            memorised.seen
            and answered.seen
            and max(memorised.before, answered.before) < min(memorised.step, answered.step)
        )
        rows.append(row)
    return pd.DataFrame(rows)


def _order_columns(prefix: str, level: float, order: Order) -> dict[str, float | str]:
    return {
        f"{prefix}lag_{level:g}": order.lag,
        f"{prefix}lag_{level:g}_low": order.low,
        f"{prefix}lag_{level:g}_high": order.high,
        f"{prefix}order_{level:g}": order.word,
        f"{prefix}order_label_{level:g}": order.label,
    }


def _step(event: When) -> float:
    return event.step if event.seen else math.nan
