"""Measures against definitions written out by hand (docs/protocol.md, section 4)."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from grokjax.base.names import POSITIONS
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import make_batch, make_dataset, stack_datasets
from grokjax.data.folder import write_folder
from grokjax.model import forward, init, lens
from grokjax.training.evaluate import EvaluateConfig, evaluate, exact_match
from grokjax.training.resolve import model_config

STRICT_STAGE = "H1_L0_Thinking"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A random model, its metrics, and the items, answers and lens that they summarise."""
    config = tiny_config(evaluate__batch_size=17, model__H_cycles=2)
    dataset = make_dataset(config.data, 1)
    model = model_config(config, dataset.vocabulary.size)
    params, buffers = init(model, jax.random.key(0))
    # A random readout names each entity now and then; a small one would say one word always.
    settings = EvaluateConfig(model, 17, dataset.vocabulary.end_id, STRICT_STAGE)
    _, stacked = stack_datasets([dataset])
    probes = jax.tree.map(lambda x: jnp.asarray(x[0]), stacked)
    metrics = jax.device_get(jax.jit(evaluate, static_argnums=0)(settings, params, buffers, probes))
    batch = make_batch(probes.table.query, settings.end_id)
    output = forward(model, params, buffers, batch)
    top = lens.lens_logits(model, params, output.trace).argmax(-1)
    folder = tmp_path_factory.mktemp("data") / "d"
    write_folder(dataset, folder)
    items = json.loads((folder / "test.json").read_text())
    return dataset, metrics, items, np.asarray(output.logits.argmax(-1)), np.asarray(top), model


def mean_over(items, kind, values):
    return np.mean([v for item, v in zip(items, values, strict=True) if item["type"] == kind])


def test_answers(measured):
    dataset, metrics, items, said, _, _ = measured
    vocabulary = dataset.vocabulary
    right, exact = [], []
    for item, ids in zip(items, said, strict=True):
        asked, target = item["input_text"], item["target_text"]
        answer = target.removeprefix(asked).removesuffix("</a>")
        right.append(vocabulary.decode([ids[asked.count("<")]]) == answer)
        exact.append(vocabulary.decode(ids).split("</a>")[0] == target.split("</a>")[0])
    for kind in {item["type"] for item in items}:
        np.testing.assert_allclose(
            metrics[f"{kind}/answer_accuracy"], mean_over(items, kind, right)
        )
        np.testing.assert_allclose(metrics[f"{kind}/exact_match"], mean_over(items, kind, exact))
    each = [metrics[f"{kind}/exact_match"] for kind in COMPOSITION.trained]
    np.testing.assert_allclose(metrics["training_accuracy"], np.mean(each), rtol=1e-6)


def test_lens_rates(measured):
    dataset, metrics, items, _, top, model = measured
    facts = np.concatenate([dataset.id_facts, dataset.ood_facts]).tolist()
    tail = {(h, r): t for h, r, t in facts}
    stage = model.stages.index(STRICT_STAGE)
    found, strict, target, bridges = [], [], [], []
    for i, item in enumerate(items):
        h, r1, *r2 = dataset.vocabulary.encode(item["input_text"])
        bridge = tail[h, r1]
        answer = tail[bridge, r2[0]] if r2 else bridge
        bridges.append(bridge if r2 else -1)
        found.append((top[:, i] == bridge).any())
        target.append((top[:, i] == answer).any())
        strict.append(np.nan if bridge in (h, answer) else top[stage, i, 3] == bridge)
    assert np.isnan(strict).any() and np.nanmean(found) > 0.02
    for kind in ("train_inferred", "test_inferred_iid", "test_inferred_ood"):
        own = [s for s, it in zip(strict, items, strict=True) if it["type"] == kind]
        close = np.testing.assert_allclose
        close(metrics[f"{kind}/bridge_found"], mean_over(items, kind, found), rtol=1e-6)
        close(metrics[f"{kind}/bridge_found_strict"], np.nanmean(own), rtol=1e-6)
        # By chance: every query against every other's bridge; eight shuffles come close to it.
        at = [i for i, item in enumerate(items) if item["type"] == kind]
        expected = np.mean([(top[:, i] == bridges[j]).any() for i in at for j in at])
        assert abs(metrics[f"{kind}/bridge_chance"] - expected) < 4 / np.sqrt(8 * len(at))
        apart = [i for i in at if not np.isnan(strict[i])]
        expected = np.mean([top[stage, i, 3] == bridges[j] for i in apart for j in at])
        found_by_chance = metrics[f"{kind}/bridge_chance_strict"]
        assert abs(found_by_chance - expected) < 2 / np.sqrt(8 * len(apart))
    for kind in {item["type"] for item in items}:
        expected = mean_over(items, kind, target)
        np.testing.assert_allclose(metrics[f"{kind}/target_found"], expected, rtol=1e-6)
    assert not any("atomic" in name and "bridge" in name for name in metrics)


@pytest.mark.parametrize("position", ["answer", "relation1", "best"])
def test_the_paths_site_is_chosen_on_id_compositions(measured, position):
    dataset, _, items, _, top, model = measured
    settings = EvaluateConfig(model, 64, dataset.vocabulary.end_id, "best", position)
    params, buffers = init(model, jax.random.key(0))
    probes = jax.tree.map(jnp.asarray, dataset.probes)
    found = evaluate(settings, params, buffers, probes)
    stage, place = int(found["path_stage"]), int(found["path_position"])
    query, bridge = dataset.probes.table.query, dataset.probes.bridge
    apart = {
        kind: [
            i
            for i, item in enumerate(items)
            if item["type"] in kind and bridge[i] not in (query[i, 0], query[i, 3])
        ]
        for kind in (("train_inferred", "test_inferred_iid"), ("test_inferred_ood",))
    }
    on_id, on_ood = (
        (top[:, at] == bridge[at][None, :, None]).mean(axis=1) for at in apart.values()
    )
    asked = slice(None) if position == "best" else [POSITIONS.index(position)]
    # Of `Init`, where nothing is computed yet, all is known to no purpose.
    assert on_id[stage, place] == on_id[1:, asked].max() > 0 and stage > 0
    assert place in np.arange(len(POSITIONS))[asked]
    by_site = {n: x for n, x in found.items() if "bridge_found_at/" in n}
    assert len(by_site) == on_ood[1:, asked].size
    for name, rate in by_site.items():
        at = model.stages.index(name.split("/")[2]), POSITIONS.index(name.split("/")[3])
        assert rate == pytest.approx(on_ood[at])
    strict = "test_inferred_ood/bridge_found_strict"
    assert found[strict] == pytest.approx(on_ood[stage, place])
    names = [n if n == "test_inferred_ood" else f"not {n}" for n in probes.names]
    chosen_on_nothing = evaluate(
        settings, params, buffers, dataclasses.replace(probes, names=tuple(names))
    )
    assert np.isnan(chosen_on_nothing[strict])
    declared = dataclasses.replace(settings, path_stage="Init", path_position="relation1")
    assert not np.isnan(evaluate(declared, params, buffers, probes)[strict])


END = 9
PREDICTED = {  # what five positions say, PAD 0, for the query (1, 2, 3) with answer 4
    (1, 2, 3, 4, END): True,
    (1, 2, 3, 4, 0): True,  # PADs dropped: "1 2 3 4", no </a> to split at
    (1, 2, 3, END, 4): False,
    (1, 2, 3, 5, END): False,
    (7, 2, 3, 4, END): False,  # the copied input counts
    (1, 2, 3, 4, 4): False,
    (0, 1, 2, 3, 4): True,
    (1, 2, END, 3, 4): False,
    (0, 0, 0, 0, 0): False,
}


@pytest.mark.parametrize("predicted, expected", PREDICTED.items())
def test_exact_match_is_the_authors_rule(predicted, expected):
    batch = make_batch(jnp.array([[1, 2, 3, 4]]), END)
    assert bool(exact_match(jnp.array([predicted]), batch, END)[0]) == expected


def test_a_one_hop_text_ends_at_its_end():
    batch = make_batch(jnp.array([[1, 2, 0, 4]]), END)
    for predicted, expected in [((1, 2, 4, END, 8), True), ((1, 2, 4, 8, END), False)]:
        assert bool(exact_match(jnp.array([predicted]), batch, END)[0]) == expected


def test_the_batch_size_changes_nothing(measured):
    dataset, metrics, *_, model = measured
    params, buffers = init(model, jax.random.key(0))
    probes = jax.tree.map(jnp.asarray, dataset.probes)
    for size in (1000, 5):
        settings = EvaluateConfig(model, size, dataset.vocabulary.end_id, STRICT_STAGE)
        again = jax.jit(evaluate, static_argnums=0)(settings, params, buffers, probes)
        for name, value in metrics.items():
            np.testing.assert_allclose(again[name], value, rtol=1e-6, err_msg=name)


def test_a_type_without_queries_has_no_value(measured):
    dataset, metrics, *_, model = measured
    names = dataset.probes.names
    keep = dataset.probes.kind != names.index("ood_atomic")
    kind = np.where(keep, dataset.probes.kind, -1).astype(np.int16)
    probes = jax.tree.map(jnp.asarray, dataclasses.replace(dataset.probes, kind=kind))
    params, buffers = init(model, jax.random.key(0))
    settings = EvaluateConfig(model, 1000, dataset.vocabulary.end_id, STRICT_STAGE)
    without = evaluate(settings, params, buffers, probes)
    assert np.isnan(without["ood_atomic/exact_match"])
    rest = [metrics[f"{kind}/exact_match"] for kind in ("id_atomic", "train_inferred")]
    np.testing.assert_allclose(without["training_accuracy"], np.mean(rest), rtol=1e-6)
    assert set(without) == set(metrics) and set(names) <= set(COMPOSITION.type_names)
