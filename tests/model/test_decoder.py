"""The decoder against GPT-2's golden numbers, and what its loops and causality promise."""

import dataclasses
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.data.dataset import make_batch
from grokjax.interop.golden import gpt2_batch, gpt2_params
from grokjax.model import ModelConfig, Patch, forward, init, num_parameters
from grokjax.model.decoder import final_norm
from grokjax.model.lens import lens_logits
from grokjax.training.evaluate import EvaluateConfig, evaluate
from grokjax.training.optim import Hyperparameters, OptimizerConfig
from grokjax.training.step import TrainConfig, apply_batch, batch_loss, init_run

TINY = ModelConfig(11, 16, 2, 1, 1, kind="decoder", num_heads=2)
END = 10


@pytest.fixture(scope="module")
def z():
    return golden.load("e_gpt2")


@pytest.fixture(scope="module")
def gpt2(z):
    c = json.loads(str(z["config"]))
    config = ModelConfig(
        c["vocab_size"], c["n_embd"], c["n_layer"], 1, 1,
        kind="decoder", num_heads=c["n_head"], seq_len=c["n_positions"],
    )  # fmt: skip
    return config, weights(z, "step0/param/", config)


# There 47 is the padding and 0 a token like others; here it is the other way round.
SWAP = np.array([47, *range(1, 47), 0])


def weights(z, prefix, config):
    return gpt2_params(z, prefix, config, SWAP)


def batch_of(z, i):
    return gpt2_batch(z, i, SWAP)


def test_forward_matches(z, gpt2):
    config, params = gpt2
    with jax.default_matmul_precision("highest"):
        output = forward(config, params, {}, batch_of(z, 0))
        lens = lens_logits(config, params, output.trace)
        last = final_norm(config, params, output.trace.z_H[-1])
    # `logits[:, t]` are about token t: GPT-2's, one place later.
    np.testing.assert_allclose(output.logits[:, 1:], z["logits"][:, :-1, SWAP], atol=2e-4)
    np.testing.assert_allclose(output.trace.z_H[:2], z["hidden_states"][:2], atol=2e-4)
    np.testing.assert_allclose(last, z["hidden_states"][2], atol=2e-4)
    np.testing.assert_allclose(lens[-1], z["logits"][..., SWAP], atol=2e-4)
    assert output.trace.stages == ("Init", "Loop0_Layer0", "Loop0_Layer1")


def test_loss_and_gradient_match(z, gpt2):
    config, params = gpt2
    train = TrainConfig(config, 7, "softmax", 47)
    with jax.default_matmul_precision("highest"):
        loss, grads = jax.value_and_grad(batch_loss, argnums=1)(train, params, {}, batch_of(z, 0))
    np.testing.assert_allclose(loss, z["loss"], rtol=1e-5)
    want = weights(z, "grad/", config)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
    for got, target in zip(jax.tree.leaves(grads), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, target, atol=2e-4 * largest)
    np.testing.assert_allclose(
        np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))),
        z["grad_norm"],
        rtol=1e-5,
    )


def test_five_steps_match(z, gpt2):
    """Clipped to norm 1, no decay on biases and norms, first update without learning rate."""
    config, params = gpt2
    h = json.loads(str(z["train/hparams"]))
    hyper = Hyperparameters(
        learning_rate=h["lr"], warmup_steps=h["warmup"], weight_decay=h["weight_decay"],
        beta1=h["betas"][0], beta2=h["betas"][1], eps=h["eps"], register_learning_rate=0.0,
        register_weight_decay=0.0, ema_rate=0.9, warmup_start=0.0, decay_vectors=0.0,
        clip_norm=h["clip"],
    )  # fmt: skip
    hyper = jax.tree.map(jnp.float32, hyper)
    train = TrainConfig(config, 7, "softmax", 47, OptimizerConfig(clip=True))
    state = dataclasses.replace(init_run(train, hyper, 0, 0), params=params, ema_params=params)
    step = jax.jit(apply_batch, static_argnums=0)
    with jax.default_matmul_precision("highest"):
        for i in range(5):
            state, metrics, _ = step(train, state, hyper, batch_of(z, i))
            np.testing.assert_allclose(metrics.loss, z["train/loss"][i], rtol=1e-4)
            norm = z["train/grad_norm_before_clip"][i]
            np.testing.assert_allclose(metrics.gradient_norm, norm, rtol=1e-3)
    got, want = jax.tree.leaves(state.params), jax.tree.leaves(weights(z, "step5/param/", config))
    difference = np.concatenate([np.abs(a - b).ravel() for a, b in zip(got, want, strict=True)])
    # Up to entries whose tiny gradient makes Adam's first steps +-lr.
    assert np.mean(difference > 1e-5) < 5e-3 and difference.max() < 2 * h["lr"]


def test_two_loops_share_the_layers():
    """The second loop is the same stack on what the first one left."""
    params, _ = init(TINY, jax.random.key(0))
    twice = dataclasses.replace(TINY, num_loops=2)
    assert num_parameters(twice) == num_parameters(TINY)
    assert jax.tree.structure(init(twice, jax.random.key(0))[0]) == jax.tree.structure(params)
    batch = make_batch(jnp.array([[1, 5, 6, 2]]), END)
    once, looped = forward(TINY, params, {}, batch), forward(twice, params, {}, batch)
    assert looped.trace.stages[3:] == ("Loop1_Layer0", "Loop1_Layer1")
    np.testing.assert_array_equal(looped.trace.z_H[:3], once.trace.z_H)
    doubled = {str(i): params["layers"][str(i % 2)] for i in range(4)}
    deep = forward(dataclasses.replace(TINY, num_layers=4), params | {"layers": doubled}, {}, batch)
    np.testing.assert_allclose(looped.logits, deep.logits, atol=1e-6)


def test_no_position_sees_what_comes_later():
    params, _ = init(TINY, jax.random.key(1))
    queries = jnp.array([[1, 5, 6, 2], [1, 5, 6, 3]])
    logits = forward(TINY, params, {}, make_batch(queries, END)).logits
    np.testing.assert_array_equal(logits[0, 1:4], logits[1, 1:4])
    assert not np.allclose(logits[0, 4], logits[1, 4])


def test_only_the_answer_is_learned():
    params, _ = init(TINY, jax.random.key(1))
    train = TrainConfig(TINY, 2, "softmax", END)
    batch = make_batch(jnp.array([[1, 5, 6, 2], [1, 5, 0, 3]]), END)
    logits = jax.nn.log_softmax(forward(TINY, params, {}, batch).logits)
    by_hand = -(logits[0, 3, 2] + logits[0, 4, END] + logits[1, 2, 3] + logits[1, 3, END]) / 4
    np.testing.assert_allclose(batch_loss(train, params, {}, batch), by_hand, rtol=1e-6)


def test_a_patch_replaces_a_state():
    params, _ = init(TINY, jax.random.key(2))
    clean, corrupted = (make_batch(jnp.array([q]), END) for q in ([1, 5, 6, 2], [4, 5, 6, 3]))
    donor = forward(TINY, params, {}, clean)
    patch = Patch(donor.states(), {"z_H": jnp.zeros((3, 5)).at[1].set(1.0)})
    patched = forward(TINY, params, {}, corrupted, patch=patch)
    np.testing.assert_allclose(patched.logits, donor.logits, atol=1e-6)


def test_dropout_needs_a_key_and_follows_it():
    config = dataclasses.replace(TINY, dropout=0.5)
    params, _ = init(config, jax.random.key(0))
    batch = make_batch(jnp.array([[1, 5, 6, 2]]), END)
    plain = forward(config, params, {}, batch).logits
    np.testing.assert_array_equal(plain, forward(TINY, params, {}, batch).logits)
    first, again, other = (
        forward(config, params, {}, batch, key=jax.random.key(k)).logits for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, plain)


def test_evaluation_gives_the_question_and_reads_before_the_answer():
    """A decoder whose head copies position 2 of the stream: found there, and nowhere later."""
    from grokjax.data.dataset import HiddenTokens, Probes, query_table

    params, _ = init(TINY, jax.random.key(3))
    rows = np.array([[1, 5, 3, 6, 2], [1, 5, 0, 0, 3]])
    table = query_table(rows)
    probes = Probes(
        table, (HiddenTokens(rows[:, 2].astype(np.int16), np.ones((2, 8), np.int16)),),
        np.array([0, 1], np.int16), ("train_inferred", "id_atomic"),
    )  # fmt: skip
    probes = jax.tree.map(jnp.asarray, probes)
    metrics = evaluate(EvaluateConfig(TINY, 2, END), params, {}, probes)
    batch = make_batch(probes.table.query, END)
    output = forward(TINY, params, {}, batch)
    top = np.asarray(lens_logits(TINY, params, output.trace).argmax(-1))
    said = np.asarray(output.logits.argmax(-1))
    assert metrics["train_inferred/target_found"] == (top[:, 0, :3] == 2).any()
    assert metrics["id_atomic/target_found"] == (top[:, 1, :2] == 3).any()
    assert metrics["train_inferred/bridge_found"] == (top[:, 0, :3] == 3).any()
    assert metrics["train_inferred/answer_accuracy"] == (said[0, 3] == 2)
    assert metrics["id_atomic/exact_match"] == (said[1, 2] == 3 and said[1, 3] == END)
    # Made to say what it has seen: the answer is then read off its own place, and not counted.
    copying = params | {"embed": params["embed"] * 1e3, "positions": params["positions"] * 0}
    seen = evaluate(EvaluateConfig(TINY, 2, END), copying, {}, probes)
    trace = forward(TINY, copying, {}, batch).trace
    top = np.asarray(lens_logits(TINY, copying, trace).argmax(-1))
    assert (top[:, 0, 3] == 2).any() and not (top[:, 0, :3] == 2).any()
    assert seen["train_inferred/target_found"] == 0


def test_training_lowers_the_loss():
    hyper = Hyperparameters(1e-2, 1.0, 0.0, 0.9, 0.99, 1e-8, 0.0, 0.0, 0.9)
    hyper = jax.tree.map(jnp.float32, hyper)
    train = TrainConfig(TINY, 2, "softmax", END)
    state = init_run(train, hyper, 0, 0)
    batch = make_batch(jnp.array([[1, 5, 6, 2], [4, 5, 0, 3]]), END)
    step = jax.jit(apply_batch, static_argnums=0)
    losses = []
    for _ in range(60):
        state, metrics, _ = step(train, state, hyper, batch)
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.05 < 1.5 < losses[0]
