"""Path identity and the intervals under it, on data whose answer is known."""

import itertools

import numpy as np
import pytest

from grokjax.analysis.path_identity import (
    LENS,
    PATCHING,
    Paths,
    compare_paths,
    path_identity,
    verdict,
)
from grokjax.statistics.bootstrap import rate_interval, ratio_interval

SEEDS = [*"12345678"]
TWO_BY_EIGHT = {"groups": ["a"] * 8 + ["b"] * 8, "blocks": SEEDS * 2}


def two_groups(rng, shift=0.0, n=8, num_sites=40, noise=0.02):
    """Runs of one seed alike but for noise; b's differ from a's at ten sites."""
    base = np.ones((n, num_sites)) + 0.5 * rng.normal(size=(n, num_sites))
    other = base.copy()
    other[:, :10] += shift
    noisy = [x + noise * rng.normal(size=x.shape) for x in (base, other)]
    return np.concatenate(noisy)


def only(found):
    (row,) = found.table.itertuples()
    return row


def test_the_same_path_is_told_by_every_pair():
    row = only(path_identity(two_groups(np.random.default_rng(0)), **TWO_BY_EIGHT))
    assert row.verdict == "same path" and (row.within, row.num_pairs) == (8, 8)
    assert row.share == 1 and row.share_low == pytest.approx(0.676, abs=1e-3)
    assert row.distance_max < 0.05 < row.floor_median and row.paired
    assert row.outside == row.dropped == ""


def test_one_seed_in_eight_that_goes_another_way_shows():
    """Its mean map hardly moves: a whole path's size off, an eighth of it in the mean."""
    paths = two_groups(np.random.default_rng(1))
    paths[11, :20] -= 2.0
    found = path_identity(paths, runs=range(100, 116), **TWO_BY_EIGHT)
    row = only(found)
    mean_a, mean_b = paths[:8].mean(axis=0), paths[8:].mean(axis=0)
    between_means = np.sqrt(np.mean((mean_a - mean_b) ** 2)) / row.size
    assert between_means < row.margin < row.distance_max
    assert row.verdict == "same path but for some" and (row.within, row.num_pairs) == (7, 8)
    assert row.outside.startswith("103 and 111 (1.")
    pairs = found.pairs.set_index("run_a")
    assert pairs.within.sum() == 7 and not pairs.within["103"] and pairs.block["103"] == "4"


def test_different_paths_are_told_apart():
    row = only(path_identity(two_groups(np.random.default_rng(2), 1.0), **TWO_BY_EIGHT))
    assert row.verdict == "different" and row.within == 0 and row.share_high < 0.5
    # The distance of every pair: 1.0 at 10 sites of 40, over the runs' own size.
    assert row.distance_median == pytest.approx(0.5 / row.size, rel=0.05)
    assert row.p_value == row.p_smallest == 2 / 256 and row.num_permutations == 256
    small = path_identity(two_groups(np.random.default_rng(2), 0.2), **TWO_BY_EIGHT)
    assert only(small).verdict == "same path" and only(small).p_value == 2 / 256
    assert only(
        path_identity(two_groups(np.random.default_rng(2), 0.2), margin=0.05, **TWO_BY_EIGHT)
    ).verdict == "different"  # fmt: skip


def scattered(rng, shift=0.0):
    """Every run goes its own way; b's are moved at ten sites."""
    paths = 1.0 + 0.5 * rng.normal(size=(16, 40))
    paths[8:, :10] += shift
    return paths


@pytest.mark.parametrize("blocks", [SEEDS * 2, None], ids=["paired", "unpaired"])
def test_pairs_that_are_as_far_apart_as_seeds_are_no_difference(blocks):
    labels = {"groups": TWO_BY_EIGHT["groups"], "blocks": blocks}
    row = only(path_identity(scattered(np.random.default_rng(9)), **labels))
    assert row.within == 0 and row.share_high < 0.5 and row.distance_min > row.margin
    assert row.floor_min < row.distance_median < row.floor_max
    assert row.verdict == "not shown to differ" and row.p_holm > 0.05 > row.p_smallest
    apart = only(path_identity(scattered(np.random.default_rng(9), 1.0), **labels))
    assert apart.verdict == "different" and apart.p_holm <= 0.05
    assert apart.floor_a == pytest.approx(apart.floor_b, rel=0.2)
    assert apart.floor_median < apart.distance_median


def test_few_pairs_cannot_be_told_from_seeds():
    """Four pairs, all apart: no exchange of labels gives a p below 2 of 16."""
    paths = two_groups(np.random.default_rng(2), 1.0, n=4)
    row = only(path_identity(paths, ["a"] * 4 + ["b"] * 4, blocks=SEEDS[:4] * 2))
    assert row.share_high < 0.5 and row.p_value == row.p_smallest == 2 / 16
    assert row.verdict == "not shown to differ"


def test_groups_that_scatter_unlike_are_told_apart():
    """Their means agree: half of b goes one way, half the other."""
    paths = 1.0 + 0.02 * np.random.default_rng(10).normal(size=(16, 40))
    paths[8:12, :20] += 1.5
    paths[12:, :20] -= 1.5
    row = only(path_identity(paths, **TWO_BY_EIGHT))
    assert np.abs(paths[:8].mean(axis=0) - paths[8:].mean(axis=0)).max() < 0.1
    assert row.verdict == "different" and row.floor_a < 0.05 < 0.5 < row.floor_b


def test_labels_are_exchanged_within_pairs():
    """The test by hand: every exchange, and single runs' distances, one by one."""
    rng = np.random.default_rng(11)
    paths = rng.normal(size=(8, 5)) + np.repeat([0.0, 0.8], 4)[:, None]

    def apart(labels):
        of = {
            g: list(zip(*[(i % 4, i) for i in range(8) if labels[i] == g], strict=True))
            for g in "ab"
        }

        def mean(g, h):
            found = [
                np.sqrt(np.mean((paths[i] - paths[j]) ** 2))
                for block, i in zip(*of[g], strict=True)
                for other, j in zip(*of[h], strict=True)
                if block != other
            ]
            return np.mean(found)

        return 2 * mean("a", "b") - mean("a", "a") - mean("b", "b")

    labellings = [
        ["b" if x else "a" for x in s] + ["a" if x else "b" for x in s]
        for s in itertools.product((0, 1), repeat=4)
    ]
    found = np.array([apart(labels) for labels in labellings])
    row = only(path_identity(paths, labellings[0], blocks=SEEDS[:4] * 2))
    assert row.p_value == np.mean(found >= found[0] - 1e-9)
    assert row.p_smallest == np.mean(found >= found.max() - 1e-9)


def test_holm_is_over_the_groups_of_one_kind_of_path():
    rng = np.random.default_rng(12)
    paths = np.concatenate([scattered(rng, 1.0), scattered(rng)[:8]])
    labels = {"groups": [*"a" * 8, *"b" * 8, *"c" * 8], "blocks": SEEDS * 3}
    table = compare_paths({"x": Paths(LENS, paths), "y": Paths(PATCHING, paths)}, **labels).table
    own = table[table.paths == "x"].set_index(["group_a", "group_b"])
    assert own.family.eq("x: 3").all() and own.p_value["a", "b"] == 2 / 256
    assert own.p_holm["a", "b"] == pytest.approx(3 * 2 / 256)
    assert own.verdict.tolist() == ["different", "not shown to differ", "different"]
    assert table.p_holm[table.paths == "y"].tolist() == own.p_holm.tolist()


def test_few_pairs_decide_nothing():
    for n, expected in ((3, "undecided"), (4, "same path")):
        labels = {"groups": ["a"] * n + ["b"] * n, "blocks": SEEDS[:n] * 2}
        found = path_identity(two_groups(np.random.default_rng(3), n=n), **labels)
        assert only(found).verdict == expected
    assert verdict(6, 8, 8)[1] == "undecided" and verdict(0, 0, 0)[1] == "undecided"
    alone = path_identity(np.ones((3, 4)), ["a", "a", "b"])
    assert only(alone).verdict == "undecided" and np.isnan(only(alone).p_value)


def test_dropped_runs_are_named():
    paths = two_groups(np.random.default_rng(4))
    paths[2] = np.nan
    row = only(path_identity(paths, runs=range(16), **TWO_BY_EIGHT))
    assert row.num_pairs == 7 and (row.n_a, row.n_b) == (7, 7)
    assert row.dropped == ("run 2 (a): has no path to compare; run 10 (b): no partner in a")
    nowhere = np.concatenate([paths, np.full((16, 1), np.nan)], axis=1)  # a site that no run has
    again = only(path_identity(nowhere, runs=range(16), **TWO_BY_EIGHT))
    assert (again.distance_median, again.dropped) == (row.distance_median, row.dropped)


def test_groups_that_share_no_seed_are_compared_all_with_all():
    """Sixteen pairs of four runs each are not sixteen times the evidence."""
    rng = np.random.default_rng(5)
    paths = np.ones((8, 20)) + 0.02 * rng.normal(size=(8, 20))
    labels, blocks = ["a"] * 4 + ["b"] * 4, [*"12345678"]
    row = only(path_identity(paths, labels, blocks=blocks))
    assert not row.paired and row.num_pairs == row.within == 16
    assert row.share_low == pytest.approx(0.510, abs=1e-3)  # of four
    assert row.num_permutations == 70


def test_runs_of_one_seed_and_group_are_one_replicate_of_the_test():
    paths = two_groups(np.random.default_rng(6), 1.0)
    doubled = np.concatenate([paths, paths[8:]])
    labels, blocks = [*TWO_BY_EIGHT["groups"], *["b"] * 8], SEEDS * 3
    row = only(path_identity(doubled, labels, blocks=blocks))
    assert row.num_permutations == 256 and (row.n_a, row.n_b, row.num_pairs) == (8, 8, 16)
    assert row.share_high == pytest.approx(0.324, abs=1e-3)  # of eight


@pytest.mark.parametrize("blocks", [None, [*"12345", *"12345"]], ids=["unpaired", "paired"])
def test_under_the_null_p_is_uniform(blocks):
    rng = np.random.default_rng(7)
    p = []
    for _ in range(300):
        paths = 1.0 + rng.normal(size=(10, 5))
        p.append(only(path_identity(paths, ["a"] * 5 + ["b"] * 5, blocks=blocks)).p_value)
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_both_readings_stand_side_by_side():
    """The lens sees no difference, the patches do: neither verdict goes without the other."""
    rng = np.random.default_rng(8)
    kinds = {
        "effects": Paths(PATCHING, two_groups(rng, 1.0)),
        "bridge, ID": Paths(LENS, two_groups(rng)),
        "bridge, OOD": Paths(LENS, two_groups(rng, noise=0.4)),
    }
    table = compare_paths(kinds, **TWO_BY_EIGHT).table.set_index("paths")
    assert table.verdict.tolist()[:2] == ["different", "same path"]
    assert table.other_verdict["bridge, ID"] == "different"
    assert table.other_verdict["effects"] == table.verdict["bridge, OOD"] != "same path"


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


def test_a_path_that_no_run_has_is_not_compared():
    """An analysis of few queries may leave a whole kind of path undefined."""
    nothing = {"x": Paths(LENS, np.full((4, 3), np.nan))}
    found = compare_paths(nothing, ["a", "a", "b", "b"], blocks=["0", "1"] * 2)
    assert found.table.num_pairs.tolist() == [0] and not len(found.pairs)
    assert found.table.verdict.tolist() == ["undecided"]
    assert found.table.dropped.iloc[0].count("has no path to compare") == 4
