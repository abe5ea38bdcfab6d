"""Intervals by resampling seeds, then pairs or queries within each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from grokjax.base.draws import random_stream

NUM_RESAMPLES = 1000
_LEVELS = (2.5, 97.5)


class Intervals(NamedTuple):
    """Estimates with 95 % percentile intervals; `n` seeds, not runs."""

    mean: Float[np.ndarray, "*F"]
    low: Float[np.ndarray, "*F"]
    high: Float[np.ndarray, "*F"]
    n: int


def ratio_interval(
    change: Float[np.ndarray, "R N F"],
    total: Float[np.ndarray, "R N"],
    seeds: ArrayLike | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Intervals:
    """Mean change over mean total, pooled over seeds and pairs: a ratio of means.

    NaN where the total's own interval reaches down to 0, so that there is nothing to share.

    Args:
      change, total: by run, pair and site; NaN where a run lacks a pair.
      seeds: of each run; runs that share one are drawn together. A seed of its own each by default.
      seed: of the resampling.
      num_resamples: of seeds, and of pairs within each run.
    """
    there = np.isfinite(total)
    change, total = np.where(there[..., None], change, 0.0), np.where(there, total, 0.0)
    rng = random_stream(seed, "bootstrap of pairs")
    times, num_seeds = _drawn_runs(seeds, len(total), rng, num_resamples)
    weights = np.zeros((num_resamples, *total.shape))
    for r, size in enumerate(there.sum(axis=1)):
        if size:  # a run drawn k times draws its pairs k times
            even = np.full(size, 1 / size)
            weights[:, r, there[r]] = rng.multinomial(times[:, r] * size, even)
    moved = np.einsum("brn,rnf->bf", weights, change, optimize=True)
    whole = np.einsum("brn,rn->b", weights, total)
    if len(total) == 0 or np.percentile(whole, _LEVELS[0]) <= 0:
        nothing = np.full(change.shape[-1], np.nan)
        return Intervals(nothing, nothing, nothing, num_seeds)
    mean = change.sum(axis=(0, 1)) / total.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return _intervals(mean, moved / whole[:, None], num_seeds)


def rate_interval(
    rate: Float[np.ndarray, "R F"],
    num_queries: Int[np.ndarray, " R"],
    seeds: ArrayLike | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Intervals:
    """The mean over runs of a share of queries.

    Resampling a run's queries with replacement is a binomial draw with its own rate.

    Args:
      rate: by run and site; runs with NaN are left out.
      num_queries: that each run's rates are of.
      seeds, seed, num_resamples: as in `ratio_interval`.
    """
    usable = np.isfinite(rate).all(axis=1) & (np.asarray(num_queries) > 0)
    rate, num_queries = np.clip(rate[usable], 0, 1), np.asarray(num_queries)[usable]
    if not len(rate):
        nothing = np.full(rate.shape[1:], np.nan)
        return Intervals(nothing, nothing, nothing, 0)
    rng = random_stream(seed, "bootstrap of rates")
    own = None if seeds is None else np.asarray(seeds, dtype=object)[usable]
    times, num_seeds = _drawn_runs(own, len(rate), rng, num_resamples)
    total = np.zeros((num_resamples, rate.shape[1]))
    for r, n in enumerate(num_queries):
        drawn = times[:, r, None] * n
        total += rng.binomial(drawn, rate[r]) / n
    mean = total / times.sum(axis=1, keepdims=True)
    return _intervals(rate.mean(axis=0), mean, num_seeds)


def _drawn_runs(
    seeds: ArrayLike | None,
    num_runs: int,
    rng: np.random.Generator,
    num_resamples: int,
) -> tuple[Int[np.ndarray, "b R"], int]:
    """How often each run is drawn when seeds are, and the number of seeds."""
    labels = np.arange(num_runs) if seeds is None else np.asarray(seeds, dtype=object)
    names = list(dict.fromkeys(labels.tolist()))
    place = np.array([names.index(label) for label in labels.tolist()], int)
    if not names:
        return np.zeros((num_resamples, 0), int), 0
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_resamples)
    return drawn[:, place], len(names)


def _intervals(mean: np.ndarray, resampled: np.ndarray, n: int) -> Intervals:
    if n < 2:  # one seed tells nothing about others
        nothing = np.full_like(mean, np.nan)
        return Intervals(mean, nothing, nothing, n)
    low, high = np.percentile(resampled, _LEVELS, axis=0)
    return Intervals(mean, low, high, n)
