"""Graph, compositions, what is held out, what is added (docs/protocol.md, sections 2.1 to 2.3)."""

import dataclasses
import itertools

import numpy as np
import pytest

from grokjax.base.errors import UserError
from grokjax.data.graph import REGIMES, Augmentation, make_graph, make_splits, regime_name

PAPER = dict(num_entities=2000, num_relations=200, out_degree=20, ood_fraction=0.05)
SMALL = dict(num_entities=60, num_relations=20, out_degree=8, ood_fraction=0.1)


def splits(graph, regime="natural", phi=4.0, seed=0, max_probes=3000, iid=0.05):
    augmentation = REGIMES[regime] if isinstance(regime, str) else regime
    return make_splits(
        graph,
        phi=phi,
        iid_test_fraction=iid,
        augmentation=augmentation,
        max_probes=max_probes,
        seed=seed,
    )


def rows(array):
    return {tuple(row) for row in array.tolist()}


def facts_by_split(graph):
    ids = np.arange(graph.tail.size)
    ood = graph.is_ood.ravel()
    return rows(graph.facts(ids[~ood])), rows(graph.facts(ids[ood]))


@pytest.fixture(scope="module")
def paper():
    return make_graph(**PAPER, seed=0)


@pytest.fixture(scope="module")
def small():
    return make_graph(**SMALL, seed=1)


def test_graph(small):
    assert small.relation.shape == small.tail.shape == small.is_ood.shape == (60, 8)
    assert all(len(set(row)) == 8 for row in small.relation.tolist())  # distinct relations
    assert small.is_ood.sum() == 48
    assert small.tail.min() >= 0 and small.tail.max() == 59
    assert set(small.relation.ravel()) == set(range(20))


def test_tails_and_relations_are_uniform(paper):
    counts = np.bincount(paper.tail.ravel(), minlength=2000)
    assert abs(counts.var() / 20 - 1) < 0.15  # Poisson
    counts = np.bincount(paper.relation.ravel(), minlength=200)
    assert abs(counts.mean() - 200) < 1e-9 and counts.std() < 25


def test_counts_at_paper_scale(paper):
    """The published draw added 22,697 + 21,492 compositions; half of both 5,724 + 5,778."""
    full = splits(paper, "both_hop_full", phi=18.0, iid=0.005)
    assert len(full.train_base) == 684_000
    assert abs(len(full.test_inferred_ood) - 2000) < 200
    assert len(full.test_inferred_iid) == 3000
    assert abs(len(full.hop1_added) - 22_697) < 1200
    assert abs(len(full.hop2_added) - 21_492) < 1200
    half = splits(paper, "both_hop_half", phi=18.0, iid=0.005)
    assert abs(len(half.hop1_added) - 5_724) < 400 and abs(len(half.hop2_added) - 5_778) < 400
    assert len(splits(paper, "natural", phi=3.6).hop1_added) == 0


@pytest.mark.parametrize("regime", REGIMES)
def test_every_composition_is_where_it_belongs(small, regime):
    s = splits(small, regime)
    id_facts, ood_facts = facts_by_split(small)
    expected = {
        "train_base": (id_facts, id_facts),
        "hop1_added": (ood_facts, id_facts),
        "hop2_added": (id_facts, ood_facts),
        "test_inferred_iid": (id_facts, id_facts),
        "test_inferred_ood": (ood_facts, ood_facts),
    }
    for name, (first, second) in expected.items():
        for head, relation1, bridge, relation2, tail in getattr(s, name).tolist():
            assert (head, relation1, bridge) in first and (bridge, relation2, tail) in second
    everything = [rows(getattr(s, f.name)) for f in dataclasses.fields(s)]
    assert sum(map(len, everything)) == len(set.union(*everything))  # disjoint
    assert all(len(getattr(s, n)) == len(r) for n, r in zip(expected, everything, strict=True))
    ratios = REGIMES[regime]
    assert bool(len(s.hop1_added)) == (ratios.hop1_ratio > 0)
    assert bool(len(s.hop2_added)) == (ratios.hop2_ratio > 0)


def test_augmentation_uses_only_facts_of_the_probes(small):
    s = splits(small, "both_hop_full", max_probes=10)
    first_hops = rows(s.test_inferred_ood[:, :3])
    second_hops = rows(s.test_inferred_ood[:, 2:])
    assert len(s.test_inferred_ood) == 10
    assert rows(s.hop1_added[:, :3]) == first_hops
    assert rows(s.hop2_added[:, 2:]) <= second_hops


def test_k_limits_compositions_per_fact(small):
    s = splits(small, Augmentation(1.0, 3, 0.5, 2))
    for table, hop, k in ((s.hop1_added, slice(0, 3), 3), (s.hop2_added, slice(2, 5), 2)):
        _, counts = np.unique(table[:, hop], axis=0, return_counts=True)
        assert counts.max() == k


def test_smaller_settings_are_prefixes(small):
    """phi, ratio and k nest; nothing else moves when they change."""
    little, much = splits(small, "natural", phi=1.8), splits(small, "natural", phi=3.6)
    np.testing.assert_array_equal(little.train_base, much.train_base[: len(little.train_base)])
    steps = [Augmentation(0.3, 2, 0.3, 2), Augmentation(0.6, 2, 0.6, 2), Augmentation(0.6, 5, 1, 9)]
    added = [splits(small, a) for a in steps]
    for a, b in itertools.pairwise(added):
        assert rows(a.hop1_added) < rows(b.hop1_added)
        assert rows(a.hop2_added) < rows(b.hop2_added)
        np.testing.assert_array_equal(a.train_base, b.train_base)
        np.testing.assert_array_equal(a.test_inferred_ood, b.test_inferred_ood)
        np.testing.assert_array_equal(a.test_inferred_iid, b.test_inferred_iid)


def test_infinite_phi_takes_the_pool(small):
    everything = splits(small, phi=float("inf"), iid=0.0)
    ood = small.is_ood
    by_entity = (~ood).sum(1)
    assert len(everything.train_base) == by_entity[small.tail[~ood]].sum()


def test_seeds_change_every_draw(small):
    other = make_graph(**SMALL, seed=2)
    assert not np.array_equal(small.tail, other.tail)
    assert not np.array_equal(small.is_ood, other.is_ood)
    again = make_graph(**SMALL, seed=1)
    np.testing.assert_array_equal(small.tail, again.tail)
    a, b = splits(small, seed=1), splits(small, seed=2)
    assert not np.array_equal(a.train_base, b.train_base)


def test_impossible_settings_are_named(small):
    with pytest.raises(UserError, match=r"out_degree: 9 is over num_relations 8"):
        make_graph(10, 8, 9, 0.1, 0)
    with pytest.raises(UserError, match=r"phi: 100 asks for .* give at most"):
        splits(small, phi=100.0)


def test_the_largest_phi_named_is_possible(small):
    with pytest.raises(UserError) as error:
        splits(small, phi=1e6)
    largest = float(str(error.value).split("at most ")[1].split(",")[0])
    splits(small, phi=largest)


def test_regime_names():
    for name, augmentation in REGIMES.items():
        assert regime_name(augmentation) == name
    assert regime_name(Augmentation(0.25, 3, 0, 0)) == "h1ratio0.25_h1k3_h2ratio0_h2k0"
