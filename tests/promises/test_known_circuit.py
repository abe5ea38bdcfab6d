"""A looped decoder whose two-hop circuit is set by hand: lens and patching must find exactly that.

Loop 0 copies the head to relation 1's position, where its MLP looks up the bridge; loop 1 copies
the bridge to relation 2's position, where the same MLP looks up the answer.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from grokjax.analysis import all_sites, draw_pairs, logit_lens, patch_effects
from grokjax.analysis.pairs import SLOTS
from grokjax.data.dataset import make_dataset
from grokjax.data.loading import load_dataset
from grokjax.model import ModelConfig
from grokjax.transfer.halves import circuit_halves

NUM_ENTITIES, NUM_RELATIONS = 6, 3
NUM_TOKENS = NUM_ENTITIES + NUM_RELATIONS
HIDDEN, LARGE, SHARP = 32, 100.0, 20.0

# Directions: tokens, a copied entity, positions, a constant, and what keeps the sum 0.
TOKEN, COPY, POSITION, CONSTANT, REST = 0, 9, 15, 20, 22
MODEL = ModelConfig(
    1 + NUM_TOKENS + 6, HIDDEN, 1, 1, 1, kind="decoder", num_heads=2, num_loops=2
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    config = tiny_config(
        data__num_entities=NUM_ENTITIES, data__num_relations=NUM_RELATIONS, data__out_degree=3,
        data__iid_test_fraction=0.2, data__ood_fraction=0.2,
    )  # fmt: skip
    return make_dataset(config.data, 0)


def by_hand(dataset):
    """The circuit's parameters for the facts of a dataset."""
    embed = np.zeros((MODEL.vocab_size, HIDDEN))
    for token in range(1, 1 + NUM_TOKENS):
        embed[token, TOKEN + token - 1] = 1
        embed[token, REST] = -1
    positions = np.zeros((5, HIDDEN))
    positions[:, CONSTANT], positions[:, CONSTANT + 1] = LARGE, -LARGE
    positions[np.arange(5), POSITION + np.arange(5)] = 1
    positions[:, REST] = -1
    # The constant is nearly all of a state's variance, so that a norm only rescales, to about 1.
    norm = {"scale": np.full(HIDDEN, LARGE * np.sqrt(2 / HIDDEN)), "bias": np.zeros(HIDDEN)}

    query, key, value, out = (np.zeros((HIDDEN, HIDDEN)) for _ in range(4))
    for p in range(1, 5):  # head 0 attends to the position before
        query[POSITION + p, p - 1] = 400.0
    for p in range(5):
        key[POSITION + p, p] = 1.0
    for e in range(NUM_ENTITIES):  # and copies the entity there
        value[TOKEN + e, e] = 1.0
        out[e, COPY + e], out[e, REST] = 1.0, -1.0

    up, up_bias = np.zeros((HIDDEN, 4 * HIDDEN)), np.zeros(4 * HIDDEN)
    down = np.zeros((4 * HIDDEN, HIDDEN))
    facts = np.concatenate([dataset.id_facts, dataset.ood_facts])
    for i, (head, relation, tail) in enumerate(facts - 1):  # a neuron per fact: copy AND relation
        up[COPY + head, i], up[TOKEN + relation, i], up_bias[i] = SHARP, 2 * SHARP, -2.5 * SHARP
        on = 1 / (0.5 * SHARP)
        down[i, TOKEN + tail], down[i, TOKEN + relation] = (
            on,
            -on,
        )  # says the tail, not the relation

    dense = {"bias": np.zeros(HIDDEN)}
    params = {
        "embed": embed,
        "positions": positions,
        "final_norm": {"scale": 20 * norm["scale"], "bias": norm["bias"]},
        "layers": {
            "0": {
                "attention_norm": norm,
                "mlp_norm": norm,
                "qkv": {
                    "kernel": np.concatenate([query, key, value], axis=1),
                    "bias": np.zeros(3 * HIDDEN),
                },
                "out": {"kernel": out} | dense,
                "up": {"kernel": up, "bias": up_bias},
                "down": {"kernel": down} | dense,
            }
        },
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


FIRST, SECOND = "Loop0_Layer0", "Loop1_Layer0"
# (component, place, position, head) that carry everything when a token differs.
COPY_OF_HEAD = {("mixer", FIRST, "relation1", -1), ("heads", FIRST, "relation1", 0)}
COPY_OF_BRIDGE = {("mixer", SECOND, "relation2", -1), ("heads", SECOND, "relation2", 0)}
LOOK_UP_BRIDGE = {("mlp", FIRST, "relation1", -1), ("z_H", FIRST, "relation1", -1)}
LOOK_UP_ANSWER = {("mlp", SECOND, "relation2", -1), ("z_H", SECOND, "relation2", -1)}
BRIDGE_TO_ANSWER = LOOK_UP_BRIDGE | COPY_OF_BRIDGE | LOOK_UP_ANSWER
CIRCUIT = {
    "head": {("z_H", "Init", "head", -1)} | COPY_OF_HEAD | BRIDGE_TO_ANSWER,
    "relation1": {("z_H", "Init", "relation1", -1)} | BRIDGE_TO_ANSWER,
    "relation2": {
        ("z_H", "Init", "relation2", -1),
        ("z_H", FIRST, "relation2", -1),
    }
    | LOOK_UP_ANSWER,
}


def test_it_answers_every_question(dataset):
    lens = logit_lens(MODEL, (by_hand(dataset), {}), dataset.probes)
    compositions = [t for t in dataset.probes.names if "inferred" in t]
    np.testing.assert_array_equal(lens.answer_accuracy.sel(type=compositions), 1.0)


def test_the_lens_finds_the_circuit(dataset):
    lens = logit_lens(MODEL, (by_hand(dataset), {}), dataset.probes)
    own = lens.sel(type="train_inferred", subset="apart", stream="z_H")
    assert own.num_queries.sel(token="bridge") > 10
    bridge = own.top1.sel(token="bridge").to_pandas()
    expected = bridge * 0.0
    expected.loc[[FIRST, SECOND], "relation1"] = 1.0
    np.testing.assert_array_equal(bridge, expected)
    target = own.top1.sel(token="target").to_pandas()
    # A target that is also the head is read where the head is.
    assert target.loc[SECOND, "relation2"] == 1.0
    assert target.drop(columns=["head"]).sum().sum() == 1.0
    assert own.log_probability.sel(token="bridge", stage=FIRST, position="relation1") > -0.01
    assert float(lens.bridge_found_strict.sel(type="train_inferred")) == 0.0  # not at the answer


@pytest.mark.parametrize("slot", SLOTS)
def test_patching_finds_the_circuit(dataset, slot):
    pairs = draw_pairs(dataset, slot, "id", 12)
    assert len(pairs.clean) >= 8
    effects = patch_effects(MODEL, (by_hand(dataset), {}), pairs)
    sites = all_sites(MODEL)
    assert len(sites) == 3 * 3 + 2 * 2 * 3 + 2 * 3 * 2
    for direction in ("denoising", "noising"):
        found = effects.effect.sel(direction=direction).to_numpy()[0]
        for site, effect in zip(sites, found, strict=True):
            name = (site.component, site.place, site.position, site.head)
            expected = 1.0 if name in CIRCUIT[slot] else 0.0
            assert effect == pytest.approx(expected, abs=1e-3), (direction, name)
    noising = effects.sel(direction="noising")
    in_circuit = effects.effect.sel(direction="noising").to_numpy()[0] > 0.5
    np.testing.assert_allclose(noising.causal_strength.to_numpy()[0], in_circuit, atol=1e-6)


def test_a_stranger_in_the_circuit_breaks_it(dataset):
    """From another pair's donor a site carries something, but not this pair's answer."""
    pairs = draw_pairs(dataset, "head", "id", 12)
    effects = patch_effects(MODEL, (by_hand(dataset), {}), pairs, direction="denoising", null=True)
    null = effects.null_effect.to_numpy()[0, 0]
    exact = effects.effect.to_numpy()[0, 0]
    assert null.max() < 0.8 and np.abs(null[exact < 0.5]).max() < 0.5


@pytest.mark.parametrize("knows_new", [True, False])
def test_of_new_facts_the_half_that_fails_is_found(knows_new):
    """Both circuits compute the bridge of `old_then_new`; one has no memory of the second fact."""
    config = tiny_config(
        data__num_entities=NUM_ENTITIES, data__num_relations=NUM_RELATIONS, data__out_degree=2,
        data__iid_test_fraction=0.0, data__ood_fraction=0.0, data__phi=float("inf"),
    )  # fmt: skip
    config.transfer.update({"source": "w", "num_new_facts": 6, "num_kept": 12})
    dataset = load_dataset(config)
    old = dataclasses.replace(dataset, new_facts=dataset.new_facts[:0])
    if knows_new:
        every = np.concatenate([dataset.id_facts, dataset.new_facts])
        old = dataclasses.replace(old, id_facts=every)
    found = circuit_halves(MODEL, (by_hand(old), {}), dataset, num_pairs=16)
    assert (found["component"], found["place"], found["position"]) == ("z_H", FIRST, "relation1")
    assert found["num_pairs"] > 3 and found["score"] == pytest.approx(1, abs=1e-3)
    assert found["old_effect"] == pytest.approx(1, abs=1e-3)
    # What a new query's state brings is no more than another old query's does: by construction.
    assert found["same_effect"] == pytest.approx(1, abs=1e-3)
    assert found["new_effect"] == pytest.approx(1, abs=1e-3)
    assert found["old_patched"] == 1
    if knows_new:
        assert found["accuracy"] == found["new_patched"] == 1
    else:
        assert found["accuracy"] < 0.5 and found["new_patched"] < 0.5


def test_old_queries_are_old_where_new_ones_are_trained_on():
    config = tiny_config(
        data__num_entities=NUM_ENTITIES, data__num_relations=NUM_RELATIONS, data__out_degree=2,
        data__iid_test_fraction=0.0, data__ood_fraction=0.0, data__phi=float("inf"),
    )  # fmt: skip
    config.transfer.update({"source": "w", "num_new_facts": 6, "num_kept": 12, "new_share": 0.5})
    dataset = load_dataset(config)
    knows_old = dataclasses.replace(dataset, new_facts=dataset.new_facts[:0])
    found = circuit_halves(MODEL, (by_hand(knows_old), {}), dataset, num_pairs=16)
    # Trained queries of new facts, which this circuit does not know, would spoil what is old.
    assert found["score"] == pytest.approx(1, abs=1e-3) and found["old_patched"] == 1
