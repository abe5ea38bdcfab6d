"""Intervals over runs that the quantity can have: shares, means, medians (docs/protocol.md, 4)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from grokjax.base.draws import random_stream

BOOTSTRAP, RANGE, WILSON = "bootstrap", "range", "wilson"
BOOTSTRAP_FROM = 8  # runs; fewer are told by their lowest and highest
NUM_RESAMPLES = 5000
_NORMAL = 1.959964  # standard deviations to either side that hold 95 %

Statistic = Callable[..., Any]  # of samples, reduced over `axis`


class Interval(NamedTuple):
    """An estimate over n runs, what bounds it, and how: NaN bounds where nothing does."""

    mean: float
    low: float
    high: float
    n: int
    kind: str = ""

    def columns(self, name: str, prefix: str | None = None) -> dict[str, float]:
        """Of a table: `name` and its bounds, `name_low` and `name_high` or of another prefix."""
        prefix = f"{name}_" if prefix is None else prefix
        return {name: self.mean, f"{prefix}low": self.low, f"{prefix}high": self.high}


def span_of(values: ArrayLike) -> tuple[float, float, float]:
    """Lowest, median, highest; NaN of nothing."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if not len(known):
        return math.nan, math.nan, math.nan
    return float(known.min()), float(np.median(known)), float(known.max())


def mean_interval(values: ArrayLike) -> Interval:
    """Mean over runs; bounds are a BCa bootstrap's from 8 runs on, else the lowest and highest."""
    return _interval([np.asarray(values, float)], lambda x, axis: np.mean(x, axis=axis), "mean")


def median_interval(values: ArrayLike) -> Interval:
    """Median over runs, bounded likewise."""
    return _interval([np.asarray(values, float)], lambda x, axis: np.median(x, axis=axis), "median")


def difference_interval(a: ArrayLike, b: ArrayLike, *, paired: bool) -> Interval:
    """Mean of a less mean of b; pairs are resampled together. n is of the smaller group.

    Below 8 runs the bounds are those of the pairs' differences, or none where nothing is paired.
    """
    return _two(a, b, lambda x, y: x - y, paired)


def ratio_interval(a: ArrayLike, b: ArrayLike, *, paired: bool) -> Interval:
    """Mean of a over mean of b, likewise; both are above 0."""
    return _two(a, b, lambda x, y: x / y, paired)


def _two(a: ArrayLike, b: ArrayLike, combine: Callable, paired: bool) -> Interval:
    samples = [np.asarray(a, float), np.asarray(b, float)]
    if not all(len(x) for x in samples):
        return Interval(math.nan, math.nan, math.nan, 0)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> Any:
        return combine(np.mean(x, axis=axis), np.mean(y, axis=axis))

    n = min(map(len, samples))
    estimate = float(statistic(samples[0], samples[1], axis=0))
    if n >= BOOTSTRAP_FROM:
        return _bootstrap(samples, statistic, estimate, n, paired, "two groups")
    if not paired or n < 2:
        return Interval(estimate, math.nan, math.nan, n)
    each = combine(*samples)
    return Interval(estimate, float(each.min()), float(each.max()), n, RANGE)


def _interval(samples: Sequence[np.ndarray], statistic: Statistic, purpose: str) -> Interval:
    x = samples[0]
    n = len(x)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    estimate = float(statistic(x, axis=0))
    if n >= BOOTSTRAP_FROM:
        return _bootstrap(samples, statistic, estimate, n, False, purpose)
    if n < 2:
        return Interval(estimate, math.nan, math.nan, n)
    return Interval(estimate, float(x.min()), float(x.max()), n, RANGE)


def _bootstrap(
    samples: Sequence[Float[np.ndarray, " N"]],
    statistic: Statistic,
    estimate: float,
    n: int,
    paired: bool,
    purpose: str,
) -> Interval:
    """BCa, or the percentiles where it has no acceleration; nothing where all runs are alike."""
    if not all(np.isfinite(x).all() for x in samples) or all(np.ptp(x) == 0 for x in samples):
        return Interval(estimate, math.nan, math.nan, n)
    rng = random_stream(0, f"bootstrap of {purpose}")
    settings = {"paired": paired, "n_resamples": NUM_RESAMPLES, "vectorized": True}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(samples, statistic, method="BCa", rng=rng, **settings)
        low, high = map(float, found.confidence_interval)
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = map(float, np.percentile(found.bootstrap_distribution, [2.5, 97.5]))
    return Interval(estimate, low, high, n, BOOTSTRAP)


def wilson(successes: float, n: float) -> Interval:
    """A share with its 95 % Wilson interval; `successes` and `n` may be effective numbers."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    share, square = successes / n, _NORMAL**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = _NORMAL / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low = 0.0 if share == 0 else centre - half
    high = 1.0 if share == 1 else centre + half
    return Interval(share, low, high, int(n), WILSON)
