"""Training of one run: five official steps, divergence, the order of items."""

import contextlib
import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.base.names import DIVERGED, RUNNING
from grokjax.interop.weights import params_from_official
from grokjax.model import ModelConfig, forward
from grokjax.model.lens import lens_logits
from grokjax.training.losses import log_stablemax, sequence_losses, token_losses
from grokjax.training.optim import Hyperparameters, SignSGDState, sign_sgd, warmup
from grokjax.training.step import TrainConfig, apply_batch, init_run, status_code

CASES = {"a64_mlpt": "float64", "a_mlpt": "float32", "b_attn_rope": "float32"}


def start(z, config, hyper):
    params, buffers = golden.params_and_buffers(z, "step0/param/", config.model)
    state = init_run(config, hyper, 0, 0)
    assert jax.tree.structure(state.params) == jax.tree.structure(params)
    replaced = {"params": params, "ema_params": params, "buffers": buffers}
    return dataclasses.replace(state, **replaced)


def expect(z, prefix, config):
    arrays = golden.arrays_under(z, prefix) | {"H_init": z["H_init"], "L_init": z["L_init"]}
    arrays["puzzle_emb.weights"] = z[prefix.split("/")[0] + "/puzzle_emb.weights"]
    return params_from_official(arrays, config.model)[0]


@pytest.fixture(scope="module", params=CASES)
def trained(request):
    """The states after five official batches."""
    dtype = CASES[request.param]
    scope = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
    with scope, jax.default_matmul_precision("highest"):
        z = golden.load(f"{request.param}_train")
        model = golden.model_config(z)
        config = TrainConfig(model, 7, "stablemax", end_id=40)
        hyper = golden.hyperparameters(z, model.param_dtype)
        state = start(z, config, hyper)
        step = jax.jit(apply_batch, static_argnums=0)
        states, losses = [state], []
        for i in range(5):
            batch = golden.batch({k: v[i] for k, v in golden.arrays_under(z, "batches/").items()})
            state, metrics, _ = step(config, state, hyper, batch)
            states.append(state)
            losses.append(metrics.loss)
        yield z, config, states, losses


def test_losses_match(trained):
    z, config, _, losses = trained
    # float32: from the second step on, the entries of test_parameters_match move the loss too.
    rtol = 1e-12 if config.model.dtype == "float64" else 1e-4
    np.testing.assert_allclose(losses, z["loss_scaled"], rtol=rtol)


def test_parameters_match(trained):
    """float64 exactly; float32 up to entries whose tiny gradient makes Adam's first steps +-lr."""
    z, config, states, _ = trained
    for step in (1, 5):
        want = expect(z, f"step{step}/param/", config)
        for got, target in zip(
            jax.tree.leaves(states[step].params), jax.tree.leaves(want), strict=True
        ):
            difference = np.abs(np.asarray(got) - target)
            if config.model.dtype == "float64":
                assert difference.max() < 1e-12
            else:
                assert difference.max() < 3e-3
                assert np.mean(difference > 1e-5) < 0.005


def test_ema_matches_and_registers_stay_raw(trained):
    z, config, states, _ = trained
    want = expect(z, "step5/ema/", config)
    tolerance = 1e-12 if config.model.dtype == "float64" else 1e-5
    for got, target in zip(
        jax.tree.leaves(states[5].ema_params), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(got, target, atol=tolerance)
    assert z["ema_eval/puzzle_emb_is_raw"]
    np.testing.assert_array_equal(states[5].ema_params["registers"], states[5].params["registers"])


def test_ema_evaluation_matches(trained):
    z, config, states, _ = trained
    batch = golden.batch({k: v[0] for k, v in golden.arrays_under(z, "batches/").items()})
    params = states[5].ema_params
    with contextlib.nullcontext():
        output = jax.jit(forward, static_argnums=0)(config.model, params, states[5].buffers, batch)
        lens = lens_logits(config.model, params, output.trace)
    tolerance = 1e-11 if config.model.dtype == "float64" else 2e-3
    np.testing.assert_allclose(output.logits, z["ema_eval/logits"], atol=tolerance)
    np.testing.assert_allclose(lens, z["ema_eval/lens_logits"], atol=tolerance)


def test_stablemax_units():
    u = golden.load("units")
    s = jnp.asarray(u["stablemax/x"], jnp.float32)
    got = log_stablemax(s)
    want = np.log(u["stablemax/s"] / u["stablemax/s"].sum())
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
    # d log s / dx = (ds/dx) / s, at x = 0 and x = 1 too, where careless formulas fail.
    # In float64: at x = 1e6 the slope is what is left of two nearly equal numbers.
    with jax.enable_x64(True):
        x = jnp.asarray(u["stablemax/x"], jnp.float64)
        slope = jax.vmap(jax.grad(lambda x: log_stablemax(jnp.stack([x, 0.0 * x]))[0]))(x)
    total = u["stablemax/s"] + 1.0
    want = u["stablemax/ds_dx"] / u["stablemax/s"] * (1 - u["stablemax/s"] / total)
    np.testing.assert_allclose(slope, want, rtol=1e-6)


def test_cross_entropy_units():
    u = golden.load("units")
    logits, labels = jnp.asarray(u["ce/logits"]), jnp.asarray(u["ce/labels"])
    np.testing.assert_allclose(
        token_losses("stablemax", logits, labels), u["ce/token_loss"], rtol=1e-5
    )
    total, gradient = jax.value_and_grad(
        lambda x: jnp.sum(sequence_losses("stablemax", x, labels))
    )(logits)
    np.testing.assert_allclose(total, u["ce/loss_sum"], rtol=1e-6)
    np.testing.assert_allclose(gradient, u["ce/dloss_dlogits"], atol=1e-6)


def test_warmup_units():
    u = golden.load("units")
    schedule = warmup(jnp.float32(4e-5), jnp.float32(2000))
    got = [schedule(jnp.int32(n - 1)) for n in u["lr/update_number"]]
    np.testing.assert_allclose(got, u["lr/value"], rtol=1e-6)


def test_sign_sgd_units():
    """Rows of identifiers that the batch lacks keep their value: no weight decay either."""
    u = golden.load("units")
    ids = u["signsgd/ids"]
    before = jnp.asarray(u["signsgd/w_before"])
    grads = jnp.zeros_like(before).at[ids].add(u["signsgd/grad"])
    tx = sign_sgd(lambda _: jnp.float32(u["signsgd/lr"]), jnp.float32(u["signsgd/wd"]))
    present = jnp.zeros(len(before), bool).at[ids].set(True)
    updates, state = tx.update(grads, SignSGDState(jnp.int32(0)), before, present=present)
    np.testing.assert_allclose(before + updates, u["signsgd/w_after"], atol=1e-6)
    assert int(state.num_updates) == 1


def test_divergence_freezes_the_run():
    model = ModelConfig(11, 16, 1, 1, 1, mlp_multiple=8)
    config = TrainConfig(model, 2, "softmax", end_id=10)
    names = Hyperparameters.__dataclass_fields__
    values = dict.fromkeys(names, jnp.float32(0.9)) | {
        "learning_rate": jnp.float32(1e3),
        "warmup_steps": jnp.float32(1),
        "eps": jnp.float32(1e-8),
    }
    hyper = Hyperparameters(**values)
    batch = golden.batch({
        "inputs": np.array([[1, 5, 6, 0, 0], [2, 7, 0, 0, 0]]),
        "labels": np.array([[1, 5, 6, 2, 10], [2, 7, 3, 10, 0]]),
        "puzzle_identifiers": np.zeros(2, int),
    })  # fmt: skip
    state = init_run(config, hyper, 0, 0)
    step = jax.jit(apply_batch, static_argnums=0)
    statuses = []
    for _ in range(40):
        state, _, _ = step(config, state, hyper, batch)
        statuses.append(int(state.status))
    assert statuses[0] == status_code(RUNNING) and statuses[-1] == status_code(DIVERGED)
    assert int(state.step) == statuses.index(status_code(DIVERGED))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))
