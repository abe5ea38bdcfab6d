"""Statistics of times that may never come: censored runs are used, never dropped.

Times are in steps (or any unit), observed or censored at the end of a run.
Definitions: docs/protocol.md, section 4, "Time and cost".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

from grokjax.data.graph import random_stream
from grokjax.statistics.events import Interval

CENSORED, EVENT, COMPETING = 0, 1, 2
_NORMAL = 1.959964  # standard deviations to either side that hold 95 %
_SURVIVAL = ["time", "survival", "low", "high", "at_risk"]
_PROBABILITY = ["time", "probability", "low", "high", "at_risk"]


def kaplan_meier(time: Float[np.ndarray, " N"], observed: Bool[np.ndarray, " N"]) -> pd.DataFrame:
    """Share of runs without the event yet, with 95 % intervals (log-log Greenwood).

    Args:
      time: of the event, or where the run was censored.
      observed: which it was.

    Returns:
      time, survival, low, high, at_risk: a row per time, a first one at 0.
    """
    time, observed = np.asarray(time, float), np.asarray(observed, bool)
    if not len(time):
        return pd.DataFrame(columns=_SURVIVAL, dtype=float)
    data = stats.CensoredData(uncensored=time[observed], right=time[~observed])
    curve = stats.ecdf(data).sf
    at = curve.quantiles
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where the formula has no width to give
        bounds = curve.confidence_interval(method="log-log")
        low, high = bounds.low.probabilities, bounds.high.probabilities
    # Before the first event, and after all runs had it, the formula has no width to give.
    low, high = (np.where(np.isnan(b), curve.probabilities, b) for b in (low, high))
    at_risk = [(time >= t).sum() for t in at]
    start = pd.DataFrame([(0.0, 1.0, 1.0, 1.0, len(time))], columns=_SURVIVAL)
    rest = zip(at, curve.probabilities, low, high, at_risk, strict=True)
    return pd.concat([start, pd.DataFrame(rest, columns=_SURVIVAL)], ignore_index=True)


def aalen_johansen(time: Float[np.ndarray, " N"], cause: Int[np.ndarray, " N"]) -> pd.DataFrame:
    """P(event by t) where another end (divergence) competes, with 95 % intervals (log-log).

    One minus Kaplan-Meier is too high: it takes a diverged run for one that may still have it.

    Args:
      time: when each run ended in whatever way.
      cause: CENSORED, EVENT or COMPETING.

    Returns:
      time, probability, low, high, at_risk. With n_k runs at risk at end k, d_k that ended and e_k
      that had the event there, S_k surviving until then and F the probability, the variance is the
      delta method's (Marubini and Valsecchi 1995):
      sum over k of (F - F_k)^2 d_k / (n_k (n_k - d_k)) + S_k^2 e_k (n_k - e_k) / n_k^3
      - 2 (F - F_k) S_k e_k / n_k^2.
    """
    time, cause = np.asarray(time, float), np.asarray(cause)
    nobody = wilson(0, len(time))
    rows = [(0.0, 0.0, 0.0, nobody.high, len(time))]
    ends = np.unique(time[cause != CENSORED])
    at_risk = np.array([(time >= t).sum() for t in ends], float)
    events, competing = (
        np.array([((time == t) & (cause == c)).sum() for t in ends], float)
        for c in (EVENT, COMPETING)
    )
    either = events + competing
    survival = np.cumprod(1 - either / np.maximum(at_risk, 1))
    before = np.concatenate([[1.0], survival[:-1]])
    probability = np.cumsum(before * events / np.maximum(at_risk, 1))
    for k, t in enumerate(ends):
        n, d, e, s = at_risk[: k + 1], either[: k + 1], events[: k + 1], before[: k + 1]
        rest = probability[k] - probability[: k + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            first = np.where(n > d, rest**2 * d / (n * (n - d)), 0.0).sum()
        second = (s**2 * e * (n - e) / n**3).sum()
        third = (rest * s * e / n**2).sum()
        variance = max(first + second - 2 * third, 0.0)
        low, high = _log_log(probability[k], variance, len(time))
        rows.append((t, probability[k], low, high, int(at_risk[k])))
    return pd.DataFrame(rows, columns=_PROBABILITY)


def _log_log(p: float, variance: float, n: int) -> tuple[float, float]:
    """Interval of a probability on the log(-log) scale, which keeps it between 0 and 1.

    Where all or none of n had the event, the scale has none; Wilson's does.
    """
    if not 0 < p < 1 or variance == 0:
        whole = wilson(round(p * n), n)
        return whole.low, whole.high
    width = _NORMAL * math.sqrt(variance) / abs(p * math.log(p))
    return p ** math.exp(width), p ** math.exp(-width)


def restricted_mean(
    time: Float[np.ndarray, " N"], observed: Bool[np.ndarray, " N"], horizon: float
) -> Interval:
    """Mean time without the event up to a horizon: the area under Kaplan-Meier.

    Returns:
      Mean with its 95 % normal interval, and the number of runs. The variance is Greenwood's: the
      sum over events of A^2 d / (n (n - d)), A being the area beyond each, n the runs at risk and d
      those that had it (Klein and Moeschberger 2003, section 4.5).
    """
    time, observed = np.asarray(time, float), np.asarray(observed, bool)
    n = len(time)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    curve = kaplan_meier(np.minimum(time, horizon), observed & (time <= horizon))
    edges = np.append(curve.time.to_numpy(), horizon)
    areas = curve.survival.to_numpy() * np.diff(edges)
    mean = float(areas.sum())
    after = np.cumsum(areas[::-1])[::-1]  # area beyond each time
    variance = 0.0
    for k in range(1, len(curve)):
        t, risk = curve.time[k], curve.at_risk[k]
        d = float(((time == t) & observed).sum())
        if d and risk > d:
            variance += after[k] ** 2 * d / (risk * (risk - d))
    half = _NORMAL * math.sqrt(variance)
    if n < 2 or not variance:  # nothing observed, nothing to tell a spread by
        return Interval(mean, math.nan, math.nan, n)
    return Interval(mean, max(mean - half, 0.0), min(mean + half, horizon), n)


class LogRank(NamedTuple):
    """Two groups' times compared; statistic is the normal one."""

    statistic: float
    p_value: float


def log_rank(
    time_a: np.ndarray, observed_a: np.ndarray, time_b: np.ndarray, observed_b: np.ndarray
) -> LogRank:
    """Whether two groups have the event equally soon. NaN where none of them ever has it."""
    if not (np.any(observed_a) or np.any(observed_b)) or not (len(time_a) and len(time_b)):
        return LogRank(math.nan, math.nan)
    data = [
        stats.CensoredData(uncensored=np.asarray(t)[o], right=np.asarray(t)[~o])
        for t, o in ((time_a, np.asarray(observed_a, bool)), (time_b, np.asarray(observed_b, bool)))
    ]
    with np.errstate(invalid="ignore"):  # all at one step: nothing to compare, NaN
        found = stats.logrank(*data)
    return LogRank(float(found.statistic), float(found.pvalue))


def wilson(successes: int, n: int) -> Interval:
    """A proportion with its 95 % Wilson interval."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    bounds = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(successes / n, float(bounds.low), float(bounds.high), n)


def paired_ratio(
    a: Float[np.ndarray, " N"],
    b: Float[np.ndarray, " N"],
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
) -> Interval:
    """Ratio of means of pairs (two regimes of one seed, say), with a bootstrap over the pairs."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    n = len(a)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if n == 1:
        return Interval(float(a[0] / b[0]), math.nan, math.nan, 1)
    rng = random_stream(seed, "bootstrap of pairs of runs")
    drawn = rng.integers(n, size=(num_resamples, n))
    ratios = a[drawn].mean(axis=1) / b[drawn].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(a.mean() / b.mean()), float(low), float(high), n)


def variance_components(
    values: Float[np.ndarray, " N"], factors: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """How much of the variance each factor brings, in a full cross of them (method of moments).

    Args:
      values: one per combination of the factors' levels.
      factors: each value's level, by factor: data, init and order seed, say.

    Returns:
      A variance component per factor and "rest" (interactions and noise); shares of nothing are 0.

    Raises:
      ValueError: the factors are not fully crossed.
    """
    values = np.asarray(values, float)
    levels = {name: np.unique(list(x)) for name, x in factors.items()}
    rows = list(zip(*factors.values(), strict=True))
    expected = math.prod(len(x) for x in levels.values())
    if len(set(rows)) != expected or len(values) != expected:
        raise ValueError(f"a full cross has {expected} values, here are {len(values)}")
    n, total = len(values), values.mean()
    squares, degrees = {}, {}
    for name, own in levels.items():
        means = np.array([values[np.asarray(factors[name]) == x].mean() for x in own])
        degrees[name] = len(own) - 1
        squares[name] = n / len(own) * float(np.sum((means - total) ** 2))
    rest_degrees = n - 1 - sum(degrees.values())
    rest = float(np.sum((values - total) ** 2)) - sum(squares.values())
    noise = rest / rest_degrees if rest_degrees else 0.0
    found = {"rest": max(noise, 0.0)}
    for name, own in levels.items():
        if degrees[name]:
            component = (squares[name] / degrees[name] - noise) / (n / len(own))
            found[name] = max(component, 0.0)
    return found
