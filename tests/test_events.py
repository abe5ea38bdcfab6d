"""First crossings and intervals over seeds (protocol section 4)."""

import math

import numpy as np
import pytest

from grokjax.events import first_crossing, student_interval

STEPS = [0, 100, 200, 300, 400, 500]


@pytest.mark.parametrize("values, step", [
    ([0, 0.2, 0.95, 0.96, 0.99, 1.0], 200),  # the first of three in a row, at or above
    ([0, 1.0, 1.0, 0.9, 1.0, 1.0], math.inf),  # two in a row are not enough
    ([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 0),  # what came later does not undo it
    ([0, 0, 0, 0.9, 1.0, 1.0], math.inf),
    ([0, 0, math.nan, 1, 1, 1], 300),
])  # fmt: skip
def test_first_crossing(values, step):
    assert first_crossing(STEPS, values, 0.95) == step


def test_one_evaluation_may_do():
    assert first_crossing(STEPS, [0, 0, 0, 0, 0, 0.5], 0.5, consecutive=1) == 500


def test_student_interval():
    """Student's own example: extra hours of sleep, n = 10."""
    hours = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    interval = student_interval(hours)
    np.testing.assert_allclose(interval, [2.33, 0.8976775, 3.7623225, 10], rtol=1e-6)


def test_few_seeds_say_little():
    mean, low, high, n = student_interval([0.4])
    assert (mean, n) == (0.4, 1) and math.isnan(low) and math.isnan(high)
    assert math.isnan(student_interval([]).mean)
