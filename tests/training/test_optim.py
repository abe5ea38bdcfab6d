"""Every optimiser against its published formula, computed once more in NumPy (float64)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.training.optim import Hyperparameters, OptimizerConfig, make_optimizer, update_ema

STEPS = 6
PRESENT = jnp.ones(1, bool)
BASE = {
    "learning_rate": 1e-2, "warmup_steps": 3.0, "weight_decay": 0.4, "beta1": 0.9, "beta2": 0.95,
    "eps": 1e-8, "register_learning_rate": 0.0, "register_weight_decay": 0.0, "ema_rate": 0.99,
}  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem(seed=0):
    """Start and gradients of a matrix, a vector and a scalar-like bias."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (4, 3), "bias": (3,)}
    start = {n: rng.standard_normal(s) for n, s in shapes.items()}
    grads = [{n: rng.standard_normal(s) for n, s in shapes.items()} for _ in range(STEPS)]
    return start, grads


def run(config=None, **changes):
    """Parameters after each of our steps."""
    hyper = Hyperparameters(**{n: jnp.float64(v) for n, v in (BASE | changes).items()})
    tx = make_optimizer(config or OptimizerConfig(), hyper)
    params, grads = problem()
    params = jax.tree.map(jnp.asarray, params)
    state, path = tx.init(params), []
    for g in grads:
        updates, state = tx.update(g, state, params, present=PRESENT)
        params = jax.tree.map(jnp.add, params, updates)
        path.append(params)
    return path


def by_hand(moments="adamw", gradient=lambda g, p, memory: g, factor=lambda n: 1.0,
            decay_factor=lambda n: 1.0, decay_vectors=True, start=1, **changes):  # fmt: skip
    """The same, in plain NumPy: n counts updates from 1."""
    h = BASE | changes
    params, all_grads = problem()
    mean = {n: np.zeros_like(p) for n, p in params.items()}
    square = {n: np.zeros_like(p) for n, p in params.items()}
    memory, path = {}, []
    for n, grads in enumerate(all_grads, 1):
        grads = gradient(grads, params, memory)
        lr = h["learning_rate"] * min((n - 1 + start) / h["warmup_steps"], 1) * factor(n - 1)
        new = {}
        for name, p in params.items():
            g = grads[name]
            mean[name] = h["beta1"] * mean[name] + (1 - h["beta1"]) * g
            square[name] = h["beta2"] * square[name] + (1 - h["beta2"]) * g * g
            m = mean[name] / (1 - h["beta1"] ** n)
            v = square[name] / (1 - h["beta2"] ** n)
            if moments == "adamw":
                step = m / (np.sqrt(v) + h["eps"])
            else:
                step = 4 / np.pi * np.arctan2(m, np.sqrt(v))
            decay = h["weight_decay"] * decay_factor(n - 1) * (p.ndim > 1 or decay_vectors)
            new[name] = p - lr * (step + decay * p)
        params = new
        path.append(params)
    return path


def assert_same(ours, theirs, rtol=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-14)


def test_adamw():
    assert_same(run(), by_hand())


def test_adam_atan2():
    ours = run(OptimizerConfig(name="adam_atan2"))
    assert_same(ours, by_hand("adam_atan2"))
    # Its point: the scale of gradients does not matter, and there is no epsilon.
    assert not np.allclose(ours[-1]["kernel"], run()[-1]["kernel"])


def test_biases_and_norms_without_decay():
    assert_same(run(decay_vectors=0.0), by_hand(decay_vectors=False))


def test_a_warm_up_that_starts_at_nothing():
    ours = run(warmup_start=0.0)
    assert_same(ours, by_hand(start=0))
    assert_same(ours[:1], [problem()[0]])


def cosine(n, warmup=3.0, end=6):
    return 0.5 * (1 + math.cos(math.pi * min(max((n - warmup) / (end - warmup), 0), 1)))


def test_cosine_learning_rate():
    ours = run(OptimizerConfig(schedule="cosine"), decay_steps=6.0)
    assert_same(ours, by_hand(factor=cosine))


def test_cosine_weight_decay():
    ours = run(OptimizerConfig(weight_decay_schedule="cosine"), decay_steps=6.0)
    assert_same(ours, by_hand(decay_factor=cosine))


def filtered(alpha, amplification):
    def gradient(grads, params, memory):
        for name, g in grads.items():
            before = memory.get(name, g)  # the authors' code starts from the first gradient
            memory[name] = alpha * before + (1 - alpha) * g
        return {n: g + amplification * memory[n] for n, g in grads.items()}

    return gradient


def test_grokfast():
    ours = run(OptimizerConfig(grokfast=True), grokfast_alpha=0.8, grokfast_lambda=2.0)
    assert_same(ours, by_hand(gradient=filtered(0.8, 2.0)))


def orthogonal(grads, params, memory):
    projected = {}
    for name, g in grads.items():
        w = params[name]
        across = g - np.sum(w * g) / np.sum(w * w) * w
        projected[name] = across * np.linalg.norm(g) / np.linalg.norm(across)
        assert abs(np.sum(projected[name] * w)) < 1e-12
    return projected


def test_orthograd():
    ours = run(OptimizerConfig(orthograd=True), orthograd=1.0)
    assert_same(ours, by_hand(gradient=orthogonal))


def test_orthograd_of_weights_at_zero():
    hyper = Hyperparameters(**{n: jnp.float64(v) for n, v in (BASE | {"orthograd": 1.0}).items()})
    tx = make_optimizer(OptimizerConfig(orthograd=True), hyper)
    params = {"bias": jnp.zeros(3)}
    updates, _ = tx.update({"bias": jnp.ones(3)}, tx.init(params), params, present=PRESENT)
    assert np.isfinite(updates["bias"]).all() and (updates["bias"] < 0).all()


def clipped(grads, params, memory):
    norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
    return {n: g * min(1, 1.5 / norm) for n, g in grads.items()}


def test_clipping():
    assert_same(run(OptimizerConfig(clip=True), clip_norm=1.5), by_hand(gradient=clipped))


ALL = OptimizerConfig(grokfast=True, clip=True, orthograd=True)


def test_what_is_off_is_off_to_the_last_bit():
    """A run without accelerators, in a population where others have them."""
    for ours, plain in zip(run(ALL), run(), strict=True):
        for name in ours:
            np.testing.assert_array_equal(ours[name], plain[name])


def test_order_of_the_parts():
    """Grokfast, then clipping, then OrthoGrad."""

    def gradient(grads, params, memory, slow=filtered(0.9, 1.0)):  # noqa: B008
        return orthogonal(clipped(slow(grads, params, memory), params, memory), params, memory)

    numbers = {"grokfast_alpha": 0.9, "grokfast_lambda": 1.0, "clip_norm": 1.5, "orthograd": 1.0}
    assert_same(run(ALL, **numbers), by_hand(gradient=gradient))


def test_ema():
    averaged = update_ema(jnp.float64(0.9), {"w": jnp.ones(2)}, {"w": jnp.zeros(2)})
    np.testing.assert_allclose(averaged["w"], 0.9)
    kept = update_ema(jnp.float64(0.9), {"registers": jnp.ones(2)}, {"registers": jnp.zeros(2)})
    np.testing.assert_allclose(kept["registers"], 0.0)


def test_every_setting_has_its_number():
    names = {field.name for field in dataclasses.fields(Hyperparameters)}
    assert set(BASE) <= names
