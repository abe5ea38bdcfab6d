"""Intervals by resampling seeds, then pairs or queries within each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from grokjax.graph import random_stream

NUM_RESAMPLES = 1000
_LEVELS = (2.5, 97.5)


class Intervals(NamedTuple):
    """Estimates with 95 % percentile intervals; `n` seeds."""

    mean: Float[np.ndarray, "*F"]
    low: Float[np.ndarray, "*F"]
    high: Float[np.ndarray, "*F"]
    n: int


def ratio_interval(
    change: Float[np.ndarray, "R N F"],
    total: Float[np.ndarray, "R N"],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Intervals:
    """Mean change over mean total, pooled over seeds and pairs: a ratio of means.

    NaN where the total's own interval reaches down to 0, so that there is nothing to share.

    Args:
      change, total: by run, pair and site; NaN where a run lacks a pair.
      seed: of the resampling.
      num_resamples: of seeds, and of pairs within each.
    """
    there = np.isfinite(total)
    change, total = np.where(there[..., None], change, 0.0), np.where(there, total, 0.0)
    weights = _resample(there.sum(axis=1), total.shape[1], there, seed, num_resamples)
    moved = np.einsum("brn,rnf->bf", weights, change, optimize=True)
    whole = np.einsum("brn,rn->b", weights, total)
    if len(total) == 0 or np.percentile(whole, _LEVELS[0]) <= 0:
        nothing = np.full(change.shape[-1], np.nan)
        return Intervals(nothing, nothing, nothing, len(total))
    mean = change.sum(axis=(0, 1)) / total.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return _intervals(mean, moved / whole[:, None], len(total))


def rate_interval(
    rate: Float[np.ndarray, "R F"],
    num_queries: Int[np.ndarray, R],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Intervals:
    """The mean over runs of a share of queries.

    Resampling a run's queries with replacement is a binomial draw with its own rate.

    Args:
      rate: by run and site; runs with NaN are left out.
      num_queries: that each run's rates are of.
      seed, num_resamples: of the resampling.
    """
    usable = np.isfinite(rate).all(axis=1) & (np.asarray(num_queries) > 0)
    rate, num_queries = np.clip(rate[usable], 0, 1), np.asarray(num_queries)[usable]
    if not len(rate):
        nothing = np.full(rate.shape[1:], np.nan)
        return Intervals(nothing, nothing, nothing, 0)
    rng = random_stream(seed, "bootstrap of rates")
    chosen = rng.integers(len(rate), size=(num_resamples, len(rate)))
    n = num_queries[chosen][..., None]
    drawn = rng.binomial(n, rate[chosen]) / n
    return _intervals(rate.mean(axis=0), drawn.mean(axis=1), len(rate))


def _resample(
    sizes: Int[np.ndarray, R], num_pairs: int, there: np.ndarray, seed: int, num_resamples: int
) -> Float[np.ndarray, "b R N"]:
    """How often each pair of each run is drawn; a run drawn k times draws its pairs k times."""
    rng = random_stream(seed, "bootstrap of pairs")
    num_runs = len(sizes)
    runs = rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=num_resamples)
    weights = np.zeros((num_resamples, num_runs, num_pairs))
    for r, size in enumerate(sizes):
        if size:
            even = np.full(size, 1 / size)
            weights[:, r, there[r]] = rng.multinomial(runs[:, r] * size, even)
    return weights


def _intervals(mean: np.ndarray, resampled: np.ndarray, n: int) -> Intervals:
    if n < 2:  # one seed tells nothing about others
        nothing = np.full_like(mean, np.nan)
        return Intervals(mean, nothing, nothing, n)
    low, high = np.percentile(resampled, _LEVELS, axis=0)
    return Intervals(mean, low, high, n)
