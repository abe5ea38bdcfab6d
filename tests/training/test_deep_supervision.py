"""Deep supervision: who stays, who starts anew, in which order items are drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.data.dataset import QueryTable, make_batch
from grokjax.model import (
    ModelConfig,
    forward,
    forward_all_steps,
    init,
    initial_carry,
)
from grokjax.training.deep_supervision import continue_or_replace, first_halting, halt
from grokjax.training.optim import Hyperparameters, OptimizerConfig
from grokjax.training.step import TrainConfig, init_run, train_step

B, END = 8, 30
MODEL = ModelConfig(
    31, 16, 1, 1, 1, mixer="attention", num_heads=2, mlp_multiple=16, halt_max_steps=3,
    gradient_cycles=0,
)  # fmt: skip
HYPER = jax.tree.map(jnp.float32, Hyperparameters(1e-2, 1.0, 0.1, 0.9, 0.99, 1e-8, 0.0, 0.0, 0.9))


def make_table(size=20):
    query = np.zeros((size, 4), np.int16)
    query[:, 0] = np.arange(size) + 1
    query[:, 1:] = [21, 22, 5]
    return QueryTable(jnp.asarray(query), jnp.int32(size))


@pytest.fixture(scope="module")
def buffers():
    return init(MODEL, jax.random.key(0))[1]


def output_saying(q, batch=B):
    state = jnp.full((batch, 5, 16), 7.0)
    return jnp.stack([q, jnp.zeros_like(q)], axis=1), (state, 2 * state)


def test_rows_halt_and_others_stay(buffers):
    """A sequence that wants to goes, the others carry their state on, and all go at the last."""
    never_explores = dataclasses.replace(MODEL, halt_exploration=0.0)
    key, table = jax.random.key(1), make_table()
    going = continue_or_replace(MODEL, buffers, first_halting(MODEL, buffers, B), key, table)
    fresh = initial_carry(MODEL, buffers, B)
    np.testing.assert_array_equal(going.states[0], fresh[0])
    assert len(set(going.query[:, 0].tolist())) == B
    wants = jnp.where(jnp.arange(B) < 3, 1.0, -1.0)
    carry = halt(never_explores, going, *output_saying(wants), key, 0)
    assert carry.halted.tolist() == [True] * 3 + [False] * 5
    second = continue_or_replace(MODEL, buffers, carry, key, table)
    np.testing.assert_array_equal(second.query[3:], going.query[3:])
    assert not set(second.query[:3, 0].tolist()) & set(going.query[:, 0].tolist())
    np.testing.assert_array_equal(second.states[0][3:], 7.0)
    np.testing.assert_array_equal(second.states[1][3:], 14.0)
    np.testing.assert_array_equal(second.states[0][:3], fresh[0][:3])
    assert second.steps.tolist() == [0] * 3 + [1] * 5
    stubborn = jnp.full(B, -1.0)
    carry = halt(never_explores, second, *output_saying(stubborn), key, 1)
    third = continue_or_replace(MODEL, buffers, carry, key, table)
    carry = halt(never_explores, third, *output_saying(stubborn), key, 2)
    assert carry.halted.tolist() == [False] * 3 + [True] * 5  # at halt_max_steps = 3


def test_every_epoch_draws_each_item_once(buffers):
    key, table, rng = jax.random.key(2), make_table(20), np.random.default_rng(0)
    carry, drawn = first_halting(MODEL, buffers, B), []
    step = jax.jit(continue_or_replace, static_argnums=0)
    for _ in range(40):
        going = step(MODEL, buffers, carry, key, table)
        drawn += [int(q) for q, new in zip(going.query[:, 0], carry.halted, strict=True) if new]
        carry = dataclasses.replace(going, halted=jnp.asarray(rng.random(B) < 0.4))
    epochs = [drawn[i : i + 20] for i in range(0, len(drawn) - 19, 20)]
    assert len(epochs) >= 5 and all(sorted(e) == list(range(1, 21)) for e in epochs)
    assert epochs[0] != epochs[1]


def test_exploration_keeps_some_from_halting(buffers):
    """With probability p a sequence stays until a step drawn from 2..3: never after one step."""
    always = dataclasses.replace(MODEL, halt_exploration=1.0)
    many = 4000
    going = first_halting(MODEL, buffers, many)
    eager = output_saying(jnp.ones(many), many)
    assert not halt(always, going, *eager, jax.random.key(0), 0).halted.any()
    after_two = dataclasses.replace(going, steps=jnp.ones(many, jnp.int32))
    share = halt(always, after_two, *eager, jax.random.key(0), 0).halted.mean()
    assert abs(share - 0.5) < 0.05
    tenth = dataclasses.replace(MODEL, halt_exploration=0.1)
    share = halt(tenth, going, *eager, jax.random.key(0), 0).halted.mean()
    assert abs(share - 0.9) < 0.03


def train(model, num_steps, table):
    config = TrainConfig(model, B, "softmax", END, OptimizerConfig())
    state = init_run(config, HYPER, 0, 0)
    step = jax.jit(train_step, static_argnums=0)
    losses = []
    for _ in range(num_steps):
        state, metrics = step(config, state, HYPER, table)
        losses.append(float(metrics.loss))
    return state, losses


def test_one_step_is_the_study(buffers):
    """halt_max_steps = 1, through the halting code or past it: the same run, up to rounding."""
    one = dataclasses.replace(MODEL, halt_max_steps=1)
    table = make_table()
    plain, losses = train(one, 5, table)
    config = TrainConfig(one, B, "softmax", END)
    state = init_run(config, HYPER, 0, 0)
    state = dataclasses.replace(state, carry=first_halting(one, state.buffers, B))
    step = jax.jit(train_step, static_argnums=0)
    for want in losses:
        state, metrics = step(config, state, HYPER, table)
        assert float(metrics.loss) == pytest.approx(want, rel=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_it_learns():
    _, losses = train(MODEL, 80, make_table())
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def test_evaluation_takes_every_step():
    params, buffers = init(MODEL, jax.random.key(3))
    batch = make_batch(jnp.array([[1, 21, 22, 5]]), END)
    output = forward(MODEL, params, buffers, batch)
    for _ in range(2):
        output = forward(MODEL, params, buffers, batch, carry=output.carry)
    whole = forward_all_steps(MODEL, params, buffers, batch)
    np.testing.assert_allclose(whole.logits, output.logits, atol=1e-6)
    assert whole.trace.stages == MODEL.evaluation_stages and len(whole.trace.z_H) == 9
    np.testing.assert_allclose(whole.trace.z_H[6:], output.trace.z_H, atol=1e-6)
