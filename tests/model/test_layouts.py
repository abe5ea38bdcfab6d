"""The ways to compute one model: every layout gives the plain one's numbers and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.data.dataset import make_batch
from grokjax.model import Layout, ModelConfig, forward, init
from grokjax.model.gated_mlp import gated_mlp
from grokjax.training.step import TrainConfig, loss_and_output

ATTENTION = {"mixer": "attention", "num_heads": 4, "mlp_multiple": 8}
TOKENS = {"mixer": "mlp", "num_registers": 3, "register_size": 40, "mlp_multiple": 32}


def loss_and_gradient(model, layout):
    model = dataclasses.replace(model, layout=layout)
    config = TrainConfig(model, 6, "stablemax", end_id=10)
    params, buffers = init(model, jax.random.key(1))
    query = np.random.default_rng(0).integers(1, 10, (6, 4))
    query[0, 2] = 0
    batch = make_batch(query, 10)

    def loss(params):
        return loss_and_output(config, params, buffers, batch)

    (value, output), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, output.logits, output.internals, gradient


@functools.cache
def plain(model):
    return loss_and_gradient(model, Layout())


def assert_same(got, want, tolerance):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(np.abs(y).max(), 1e-3), rtol=0)


@pytest.mark.parametrize(
    "layout, positions",
    [(Layout(flat=False), "none"), (Layout(flat=False), "rotary")]
    + [(Layout(attention="rows"), p) for p in ("none", "learned", "rotary")]
    + [(Layout(flat, "columns"), p) for flat in (True, False) for p in ("none", "learned")],
)
def test_attention_in_every_layout(layout, positions):
    with jax.enable_x64(True):
        model = ModelConfig(11, 16, 2, 1, 1, positions=positions, dtype="float64", **ATTENTION)
        want = plain(model)
        assert "heads" in want[2]
        assert_same(loss_and_gradient(model, layout), want, 1e-12)


@pytest.mark.parametrize("flat", [True, False])
def test_the_mixer_in_blocks(flat):
    with jax.enable_x64(True):
        model = ModelConfig(11, 256, 1, 1, 2, dtype="float64", **TOKENS)
        want = plain(model)
        assert_same(loss_and_gradient(model, Layout(flat, mixer="blocks")), want, 1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 3e-5), ("bfloat16", 0.05)])
def test_kernels_in_a_model(dtype, tolerance):
    """In bfloat16 plain products round their results where the kernel goes on in float32."""
    model = ModelConfig(11, 40, 1, 1, 2, dtype=dtype, **TOKENS)
    want = loss_and_gradient(model, Layout())
    got = loss_and_gradient(model, Layout(mixer="kernel", mlp="kernel", interpret=True))
    assert_same(got, want, tolerance)


def plain_mlp(x, gate, up, down, axis):
    def product(y, kernel):
        return jnp.tensordot(y, kernel, axes=(-1, 0), precision="highest")

    y = jnp.moveaxis(x, axis, -1)
    y = product(jax.nn.silu(product(y, gate)) * product(y, up), down)
    return jnp.moveaxis(y, -1, axis)


@pytest.mark.parametrize(
    "axis, shape, inner",
    [(0, (21, 6, 48), 256), (-1, (5, 16, 64), 192), (-1, (5, 7, 24), 40), (0, (5, 3, 7), 8),
     (0, (16, 4, 640), 64)],
)  # fmt: skip
def test_the_kernel_alone(axis, shape, inner):
    """Widths that fill no tile, columns that end within one, and sums of several programs."""
    rng = np.random.default_rng(0)
    width = shape[axis]
    x, weights = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    gate, up, down = (
        jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32)
        for s in ((width, inner), (width, inner), (inner, width))
    )

    def value_and_gradients(function):
        return jax.value_and_grad(
            lambda *arrays: jnp.sum(function(*arrays) * weights), argnums=(0, 1, 2, 3)
        )(x, gate, up, down)

    got = value_and_gradients(lambda *arrays: gated_mlp(*arrays, axis, interpret=True))
    want = value_and_gradients(lambda *arrays: plain_mlp(*arrays, axis))
    assert_same(got, want, 1e-5)
    # A population: one more axis of the kernel's grid.
    runs = [jnp.stack([a, -a]) for a in (x, gate, up, down)]
    both = jax.vmap(lambda *arrays: gated_mlp(*arrays, axis, interpret=True))(*runs)
    assert_same(both, jax.vmap(lambda *arrays: plain_mlp(*arrays, axis))(*runs), 1e-5)


def products_of(function, *args):
    """Precisions of all products in a traced function."""
    found = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append(eqn.params["precision"])
            for part in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
                if hasattr(part, "jaxpr"):
                    walk(part.jaxpr)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize("shape", [ATTENTION, TOKENS, {"kind": "decoder"}])
def test_every_product_of_a_step_has_the_precision_asked_for(shape):
    """Forward and backward: what float32 means does not depend on the backend."""
    highest = (jax.lax.Precision.HIGHEST,) * 2
    for precision, want in (("highest", highest), ("default", (jax.lax.Precision.DEFAULT,) * 2)):
        model = ModelConfig(11, 40, 1, 1, 1, matmul_precision=precision, **shape)
        config = TrainConfig(model, 6, "softmax", end_id=10)
        params, buffers = init(model, jax.random.key(1))
        batch = make_batch(np.ones((6, 4), np.int32), 10)
        gradient = jax.grad(lambda p: loss_and_output(config, p, buffers, batch)[0])  # noqa: B023
        found = products_of(gradient, params)
        assert len(found) > 10 and set(found) == {want}


def test_bfloat16_numbers_are_multiplied_as_they_are():
    model = ModelConfig(11, 16, 1, 1, 1, dtype="bfloat16", mlp_multiple=8)
    params, buffers = init(model, jax.random.key(1))
    batch = make_batch(np.ones((6, 4), np.int32), 10)
    found = products_of(lambda p: forward(model, p, buffers, batch).logits, params)
    assert set(found) == {(jax.lax.Precision.DEFAULT,) * 2}
