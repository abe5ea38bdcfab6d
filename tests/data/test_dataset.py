"""Query tables, tokens, probes and batches (docs/protocol.md, section 2.4)."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from grokjax.base.errors import UserError
from grokjax.data.dataset import make_batch, make_dataset, stack_datasets
from grokjax.data.loading import load_dataset
from grokjax.data.vocabulary import make_vocabulary
from grokjax.settings import default_config


def dataset(seed=0, **changes):
    return make_dataset(tiny_config(**{f"data__{k}": v for k, v in changes.items()}).data, seed)


def test_vocabulary():
    """PAD 0, entities from 1, relations, six special tokens (docs/protocol.md, section 2.4)."""
    vocabulary = make_vocabulary(2000, 200)
    assert vocabulary.size == 2207
    assert vocabulary.tokens[0] == "<e_0>" and vocabulary.tokens[2000] == "<r_0>"
    assert vocabulary.tokens[-6:] == ("<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>")
    assert vocabulary.end_id == 2204


def test_batch_by_hand():
    query = np.array([[3, 20, 21, 5], [4, 22, 0, 6], [0, 0, 0, 0]], np.int16)
    batch = make_batch(query, end_id=30)
    assert batch.inputs.tolist() == [[3, 20, 21, 0, 0], [4, 22, 0, 0, 0], [0] * 5]
    assert batch.labels.tolist() == [[3, 20, 21, 5, 30], [4, 22, 6, 30, 0], [0] * 5]
    assert batch.answer_position.tolist() == [3, 2, 1]
    for position, row, answer in zip(batch.answer_position, batch.labels, (5, 6), strict=False):
        assert row[position] == answer


def test_batch_under_vmap():
    query = np.random.default_rng(0).integers(0, 9, (3, 4, 4)).astype(np.int16)
    mapped = jax.vmap(lambda q: make_batch(q, 9))(query)
    np.testing.assert_array_equal(mapped.labels[1], make_batch(query[1], 9).labels)


def test_training_items():
    d = dataset(regime="both_hop_full")
    size, counts = int(d.train.size), d.counts
    assert size == len(d.train.query) == counts["num_train"]
    parts = ("num_id_facts", "num_ood_facts", "num_base", "num_hop1_added", "num_hop2_added")
    assert size == sum(counts[p] for p in parts)
    assert counts["num_id_facts"] + counts["num_ood_facts"] == 48
    assert len({tuple(q) for q in d.train.query.tolist()}) == size


def test_answers_follow_from_facts():
    d = dataset(regime="both_hop_full")
    facts = {(h, r): t for h, r, t in np.concatenate([d.id_facts, d.ood_facts]).tolist()}
    for head, relation1, relation2, answer in d.train.query.tolist():
        reached = facts[head, relation1]
        assert answer == (facts[reached, relation2] if relation2 else reached)


def test_no_test_query_is_trained_on():
    d = dataset(regime="both_hop_full")
    trained = {tuple(q[:3]) for q in d.train.query.tolist()}
    for query, kind in zip(d.probes.table.query.tolist(), d.probes.kind, strict=True):
        assert (tuple(query[:3]) in trained) == (not d.probes.names[kind].startswith("test"))


def test_probes_know_their_bridge():
    d = dataset()
    facts = {(h, r): t for h, r, t in np.concatenate([d.id_facts, d.ood_facts]).tolist()}
    for query, bridge in zip(d.probes.table.query.tolist(), d.probes.bridge, strict=True):
        assert bridge == (facts[query[0], query[1]] if query[2] else 0)


def test_decoys_are_shuffles_within_the_type():
    d = dataset()
    for kind in range(len(d.probes.names)):
        own = d.probes.kind == kind
        for column in d.probes.decoy[own].T:
            assert sorted(column) == sorted(d.probes.bridge[own])
    two_hops = d.probes.bridge > 0
    agree = np.mean(d.probes.decoy[two_hops] == d.probes.bridge[two_hops, None])
    assert agree < 0.5


def test_max_probes():
    d = dataset(max_probes=5)
    assert all(d.counts[f"num_{n}"] <= 5 for n in d.probes.names)


def test_stacking_pads_to_the_largest():
    a, b = dataset(regime="natural"), dataset(regime="both_hop_full", seed=1)
    tables, probes = stack_datasets([a, b])
    assert tables.query.shape == (2, max(a.train.size, b.train.size), 4)
    assert tables.size.tolist() == [a.train.size, b.train.size]
    np.testing.assert_array_equal(tables.query[0, : a.train.size], a.train.query)
    assert not tables.query[0, a.train.size :].any()
    length = len(a.probes.kind)
    np.testing.assert_array_equal(probes.kind[0, :length], a.probes.kind)
    assert (probes.kind[0, length:] == -1).all()


def test_populations_share_a_vocabulary():
    with pytest.raises(UserError, match="vocabulary"):
        stack_datasets([dataset(), dataset(num_entities=13)])


def test_paper_scale_is_fast_and_compact():
    """Under 6 MiB on the device; built in about a second on one core (the goal is 10)."""
    data = default_config().data
    data.regime = "both_hop_full"
    start = time.perf_counter()
    d = make_dataset(data, 0)
    assert time.perf_counter() - start < 10
    assert d.train.query.dtype == np.int16 and d.train.query.nbytes < 6 * 2**20
    assert d.name == "composition.2000.200.18.0_factaug_h1ratio1.0_h1k18_h2ratio1.0_h2k18"


def test_identity_queries():
    """Off by default; on, each entity is asked for itself, and folders carry it."""
    plain = load_dataset(tiny_config())
    bridged = load_dataset(tiny_config(data__identity_bridge=True))
    added = bridged.train.query[len(plain.train.query) :]
    assert added.tolist() == [[e, 0, 0, e] for e in range(1, 13)]
    batch = make_batch(jnp.asarray(added[:2]), plain.vocabulary.end_id)
    end = plain.vocabulary.end_id
    assert batch.inputs.tolist() == [[1, 0, 0, 0, 0], [2, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [[1, 1, end, 0, 0], [2, 2, end, 0, 0]]
    assert batch.answer_position.tolist() == [1, 1]
