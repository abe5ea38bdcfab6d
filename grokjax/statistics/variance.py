"""What each seed brings: components of variance, and shares of it with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from grokjax.base.draws import random_stream
from grokjax.statistics.intervals import BOOTSTRAP, Interval

REST = "rest"  # interactions and noise
_NUM_RESAMPLES = 2000


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
    return {
        name: float(part)
        for name, part in zip([*factors, REST], _components(_cross(values, factors)), strict=True)
    }


def variance_shares(
    values: Float[np.ndarray, " N"], factors: Mapping[str, Sequence[int]]
) -> dict[str, Interval]:
    """Each factor's share of the variance, with a bootstrap over the levels of every factor.

    Levels are drawn anew with replacement (the pigeonhole bootstrap, Owen 2007); repeated levels
    add no variance, so that shares of few levels are wide. With fewer than 3 levels of a factor
    there is no interval.

    Raises:
      ValueError: the factors are not fully crossed.
    """
    table = _cross(values, factors)
    estimate = _shares(_components(table))
    names = [*factors, REST]
    nothing = {
        n: Interval(float(x), math.nan, math.nan, table.size)
        for n, x in zip(names, estimate, strict=True)
    }
    if min(table.shape) < 3 or np.ptp(table) == 0:
        return nothing
    rng = random_stream(0, "bootstrap of levels")
    drawn = []
    for _ in range(_NUM_RESAMPLES):
        places = [rng.integers(n, size=n) for n in table.shape]
        sample = table[np.ix_(*places)]
        if np.ptp(sample):
            drawn.append(_shares(_components(sample)))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {
        n: Interval(float(x), float(a), float(b), table.size, BOOTSTRAP)
        for n, x, a, b in zip(names, estimate, low, high, strict=True)
    }


def _cross(values: np.ndarray, factors: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The values in an array with an axis per factor."""
    values = np.asarray(values, float)
    places = [np.unique(list(x), return_inverse=True) for x in factors.values()]
    shape = tuple(len(levels) for levels, _ in places)
    table = np.full(shape, math.nan)
    table[tuple(place for _, place in places)] = values
    if len(values) != table.size or np.isnan(table).any():
        raise ValueError(f"a full cross has {table.size} values, here are {len(values)}")
    return table


def _components(table: np.ndarray) -> np.ndarray:
    """Of each axis, then of the rest; not below 0."""
    centred = table - table.mean()
    squares, degrees, repeats = [], [], []
    for axis, size in enumerate(table.shape):
        others = tuple(i for i in range(table.ndim) if i != axis)
        repeats.append(table.size / size)
        squares.append(repeats[-1] * float(np.sum(centred.mean(axis=others) ** 2)))
        degrees.append(size - 1)
    rest_degrees = table.size - 1 - sum(degrees)
    left = float(np.sum(centred**2)) - sum(squares)
    noise = left / rest_degrees if rest_degrees else 0.0
    found = [
        (s / d - noise) / n if d else 0.0 for s, d, n in zip(squares, degrees, repeats, strict=True)
    ]
    return np.maximum([*found, noise], 0.0)


def _shares(components: np.ndarray) -> np.ndarray:
    total = components.sum()
    return components / total if total else np.zeros_like(components)
