"""Path identity and the intervals under it, on data whose answer is known."""

import numpy as np
import pytest

from grokjax.analysis.path_identity import _square, _two_groups, path_identity, permuted_distances
from grokjax.statistics.bootstrap import rate_interval, ratio_interval


def groups_of(rng, shift, n=6, num_sites=40, noise=0.05):
    base = np.zeros(num_sites)
    base[:10] = 1.0
    other = base.copy()
    other[10:20] = shift
    paths = np.concatenate([base + noise * rng.normal(size=(n, num_sites)) for _ in range(1)])
    return np.concatenate([paths, other + noise * rng.normal(size=(n, num_sites))])


LABELS = ["a"] * 6 + ["b"] * 6


def test_different_paths_are_told_apart_and_measured():
    table = path_identity(groups_of(np.random.default_rng(0), 0.5), LABELS)
    (row,) = table.itertuples()
    # The mean paths differ by 0.5 at 10 sites of 40; the size is that of their mean path.
    size = np.sqrt((10 * 1.0 + 10 * 0.25**2) / 40)
    assert row.size == pytest.approx(size, abs=0.02)
    assert row.distance == pytest.approx(0.25 / size, rel=0.1)
    assert row.distance_low < 0.25 / size < row.distance_high
    assert row.floor == pytest.approx(0.05 * np.sqrt(2) / size, rel=0.15)
    assert row.effect_size == pytest.approx(row.distance / row.floor)
    assert row.p_value == pytest.approx(2 / 924) and row.num_permutations == 924
    assert row.verdict == "different" and (row.n_a, row.n_b) == (6, 6)


def test_the_same_path_is_equivalent_and_p_alone_would_not_say_so():
    (row,) = path_identity(groups_of(np.random.default_rng(1), 0.0), LABELS).itertuples()
    assert row.p_value > 0.05 and row.distance < row.floor and row.verdict == "equivalent"
    noisy = groups_of(np.random.default_rng(1), 0.0, noise=3.0)
    (row,) = path_identity(noisy, LABELS).itertuples()
    assert row.p_value > 0.05 and row.verdict == "undecided"


def test_a_small_difference_is_different_and_within_the_margin():
    paths = groups_of(np.random.default_rng(2), 0.1, noise=0.02)
    (row,) = path_identity(paths, LABELS, margin=0.25).itertuples()
    assert row.verdict == "different, within the margin"
    (row,) = path_identity(paths, LABELS, margin=0.05).itertuples()
    assert row.verdict == "different"


@pytest.mark.parametrize("blocks", [None, [*"12345", *"12345"]], ids=["unpaired", "paired"])
def test_under_the_null_p_is_uniform_and_the_distance_unbiased(blocks):
    rng = np.random.default_rng(3)
    p, squares = [], []
    for _ in range(300):
        paths = 1.0 + rng.normal(size=(10, 5))
        labels = ["a"] * 5 + ["b"] * 5
        (row,) = path_identity(paths, labels, blocks=blocks).itertuples()
        p.append(row.p_value)
        (two,) = _two_groups(paths, labels, blocks)
        squares.append(_square(two))
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(squares) == pytest.approx(0.0, abs=3 * np.std(squares) / np.sqrt(300))


@pytest.mark.parametrize("blocks", [None, [*"123456", *"123456"]], ids=["unpaired", "paired"])
def test_the_interval_covers_the_true_distance(blocks):
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        paths = groups_of(rng, 0.5, noise=0.3)
        (row,) = path_identity(paths, LABELS, blocks=blocks).itertuples()
        truth = 0.25 / np.sqrt((10 + 10 * 0.25**2) / 40)
        covered += row.distance_low <= truth <= row.distance_high
    assert 0.88 <= covered / 200 <= 1.0


def test_what_blocks_share_cancels():
    """Seeds that differ widely hide a small difference between groups, unless runs are paired."""
    rng = np.random.default_rng(6)
    base = np.ones(40) + rng.normal(size=(8, 40))
    shift = np.where(np.arange(40) < 10, 0.4, 0.0)
    paths = np.concatenate([base, base + shift + 0.02 * rng.normal(size=(8, 40))])
    labels, blocks = ["a"] * 8 + ["b"] * 8, [*"12345678", *"87654321"]
    order = [*range(8), *range(15, 7, -1)]  # b's runs in the order of their blocks' names
    (row,) = path_identity(paths[order], labels, blocks=blocks).itertuples()
    assert row.paired and row.verdict.startswith("different") and row.num_permutations == 256
    assert row.distance * row.size == pytest.approx(0.2, rel=0.05)
    assert row.distance_high - row.distance_low < 0.1
    (row,) = path_identity(paths, labels).itertuples()
    assert not row.paired and row.p_value > 0.5


def seeded(rng, groups, num_seeds, shift, noise=0.6):
    """Runs whose seeds decide most of their path: groups (name, its part of the shift)."""
    base = np.ones((num_seeds, 60)) + noise * rng.normal(size=(num_seeds, 60))
    rows, labels, blocks = [], [], []
    for name, part in groups:
        for seed in range(num_seeds):
            rows.append(base[seed] + part * shift * (np.arange(60) < 30))
            rows[-1] = rows[-1] + 0.1 * rng.normal(size=60)
            labels.append(name)
            blocks.append(str(seed))
    return np.array(rows), labels, blocks


def test_a_missing_partner_or_a_second_run_of_a_seed_hides_no_difference():
    """Runs of shared seeds are never taken for independent ones."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        paths, labels, blocks = seeded(rng, [("a", 0), ("b", 1)], 8, 0.6)
        truth = path_identity(paths, labels, blocks=blocks).distance[0]
        missing = paths.copy()
        missing[0] = np.nan  # one run of a: the other pairs remain
        (row,) = path_identity(missing, labels, blocks=blocks).itertuples()
        assert row.paired and (row.n_a, row.n_b) == (7, 7) and "different" in row.verdict
        assert row.distance == pytest.approx(truth, rel=0.25)
        # Two regimes of the same seeds in one group: means of a seed, paired with the other's.
        paths, labels, blocks = seeded(rng, [("a", 0), ("b", 1), ("b", 1)], 8, 0.6)
        (row,) = path_identity(paths, labels, blocks=blocks).itertuples()
        assert row.paired and (row.n_a, row.n_b) == (8, 8) and "different" in row.verdict


def test_one_block_in_common_is_too_few():
    rng = np.random.default_rng(8)
    table = path_identity(rng.normal(size=(6, 9)), [*"aaabbb"], blocks=[*"123", *"345"])
    assert table.n_a[0] == 1 and np.isnan(table.distance[0]) and table.verdict[0] == "undecided"
    apart = path_identity(rng.normal(size=(6, 9)), [*"aaabbb"], blocks=[*"123", *"456"])
    assert not apart.paired[0] and apart.n_a[0] == 3 and np.isfinite(apart.distance[0])


def test_seeds_are_drawn_and_not_runs():
    """Three runs of one seed are no more evidence than one."""
    rng = np.random.default_rng(0)
    total = np.full((4, 50), 2.0)
    by_seed = 1.0 + 0.5 * rng.normal(size=(4, 1, 1)) + np.zeros((4, 50, 1))
    single = ratio_interval(by_seed, total)
    tripled = ratio_interval(np.repeat(by_seed, 3, 0), np.repeat(total, 3, 0), [*"aaabbbcccddd"])
    pretended = ratio_interval(np.repeat(by_seed, 3, 0), np.repeat(total, 3, 0))
    widths = [float(i.high[0] - i.low[0]) for i in (single, tripled, pretended)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1) and widths[2] < 0.7 * widths[0]
    assert (tripled.n, pretended.n) == (4, 12)
    rate = np.repeat(rng.uniform(size=(4, 1)), 3, 0)
    seeds, runs = (rate_interval(rate, np.full(12, 100), s) for s in ([*"aaabbbcccddd"], None))
    assert seeds.n == 4 and runs.n == 12
    assert runs.high[0] - runs.low[0] < 0.75 * (seeds.high[0] - seeds.low[0])


def test_too_few_runs_give_no_verdict():
    table = path_identity(np.ones((3, 4)), ["a", "a", "b"])
    assert table.verdict.tolist() == ["undecided"] and np.isnan(table.distance[0])
    two = path_identity(np.random.default_rng(0).normal(size=(4, 9)), ["a", "a", "b", "b"])
    assert two.distance_high[0] == np.inf and two.verdict[0] == "undecided"
    assert permuted_distances(np.ones((3, 4)), ["a", "a", "b"]) == {}


def test_undefined_runs_and_sites_are_left_out():
    paths = groups_of(np.random.default_rng(5), 0.5)
    broken = np.concatenate([paths, np.full((1, 40), np.nan)])
    broken = np.concatenate([broken, np.full((13, 1), np.nan)], axis=1)
    (with_broken,) = path_identity(broken, [*LABELS, "b"]).itertuples()
    (plain,) = path_identity(paths, LABELS).itertuples()
    assert with_broken == plain


def test_a_ratio_of_means_drops_no_pair():
    total = np.array([[8.0, 0.0], [4.0, np.nan]])
    change = np.array([[[4.0, 8.0], [0.0, 2.0]], [[2.0, 0.0], [9.0, 9.0]]])
    interval = ratio_interval(change, np.where(np.isnan(total), np.nan, total + 1e-9))
    np.testing.assert_allclose(interval.mean, [6 / 12, 10 / 12], rtol=1e-6)
    assert interval.n == 2


def test_seeds_widen_an_interval_more_than_pairs():
    rng = np.random.default_rng(0)
    total = np.full((8, 200), 2.0)
    by_pair = 1.0 + 0.5 * rng.normal(size=(8, 200, 1))
    by_seed = 1.0 + 0.5 * rng.normal(size=(8, 1, 1)) + np.zeros((8, 200, 1))
    pairs, seeds = (ratio_interval(x, total) for x in (by_pair, by_seed))
    width_pairs, width_seeds = (float(i.high[0] - i.low[0]) for i in (pairs, seeds))
    # Seeds' means differ by what their pairs do; their pairs' resampling adds the same again.
    assert width_pairs == pytest.approx(2 * 1.96 * 0.25 / np.sqrt(1600) * np.sqrt(2), rel=0.3)
    spread = by_seed[:, 0, 0].std() / 2 / np.sqrt(8)
    assert width_seeds == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_nothing_to_share_is_undefined():
    total = np.random.default_rng(0).normal(size=(3, 50))
    assert np.isnan(ratio_interval(np.ones((3, 50, 2)), total - total.mean()).mean).all()


def test_rates():
    rate = np.array([[0.5, 1.0], [0.7, 1.0], [np.nan, np.nan]])
    interval = rate_interval(rate, np.array([100, 100, 0]))
    np.testing.assert_allclose(interval.mean, [0.6, 1.0])
    assert interval.n == 2 and interval.low[1] == interval.high[1] == 1.0
    assert interval.low[0] < 0.5 and interval.high[0] > 0.7  # queries add to what seeds differ in
    one = rate_interval(rate[:1], np.array([100]))
    assert one.mean[0] == 0.5 and np.isnan(one.low).all()
