"""Statistics of times that may never come: censored runs are used, never dropped.

Times are in steps (or any unit), observed or censored at the end of a run.
Definitions: docs/protocol.md, section 4, "Time and cost".
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

from grokjax.statistics.intervals import Interval, mean_interval, wilson

CENSORED, EVENT, COMPETING = 0, 1, 2
_ROUNDING = 1e-9  # of a probability that is a sum of shares
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
    if not _ROUNDING < p < 1 - _ROUNDING or variance == 0:
        whole = wilson(round(p * n), n)
        return whole.low, whole.high
    width = _NORMAL * math.sqrt(variance) / abs(p * math.log(p))
    return p ** math.exp(width), p ** math.exp(-width)


def median_time(curve: pd.DataFrame, n: int) -> Interval:
    """When half of the runs have had the event, by an Aalen-Johansen curve and its bounds.

    Args:
      curve: from `aalen_johansen`.
      n: runs that it is of.

    Returns:
      Median and bounds, infinite where the curve, or its bound, does not get to a half. Bounds
      that hold every time, 0 to infinity, are no interval: NaN.
    """
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)

    def reaches_half(column: str) -> float:
        at = curve.time[curve[column] >= 0.5]
        return float(at.iloc[0]) if len(at) else math.inf

    low, median, high = (reaches_half(c) for c in ("high", "probability", "low"))
    if low == 0 and math.isinf(high):
        return Interval(median, math.nan, math.nan, n)
    return Interval(median, low, high, n, "log-log")


def restricted_times(
    time: Float[np.ndarray, " N"], cause: Int[np.ndarray, " N"], horizon: float
) -> Float[np.ndarray, " N"]:
    """Each run's time without the event, up to a horizon; all of it for one that diverged.

    Raises:
      ValueError: a run was censored before the horizon: nobody knows its time.
    """
    time, cause = np.asarray(time, float), np.asarray(cause)
    if ((cause == CENSORED) & (time < horizon)).any():
        raise ValueError(f"a run was censored before the horizon, {horizon:g}")
    return np.where(cause == EVENT, np.minimum(time, horizon), horizon)


def restricted_mean(
    time: Float[np.ndarray, " N"], cause: Int[np.ndarray, " N"], horizon: float
) -> Interval:
    """Mean time without the event up to a horizon that all runs reach, bounded by the runs.

    Where nobody is censored before it, it is the area over Aalen-Johansen's curve.
    """
    return mean_interval(restricted_times(time, cause, horizon))
