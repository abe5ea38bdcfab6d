"""The lens's tables against the single states that they are means of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from grokjax.analysis import logit_lens
from grokjax.analysis.logit_lens import rates_of
from grokjax.base.names import POSITIONS
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import HiddenTokens, Probes, make_batch, make_dataset
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, forward_all_steps, init, readout
from grokjax.training.evaluate import EvaluateConfig, evaluate

RECURSIVE = ModelConfig(
    25, 16, 1, 2, 1, mixer="attention", positions="learned", num_heads=2, mlp_multiple=16,
    num_registers=2, register_size=16,
)  # fmt: skip
DECODER = ModelConfig(25, 16, 2, 1, 1, kind="decoder", num_heads=2)


@pytest.fixture(scope="module")
def dataset():
    return make_dataset(tiny_config().data, 0)  # 12 entities, 6 relations: 25 tokens


@pytest.fixture(params=[RECURSIVE, DECODER], ids=["recursive", "decoder"])
def network(request):
    return request.param, init(request.param, jax.random.key(3))


def test_every_number_is_a_mean_over_its_queries(network, dataset):
    config, (params, buffers) = network
    lens = logit_lens(config, (params, buffers), dataset.probes, batch_size=7)
    probes = jax.tree.map(np.asarray, dataset.probes)
    batch = make_batch(jnp.asarray(probes.table.query), PAD)
    trace = forward_all_steps(config, params, buffers, batch).trace
    streams = {"z_H": trace.z_H} if trace.z_L is None else {"z_H": trace.z_H, "z_L": trace.z_L}
    query, bridge = probes.table.query, probes.bridge
    known = (bridge == query[:, 0]) | (bridge == query[:, 3])
    places = {"head": 0, "relation1": 1, "relation2": 2, "answer": 3, "end": 4}
    for stream, states in streams.items():
        logits = np.asarray(readout(config, params, states))
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        for kind in ("train_inferred", "test_inferred_ood", "ood_atomic"):
            of_kind = probes.kind == probes.names.index(kind)
            for subset, wanted in (("apart", ~known), ("head_or_answer", known)):
                for token, ids in (("bridge", bridge), ("target", query[:, 3])):
                    rows = np.flatnonzero(of_kind & wanted & (ids > 0))
                    own = lens.sel(type=kind, subset=subset, token=token, stream=stream)
                    assert int(own.num_queries) == len(rows)
                    if not len(rows):
                        assert np.isnan(own.top1).all()
                        continue
                    for position in own.position.to_numpy():
                        place = places[position]
                        if "atomic" in kind:  # the answer comes one earlier
                            if position == "relation2":
                                assert np.isnan(own.top1.sel(position=position)).all()
                                continue
                            place -= position in ("answer", "end")
                        x = logits[:, rows, place]
                        of_token = x[:, np.arange(len(rows)), ids[rows], None]
                        rank = (x > of_token).sum(axis=-1)
                        p = log_p[:, rows, place][:, np.arange(len(rows)), ids[rows]]
                        at = own.sel(position=position)
                        top1 = (x.argmax(axis=-1) == ids[rows]).mean(axis=1)
                        np.testing.assert_allclose(at.top1, top1, atol=1e-6)
                        np.testing.assert_allclose(at["rank"], rank.mean(axis=1), atol=1e-4)
                        inverse = (1 / (1 + rank)).mean(axis=1)
                        np.testing.assert_allclose(at.reciprocal_rank, inverse, atol=1e-5)
                        np.testing.assert_allclose(at.log_probability, p.mean(axis=1), atol=1e-4)


def test_a_decoder_is_read_at_its_question(dataset):
    weights = init(DECODER, jax.random.key(0))
    lens = logit_lens(DECODER, weights, dataset.probes)
    assert lens.position.to_numpy().tolist() == ["head", "relation1", "relation2"]
    assert lens.stream.to_numpy().tolist() == ["z_H"]


def test_rates_are_those_of_the_evaluation(network, dataset):
    config, weights = network
    path_site = ("best", "best" if config.predicts_input else "answer")
    lens = logit_lens(config, weights, dataset.probes, path_site=path_site)
    settings = EvaluateConfig(config, 64, dataset.vocabulary.end_id, *path_site)
    expected = evaluate(settings, *weights, jax.tree.map(jnp.asarray, dataset.probes))
    for kind in dataset.probes.names:
        for rate in rates_of(COMPOSITION):
            if f"{kind}/{rate}" in expected:
                found = float(lens[rate].sel(type=kind))
                wanted = float(expected[f"{kind}/{rate}"])
                assert found == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert str(lens.path_stage.values) == config.stages[int(expected["path_stage"])]
    position = str(lens.path_position.values)
    assert position == POSITIONS[int(expected["path_position"])] and position in lens.position
    assert config.predicts_input or position == "relation2"  # which says the answer


def test_padding_counts_for_nothing(dataset):
    """As where runs with fewer queries are stacked with others."""
    weights = init(RECURSIVE, jax.random.key(0))
    probes = dataset.probes
    extra = 5
    padded = Probes(
        table=type(probes.table)(
            np.pad(probes.table.query, [(0, extra), (0, 0)]), probes.table.size
        ),
        hidden=(
            HiddenTokens(
                np.pad(probes.bridge, (0, extra)), np.pad(probes.decoy, [(0, extra), (0, 0)])
            ),
        ),
        kind=np.pad(probes.kind, (0, extra), constant_values=-1),
        names=probes.names,
    )
    plain, more = (logit_lens(RECURSIVE, weights, p) for p in (probes, padded))
    np.testing.assert_array_equal(plain.num_queries, more.num_queries)
    np.testing.assert_allclose(plain.top1, more.top1, atol=1e-6)
