"""Clean and corrupted queries."""

import numpy as np
import pytest
from conftest import FINETUNING, PRETRAINING, tiny_config

from grokjax.analysis.pairs import SLOTS, SPLITS, all_compositions, draw_pairs, stack_pairs
from grokjax.base.errors import UserError
from grokjax.data.dataset import make_dataset
from grokjax.data.folder import read_folder

COLUMN = {"head": 0, "relation1": 1, "relation2": 3}


@pytest.fixture(scope="module")
def dataset():
    config = tiny_config(data__num_entities=30, data__ood_fraction=0.3)
    return make_dataset(config.data, 0)


def test_all_compositions_follow_from_the_facts():
    d = read_folder(PRETRAINING)
    rows, hops = all_compositions(d)
    facts = np.concatenate([d.id_facts, d.ood_facts]).tolist()
    tail = {(h, r): t for h, r, t in facts}
    expected = {(h, r1, b, r2, tail[b, r2]) for h, r1, b in facts for head, r2 in tail if head == b}
    assert len(rows) == len(expected) == 100 * 10 * 10
    assert set(map(tuple, rows.tolist())) == expected
    ood = {(h, r) for h, r, _ in d.ood_facts.tolist()}
    for (h, r1, b, r2, _), n in list(zip(rows.tolist(), hops.tolist(), strict=True))[::97]:
        assert n == [(h, r1) in ood, (b, r2) in ood]


def test_a_folder_without_facts_is_refused():
    with pytest.raises(UserError, match="no list of facts"):
        all_compositions(read_folder(FINETUNING))


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("group", SPLITS)
def test_pairs_differ_in_one_token_and_in_the_answer(dataset, slot, group):
    pairs = draw_pairs(dataset, slot, group, 20, seed=1)
    assert 5 <= len(pairs.clean) <= 20
    different = pairs.clean != pairs.corrupted
    others = [c for c in (0, 1, 3) if c != COLUMN[slot]]
    assert different[:, [COLUMN[slot], 4]].all() and not different[:, others].any()
    tail = {(h, r): t for h, r, t in np.concatenate([dataset.id_facts, dataset.ood_facts]).tolist()}
    ood = {(h, r) for h, r, _ in dataset.ood_facts.tolist()}
    for h, r1, b, r2, t in np.concatenate([pairs.clean, pairs.corrupted]).tolist():
        assert tail[h, r1] == b and tail[b, r2] == t
    both = pairs.clean.tolist() + (pairs.corrupted.tolist() if group == "id" else [])
    for h, r1, b, r2, _ in both:
        assert ((h, r1) in ood) == ((b, r2) in ood) == (group == "ood")
    assert len({tuple(row) for row in pairs.clean.tolist()}) == len(pairs.clean)
    again = draw_pairs(dataset, slot, group, 20, seed=1)
    np.testing.assert_array_equal(again.corrupted, pairs.corrupted)
    other = draw_pairs(dataset, slot, group, 20, seed=2)
    assert other.clean.tolist() != pairs.clean.tolist()


@pytest.mark.parametrize("slot", SLOTS)
def test_the_differing_token_is_balanced(dataset, slot):
    """As far as the graph goes: who comes more rarely has no more pairs to give."""

    def counts(num_pairs):
        pairs = draw_pairs(dataset, slot, "id", num_pairs)
        values, n = np.unique(pairs.clean[:, COLUMN[slot]], return_counts=True)
        return dict(zip(values.tolist(), n.tolist(), strict=True))

    some, every = counts(48), counts(10_000)
    most = max(some.values())
    assert sum(some.values()) == 48 < sum(every.values())
    for value, n in every.items():
        assert some[value] >= min(most - 1, n)


def test_pairs_do_not_depend_on_the_regime():
    """Groups of runs are compared on the same pairs."""
    plain, augmented = (
        make_dataset(tiny_config(data__regime=regime).data, 3)
        for regime in ("natural", "both_hop_full")
    )
    assert plain.train.size != augmented.train.size
    for group in SPLITS:
        ours, theirs = (draw_pairs(d, "head", group, 10) for d in (plain, augmented))
        np.testing.assert_array_equal(ours.clean, theirs.clean)
        np.testing.assert_array_equal(ours.corrupted, theirs.corrupted)


def test_stacked_pairs_say_which_are_there(dataset):
    pairs = [draw_pairs(dataset, "head", group, n) for group, n in (("id", 6), ("ood", 3))]
    clean, corrupted, there = stack_pairs(pairs, 8)
    assert clean.shape == corrupted.shape == (2, 8, 4)
    assert there.sum(axis=1).tolist() == [6, 3]
    np.testing.assert_array_equal(clean[1, :3], pairs[1].clean[:, [0, 1, 3, 4]])
    assert not clean[1, 3:].any()
