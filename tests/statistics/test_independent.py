"""Against an independent implementation, statsmodels, on random data."""

import warnings

import numpy as np
import pytest
from scipy import stats

from grokjax.statistics.intervals import wilson
from grokjax.statistics.permutation import holm, log_rank_scores
from grokjax.statistics.survival import (
    CENSORED,
    COMPETING,
    EVENT,
    aalen_johansen,
    kaplan_meier,
    restricted_mean,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from statsmodels.duration.survfunc import CumIncidenceRight, SurvfuncRight, survdiff
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint


def random_runs(rng, competing):
    """Of one to some twenty runs: times on a grid, as evaluations are, with ties."""
    n = int(rng.integers(5, 25))
    cause = rng.choice([CENSORED, EVENT, COMPETING] if competing else [CENSORED, EVENT], n)
    cause[:2] = EVENT
    return rng.integers(1, 12, n).astype(float) * 100, cause


@pytest.mark.parametrize("seed", range(10))
def test_survival_curves(seed):
    time, cause = random_runs(np.random.default_rng(seed), competing=False)
    ours = kaplan_meier(time, cause == EVENT).set_index("time")
    theirs = SurvfuncRight(time, cause == EVENT)
    np.testing.assert_allclose(ours.survival.loc[theirs.surv_times], theirs.surv_prob)
    assert ours.at_risk.loc[theirs.surv_times].tolist() == theirs.n_risk.tolist()
    # Log-log bounds from their standard errors.
    s, error = theirs.surv_prob, theirs.surv_prob_se
    inner = (s > 0) & (s < 1)
    width = stats.norm.ppf(0.975) * error[inner] / (s[inner] * np.log(s[inner]))
    own = ours.loc[theirs.surv_times[inner]]
    np.testing.assert_allclose(own.low, s[inner] ** np.exp(-width), rtol=1e-5)
    np.testing.assert_allclose(own.high, s[inner] ** np.exp(width), rtol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_cumulative_incidence(seed):
    time, cause = random_runs(np.random.default_rng(seed), competing=True)
    ours = aalen_johansen(time, cause).set_index("time")
    with np.errstate(divide="ignore", invalid="ignore"):  # in their standard errors
        theirs = CumIncidenceRight(time, cause)
    event = theirs.cinc[EVENT - 1]
    own = ours.probability.reindex(theirs.times, method="ffill")  # theirs has a row per end
    np.testing.assert_allclose(own, event, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_log_rank(seed):
    """Observed less expected of a group is the sum of its runs' scores."""
    rng = np.random.default_rng(seed)
    time, cause = random_runs(rng, competing=False)
    is_a = np.arange(len(time)) % 2 == 0
    chi_square, _ = survdiff(time, (cause == EVENT).astype(int), is_a)
    variance = 0.0
    for t in np.unique(time[cause == EVENT]):
        at_risk = time >= t
        n, n_a, d = at_risk.sum(), (at_risk & is_a).sum(), ((time == t) & (cause == EVENT)).sum()
        if n > 1:
            variance += d * n_a / n * (1 - n_a / n) * (n - d) / (n - 1)
    score = log_rank_scores(time, cause)[is_a].sum()
    assert score**2 / variance == pytest.approx(chi_square)


@pytest.mark.parametrize("seed", range(5))
def test_restricted_means(seed):
    """The area under their curve, up to the first censored time."""
    time, cause = random_runs(np.random.default_rng(seed), competing=False)
    until = float(min(time[cause == CENSORED], default=time.max()))
    theirs = SurvfuncRight(time, cause == EVENT)
    times = np.append(theirs.surv_times[theirs.surv_times < until], until)
    levels = np.append(1.0, theirs.surv_prob[: len(times) - 1])
    area = np.sum(levels * np.diff(np.append(0.0, times)))
    assert restricted_mean(time, cause, until).mean == pytest.approx(area)


def test_shares_and_families():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 8, 30):
        for k in range(n + 1):
            expected = proportion_confint(k, n, method="wilson")
            assert wilson(k, n)[1:3] == pytest.approx(expected, abs=1e-6)
    for size in (1, 2, 7, 30):
        p = rng.uniform(size=size) ** 3
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
