"""Exact tests: against SciPy's own permutations, in strata, and what few runs can show."""

import math

import numpy as np
import pytest
from scipy import stats

from grokjax.statistics.permutation import (
    holm,
    log_rank_scores,
    permutation_test,
    sign_flip_p,
)
from grokjax.statistics.survival import CENSORED, COMPETING, EVENT


def test_without_strata_it_is_scipys_test():
    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = rng.normal(size=4), rng.normal(0.5, size=5)
        is_a = np.arange(9) < 4
        found = permutation_test(np.concatenate([a, b]), is_a, range(9))
        expected = stats.permutation_test(
            (a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater"
        )
        assert found.num_labellings == math.comb(9, 4) and found.method == "unstratified, exact"
        assert found.p == pytest.approx(expected.pvalue)


def test_pairs_are_swapped_within_a_seed():
    rng = np.random.default_rng(2)
    a = rng.normal(size=7)
    b = a + rng.normal(0.3, 0.4, size=7)
    seeds = [*range(7), *range(7)]
    found = permutation_test(np.concatenate([a, b]), np.arange(14) < 7, seeds)
    expected = stats.permutation_test(
        (a, b), lambda x, y: abs(x.mean() - y.mean()), permutation_type="samples",
        alternative="greater",
    )  # fmt: skip
    assert found.method == "paired by data seed, exact" and found.num_pairs == 7
    assert found.p == pytest.approx(expected.pvalue)
    # Eight pairs can give no less than 2 of 256; three runs against three no less than 2 of 20.
    all_alike = permutation_test([1.0] * 8 + [0.0] * 8, np.arange(16) < 8, [*range(8), *range(8)])
    assert all_alike.p == all_alike.smallest == 2 / 256
    three = permutation_test([1.0, 2, 3, 7, 8, 9], np.arange(6) < 3, range(6))
    assert three.p == three.smallest == 0.1


def test_runs_are_compared_within_their_stratum_alone():
    """Two graphs, one of them slow for everybody: between graphs there is nothing to swap."""
    scores = [1.0, 2.0, 3.0, 101.0, 102.0, 103.0, 55.0]
    is_a = [True, False, False, True, False, False, True]
    found = permutation_test(scores, is_a, [0, 0, 0, 1, 1, 1, 2])
    assert found.num_labellings == 9 and found.method == "stratified by data seed, exact"
    assert found.p == pytest.approx(2 / 9)  # both lowest, or both highest
    assert found.used.tolist() == [True] * 6 + [False]


def test_of_many_labellings_a_sample_is_drawn():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=60)
    is_a = np.arange(60) < 30
    found = permutation_test(scores, is_a, range(60))
    expected = stats.ttest_ind(scores[:30], scores[30:]).pvalue
    assert found.method == "unstratified, sampled" and found.p == pytest.approx(expected, abs=0.02)


def test_a_diverged_run_stays_at_risk():
    """It can never answer: censored where it ended, it would pass for one that may."""
    time = np.array([1.0, 2, 3, 4, 5, 6])
    cause = np.array([COMPETING, EVENT, EVENT, EVENT, EVENT, CENSORED])
    scores = log_rank_scores(time, cause)
    assert scores.sum() == pytest.approx(0)  # observed less expected, over all
    assert scores[0] == scores.min() == pytest.approx(-(1 / 6 + 1 / 5 + 1 / 4 + 1 / 3))
    assert scores[1] == pytest.approx(1 - 1 / 6)
    censored = log_rank_scores(time, np.where(cause == COMPETING, CENSORED, cause))
    assert censored[0] == 0


def test_nobody_to_compare():
    assert math.isnan(permutation_test([1.0, 2.0], [True, True], [0, 1]).p)
    alike = permutation_test([1.0] * 6, np.arange(6) < 3, range(6))
    assert alike.p == alike.smallest == 1.0


def test_signs_are_flipped():
    assert sign_flip_p([0.2, 0.3, 0.1, 0.4], 0.0) == 1 / 16
    assert sign_flip_p([0.2, 0.3, 0.1, 0.4], 0.5) == 1.0
    assert math.isnan(sign_flip_p([], 0.0))


def test_holms_family():
    adjusted = holm([0.01, 0.04, 0.03, math.nan])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, math.nan])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
