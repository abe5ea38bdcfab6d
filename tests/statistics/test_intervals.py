"""Intervals that the quantity can have, and that few runs are told by their values."""

import math

import numpy as np
import pytest

from grokjax.statistics.intervals import (
    difference_interval,
    mean_interval,
    median_interval,
    ratio_interval,
    wilson,
)


def test_bimodal_accuracies_stay_within_what_there_can_be():
    """A Student-t interval of these is 0.52 [0.10, 0.95] of seven runs and beyond 1 of four."""
    for values in ([0.0, 0.0, 0.02, 0.99, 1.0, 1.0, 1.0, 1.0], [0, 0, 0, 0, 0, 0, 0, 1.0]):
        found = mean_interval(values)
        assert found.kind == "bootstrap" and 0 <= found.low < found.mean < found.high <= 1
    few = mean_interval([0.0, 1.0, 1.0, 1.0])
    assert few == (0.75, 0.0, 1.0, 4, "range")
    assert median_interval([0.0, 1.0, 1.0, 1.0]).mean == 1.0


def test_runs_that_are_alike_have_no_interval():
    """What no run shows, no resampling of them does."""
    found = mean_interval([2500.0] * 8)
    assert found.mean == 2500 and math.isnan(found.low) and math.isnan(found.high)
    assert mean_interval([]).n == 0 and math.isnan(mean_interval([0.4]).low)


def test_costs_are_never_negative():
    """One run of three costs a hundred times as much: Student-t goes below nothing."""
    for n in (3, 8):
        costs = np.array([1.0, 1.1, 100.0, *[1.0 + i / 10 for i in range(n - 3)]]) * 1e12
        assert 0 < mean_interval(costs).low <= mean_interval(costs).high <= costs.max()


def test_pairs_are_resampled_together():
    rng = np.random.default_rng(0)
    a = rng.exponential(10, 12) + 1
    assert ratio_interval(3 * a, a, paired=True).high == pytest.approx(3.0)
    assert ratio_interval(3 * a, a, paired=False).high > 3.5
    assert difference_interval(a + 2, a, paired=True).low == pytest.approx(2.0)
    two = ratio_interval([2.0, 8.0], [1.0, 2.0], paired=True)
    assert two == (pytest.approx(10 / 3), 2.0, 4.0, 2, "range")
    assert math.isnan(ratio_interval([2.0, 8.0], [1.0, 2.0, 3.0], paired=False).low)


def test_shares():
    half = wilson(5, 10)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10).low == 0.0 and wilson(10, 10).high == 1.0
    assert math.isnan(wilson(0, 0).mean)
