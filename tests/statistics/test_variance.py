"""Components of variance of designs whose components are known."""

import numpy as np
import pytest

from grokjax.statistics.variance import variance_components, variance_shares


def crossed(rng, sizes=(8, 8), noise=0.5):
    data, init = 2.0 * rng.normal(size=sizes[0]), 1.0 * rng.normal(size=sizes[1])
    values = data[:, None] + init[None] + noise * rng.normal(size=sizes)
    levels = np.indices(sizes)
    return values.ravel(), {"data": levels[0].ravel().tolist(), "init": levels[1].ravel().tolist()}


def test_components_of_a_crossed_design():
    rng = np.random.default_rng(0)
    shares = [variance_components(*crossed(rng)) for _ in range(60)]
    mean = {name: np.mean([s[name] for s in shares]) for name in shares[0]}
    assert mean["data"] == pytest.approx(4.0, rel=0.25)
    assert mean["init"] == pytest.approx(1.0, rel=0.25)
    assert mean["rest"] == pytest.approx(0.25, rel=0.1)
    with pytest.raises(ValueError, match="full cross"):
        variance_components(np.ones(3), {"data": [0, 0, 1], "init": [0, 1, 0]})


def test_shares_have_intervals_within_what_there_can_be():
    shares = variance_shares(*crossed(np.random.default_rng(1)))
    assert sum(x.mean for x in shares.values()) == pytest.approx(1.0)
    for share in shares.values():
        assert 0 <= share.low <= share.mean <= share.high <= 1 and share.n == 64
    assert shares["data"].low > shares["rest"].mean
    few = variance_shares(*crossed(np.random.default_rng(2), sizes=(2, 4)))
    assert np.isnan(few["data"].low)  # two levels
