"""Survival statistics on data with known answers."""

import numpy as np
import pytest

from grokjax.statistics.survival import (
    CENSORED,
    COMPETING,
    EVENT,
    aalen_johansen,
    kaplan_meier,
    median_time,
    restricted_mean,
    restricted_times,
)

# Freireich et al. 1963, weeks of remission with 6-MP and placebo: the textbook's example.
TREATED = np.array([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35.0])
TREATED_SEEN = np.arange(21) < 9
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23.0])
PLACEBO_SEEN = np.ones(21, bool)


def test_kaplan_meier_of_the_textbook():
    curve = kaplan_meier(TREATED, TREATED_SEEN).set_index("time")
    expected = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, survival in expected.items():
        assert curve.survival[week] == pytest.approx(survival, abs=6e-4)
    assert curve.at_risk[6] == 21 and curve.at_risk[10] == 15
    # Its log-log interval at 6 weeks, as R's survfit(conf.type = "log-log") prints it.
    assert (curve.low[6], curve.high[6]) == pytest.approx((0.620, 0.952), abs=2e-3)
    assert curve.survival[0] == 1.0


def test_all_censored_and_nobody():
    curve = kaplan_meier(np.array([5.0, 5.0]), np.array([False, False]))
    assert (curve.survival == 1.0).all() and (curve.high == 1.0).all()
    assert len(kaplan_meier(np.array([]), np.array([], bool))) == 0
    never = aalen_johansen(np.array([5.0]), np.array([CENSORED]))
    assert never.probability.tolist() == [0.0]


def test_without_competition_aalen_johansen_is_one_minus_kaplan_meier():
    cause = np.where(TREATED_SEEN, EVENT, CENSORED)
    incidence = aalen_johansen(TREATED, cause).set_index("time")
    survival = kaplan_meier(TREATED, TREATED_SEEN).set_index("time").survival
    for week in (6, 7, 10, 13, 16, 22, 23):
        assert incidence.probability[week] == pytest.approx(1 - survival[week])


def test_competing_ends_are_not_censored_ones():
    """Of ten runs two diverge at 1, then all others have the event: 0.8, not 1."""
    time = np.array([1.0] * 2 + [2.0] * 8)
    cause = np.array([COMPETING] * 2 + [EVENT] * 8)
    last = aalen_johansen(time, cause).iloc[-1]
    assert last.probability == pytest.approx(0.8)
    assert kaplan_meier(time, cause == EVENT).survival.iloc[-1] == 0.0
    # With nobody censored, the variance is a proportion's.
    error = np.sqrt(0.8 * 0.2 / 10)
    width = np.exp(1.959964 * error / abs(0.8 * np.log(0.8)))
    assert (last.low, last.high) == pytest.approx((0.8**width, 0.8 ** (1 / width)))


def test_the_variance_is_that_of_repetitions():
    rng = np.random.default_rng(0)

    def draw(n=60):
        event, other, end = rng.exponential(10, n), rng.exponential(20, n), rng.uniform(5, 30, n)
        time = np.minimum(np.minimum(event, other), end)
        return time, np.where(time == end, CENSORED, np.where(time == event, EVENT, COMPETING))

    found, covered = [], 0
    truth = (1 / 10) / (1 / 10 + 1 / 20) * (1 - np.exp(-(1 / 10 + 1 / 20) * 8))
    for _ in range(200):
        curve = aalen_johansen(*draw())
        at = curve[curve.time <= 8].iloc[-1]
        found.append(at.probability)
        covered += at.low <= truth <= at.high
    assert np.mean(found) == pytest.approx(truth, abs=0.02)
    assert 0.9 <= covered / 200 <= 0.99


def test_medians_have_the_bounds_of_their_curve():
    cause = np.where(TREATED_SEEN, EVENT, CENSORED)
    found = median_time(aalen_johansen(TREATED, cause), 21)
    assert found.mean == 23 and found.low == 13 and found.high == np.inf  # R: 23, no upper bound
    nobody = median_time(aalen_johansen(np.array([5.0]), np.array([CENSORED])), 1)
    assert nobody.mean == np.inf
    # From 0 to infinity is every time there is: no interval.
    assert np.isnan(nobody.low) and np.isnan(nobody.high) and nobody.kind == ""
    assert np.isnan(median_time(aalen_johansen(np.array([]), np.array([], int)), 0).mean)


def test_restricted_means():
    everybody = restricted_mean(np.array([1.0, 2.0, 3.0]), np.full(3, EVENT), 10.0)
    assert everybody == (2.0, 1.0, 3.0, 3, "range")
    nobody = restricted_mean(np.array([10.0, 10.0]), np.full(2, CENSORED), 10.0)
    assert nobody.mean == 10.0
    # A diverged run never has the event: all of the horizon, not where it ended.
    times = restricted_times(np.array([4.0, 2.0, 12.0]), np.array([EVENT, COMPETING, EVENT]), 10.0)
    assert times.tolist() == [4, 10, 10]
    with pytest.raises(ValueError, match="censored before the horizon"):
        restricted_mean(TREATED, np.where(TREATED_SEEN, EVENT, CENSORED), 35.0)


def test_the_restricted_mean_is_the_area_over_the_curve():
    """Up to the first censored time, of Kaplan-Meier and of what competes alike."""
    rng = np.random.default_rng(4)
    time, cause = rng.exponential(10, 30), rng.choice([EVENT, COMPETING], 30)
    time, cause = np.append(time, 8.0), np.append(cause, CENSORED)
    curve = aalen_johansen(time, cause)
    curve = curve[curve.time < 8]
    area = np.sum((1 - curve.probability) * np.diff([*curve.time, 8.0]))
    assert restricted_mean(time, cause, 8.0).mean == pytest.approx(area)
