"""Survival statistics on data with known answers."""

import numpy as np
import pytest

from grokjax.statistics.survival import (
    CENSORED,
    COMPETING,
    EVENT,
    aalen_johansen,
    kaplan_meier,
    log_rank,
    paired_ratio,
    restricted_mean,
    variance_components,
    wilson,
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


def test_log_rank_of_the_textbook():
    found = log_rank(TREATED, TREATED_SEEN, PLACEBO, PLACEBO_SEEN)
    assert found.statistic**2 == pytest.approx(16.79, abs=0.01) and found.p_value < 1e-4
    same = log_rank(PLACEBO, PLACEBO_SEEN, PLACEBO, PLACEBO_SEEN)
    assert same.p_value == pytest.approx(1.0)
    assert np.isnan(log_rank(TREATED, TREATED_SEEN & False, PLACEBO, PLACEBO_SEEN & False).p_value)


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


def test_restricted_means():
    everybody = restricted_mean(np.array([1.0, 2.0, 3.0]), np.ones(3, bool), 10.0)
    assert everybody.mean == pytest.approx(2.0) and everybody.n == 3
    nobody = restricted_mean(np.array([10.0, 10.0]), np.zeros(2, bool), 10.0)
    assert nobody.mean == 10.0
    # Censored at 5: half the weight goes on to the horizon.
    half = restricted_mean(np.array([4.0, 10.0]), np.array([True, False]), 10.0)
    assert half.mean == pytest.approx(4 + 0.5 * 6)
    treated = restricted_mean(TREATED, TREATED_SEEN, 35.0)
    assert treated.mean == pytest.approx(23.29, abs=0.01)  # R's survfit, rmean = 35: 23.29 (2.83)
    assert (treated.high - treated.low) / 2 / 1.959964 == pytest.approx(2.83, abs=0.05)


def test_proportions_and_ratios():
    half = wilson(5, 10)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10).low == 0.0 and np.isnan(wilson(0, 0).mean)
    ratio = paired_ratio(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert ratio == (2.0, 2.0, 2.0, 3)


def test_variance_components_of_a_crossed_design():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        data, init = 2.0 * rng.normal(size=8), 1.0 * rng.normal(size=8)
        values = data[:, None] + init[None] + 0.5 * rng.normal(size=(8, 8))
        levels = np.indices((8, 8))
        factors = {"data": levels[0].ravel().tolist(), "init": levels[1].ravel().tolist()}
        shares.append(variance_components(values.ravel(), factors))
    mean = {name: np.mean([s[name] for s in shares]) for name in shares[0]}
    assert mean["data"] == pytest.approx(4.0, rel=0.25)
    assert mean["init"] == pytest.approx(1.0, rel=0.25)
    assert mean["rest"] == pytest.approx(0.25, rel=0.1)
    with pytest.raises(ValueError, match="full cross"):
        variance_components(np.ones(3), {"data": [0, 0, 1], "init": [0, 1, 0]})
