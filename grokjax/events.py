"""When a curve reaches a threshold, and what few seeds say about it (protocol section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONSECUTIVE = 3


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval; NaN bounds where one seed gives none."""

    mean: float
    low: float
    high: float
    n: int


def first_crossing(
    steps: Sequence[int],
    values: Sequence[float],
    threshold: float,
    consecutive: int = CONSECUTIVE,
) -> float:
    """The first step of `consecutive` evaluations at or above the threshold; inf if never."""
    above = np.asarray(values, float) >= threshold
    for i in range(len(above) - consecutive + 1):
        if above[i : i + consecutive].all():
            return float(np.asarray(steps)[i])
    return math.inf


def student_interval(values: Sequence[float]) -> Interval:
    """Mean and two-sided 95 % Student-t interval over seeds."""
    x = np.asarray(values, float)
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)
