"""The recursive model against golden numbers from the official code."""

import contextlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.model import (
    ModelConfig,
    Patch,
    forward,
    forward_all_steps,
    init,
    num_parameters,
)
from grokjax.model.layers import rms_norm, rotary_angles, rotate
from grokjax.model.lens import lens_logits, lens_stream
from grokjax.training.losses import sequence_losses, sequences_correct, token_losses
from grokjax.training.step import TrainConfig, batch_loss

# Largest absolute difference allowed: states, logits, loss; gradients relative to their largest.
CASES = {
    "a64_mlpt": ("float64", 1e-12, 1e-12, 1e-12, 1e-12),
    "a_mlpt": ("float32", 2e-4, 2e-4, 4e-6, 2e-4),
    "b_attn_rope": ("float32", 2e-5, 5e-5, 4e-6, 2e-4),
}


@pytest.fixture(params=CASES)
def case(request):
    dtype, *tolerances = CASES[request.param]
    scope = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
    with scope, jax.default_matmul_precision("highest"):
        z = golden.load(f"{request.param}_forward")
        config = golden.model_config(z)
        yield z, config, tolerances


def test_stages_logits_and_lens_match(case):
    z, config, (z_tolerance, logit_tolerance, *_) = case
    params, buffers = golden.params_and_buffers(z, "param/", config)
    batch = golden.batch(golden.arrays_under(z, "batch/"))
    output = jax.jit(forward, static_argnums=0)(config, params, buffers, batch)
    assert output.trace.stages == tuple(z["stage_names"])
    assert [lens_stream(s) for s in output.trace.stages] == list(z["lens_stream"])
    np.testing.assert_allclose(output.embedding, z["input_embeddings"], atol=z_tolerance)
    np.testing.assert_allclose(output.trace.z_H, z["stage_z_H"], atol=z_tolerance)
    np.testing.assert_allclose(output.trace.z_L, z["stage_z_L"], atol=z_tolerance)
    np.testing.assert_allclose(output.logits, z["logits"], atol=logit_tolerance)
    np.testing.assert_allclose(output.q_logits[:, 0], z["q_halt_logits"], atol=logit_tolerance)
    np.testing.assert_allclose(output.q_logits[:, 1], z["q_continue_logits"], atol=logit_tolerance)
    lens = lens_logits(config, params, output.trace)
    np.testing.assert_allclose(lens, z["lens_logits"], atol=logit_tolerance)


def test_loss_and_gradient_match(case):
    z, config, (_, _, loss_tolerance, gradient_tolerance) = case
    params, buffers = golden.params_and_buffers(z, "param/", config)
    batch = golden.batch(golden.arrays_under(z, "batch/"))
    train = TrainConfig(config, 7, "stablemax", end_id=40)
    loss, grads = jax.jit(jax.value_and_grad(batch_loss, argnums=1), static_argnums=0)(
        train, params, buffers, batch
    )
    np.testing.assert_allclose(loss, z["loss_scaled"], rtol=loss_tolerance)
    expected_grads = golden.gradients(z, config)
    for (path, got), want in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        scale = np.abs(want).max()
        np.testing.assert_allclose(
            got, want, atol=gradient_tolerance * scale, err_msg=jax.tree_util.keystr(path)
        )


def test_padded_rows_match(case):
    z, config, (_, logit_tolerance, loss_tolerance, _) = case
    params, buffers = golden.params_and_buffers(z, "param/", config)
    padded = golden.arrays_under(z, "padrow/")
    padded.setdefault("puzzle_identifiers", np.zeros(7, np.int32))
    batch = golden.batch(padded)
    logits = forward(config, params, buffers, batch).logits
    np.testing.assert_allclose(logits, padded["logits"], atol=logit_tolerance)
    loss = batch_loss(TrainConfig(config, 7, "stablemax", 40), params, buffers, batch)
    np.testing.assert_allclose(7 * loss, padded["loss_sum"], rtol=loss_tolerance)
    correct = sequences_correct(logits, batch.labels)
    assert correct[-2:].all()  # a row without labels counts as correct, for halting only


def test_token_losses_match(case):
    z, config, (*_, loss_tolerance, _) = case
    params, buffers = golden.params_and_buffers(z, "param/", config)
    batch = golden.batch(golden.arrays_under(z, "batch/"))
    logits = forward(config, params, buffers, batch).logits
    got = token_losses("stablemax", logits, batch.labels)
    np.testing.assert_allclose(got, z["token_loss"], rtol=20 * loss_tolerance)
    total = jnp.sum(sequence_losses("stablemax", logits, batch.labels))
    np.testing.assert_allclose(total, z["metric/lm_loss"], rtol=loss_tolerance)
    assert int(sequences_correct(logits, batch.labels).sum()) == z["metric/exact_accuracy"]


def test_bfloat16_statistics():
    """In bf16 only statistics are comparable: values differ from float32 by up to 1.0."""
    z = golden.load("a_mlpt_bf16_forward")
    config = golden.model_config(z)
    assert config.dtype == "bfloat16"
    params, buffers = golden.params_and_buffers(z, "param/", config)
    output = forward(config, params, buffers, golden.batch(golden.arrays_under(z, "batch/")))
    assert output.logits.dtype == jnp.bfloat16 and output.trace.z_H.dtype == jnp.bfloat16
    assert params["embed"].dtype == jnp.float32
    got, want = np.asarray(output.logits, np.float32), z["logits"]
    np.testing.assert_allclose(got.std(), want.std(), rtol=0.05)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.9


def test_units():
    u = golden.load("units")
    np.testing.assert_allclose(rms_norm(jnp.asarray(u["rms/x"]), -1), u["rms/y"], atol=1e-6)
    config = ModelConfig(
        vocab_size=9, hidden_size=32, num_layers=1, H_cycles=1, L_cycles=1,
        num_heads=4, num_registers=16, positions="rotary", mixer="attention",
    )  # fmt: skip
    rotary = rotary_angles(config)
    np.testing.assert_allclose(rotary[0][:, 0, 0], u["rope/cos"], atol=2e-6)
    q = jnp.asarray(u["rope/q"]).transpose(1, 0, 2, 3)
    got = rotate(q, rotary).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(got, u["rope/q_out"], atol=5e-6)
    inner = [config.inner_size(int(width)) for width in u["swiglu/hidden"]]
    assert inner == list(u["swiglu/inter_expansion4"])


def test_initial_parameters():
    """Distribution as measured on the official initialisation."""
    config = ModelConfig(50, 64, 2, 2, 2, num_registers=4, register_size=64)
    params, buffers = init(config, jax.random.key(0))
    kernel = np.asarray(params["layers"]["0"]["mlp"]["gate"])
    assert kernel.shape == (64, 256)
    assert abs(kernel.std() * 8 - 1) < 0.02 and abs(np.abs(kernel).max() * 8 - 2.2737) < 0.01
    assert abs(np.asarray(params["embed"]).std() * 8 - 1) < 0.05
    assert not params["registers"].any() and not params["q_head"]["kernel"].any()
    assert (params["q_head"]["bias"] == -5).all()
    assert 0.7 < np.asarray(buffers["H_init"]).std() < 1.3
    assert not np.array_equal(buffers["H_init"], buffers["L_init"])
    first, second = params["layers"]["0"]["mlp"]["gate"], params["layers"]["1"]["mlp"]["gate"]
    assert not np.array_equal(first, second)


def test_paper_size():
    """44,560,898 parameters at the released vocabulary, as the official code counts them."""
    config = ModelConfig(
        2206, 1536, 2, 2, 6, num_registers=16, register_size=1536, dtype="bfloat16"
    )
    assert num_parameters(config) + 0 == 44_560_898 + 1536  # theirs keeps registers as a buffer


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
@pytest.mark.parametrize("positions", ["none", "rotary", "learned"])
@pytest.mark.parametrize("registers", [(0, 0), (3, 16), (2, 20)])
def test_every_shape_runs(mixer, positions, registers):
    num_registers, register_size = registers
    config = ModelConfig(
        11, 16, 1, 1, 1, mixer=mixer, positions=positions, num_heads=2, mlp_multiple=8,
        num_registers=num_registers, register_size=register_size, dtype="bfloat16",
    )  # fmt: skip
    params, buffers = init(config, jax.random.key(1))
    batch = golden.batch({
        "inputs": np.array([[1, 5, 6, 0, 0], [2, 7, 0, 0, 0]]),
        "labels": np.zeros((2, 5), int),
        "puzzle_identifiers": np.zeros(2, int),
    })  # fmt: skip
    output = jax.jit(forward, static_argnums=0)(config, params, buffers, batch)
    assert output.logits.shape == (2, 5, 11)
    assert output.trace.z_H.shape == (len(config.stages), 2, 5 + num_registers, 16)
    assert jnp.isfinite(output.logits).all()


def test_gradient_cycles():
    """The paper's last-cycle gradient cuts the first cycle; all cycles give another gradient."""
    base = dict(vocab_size=11, hidden_size=16, num_layers=1, H_cycles=2, L_cycles=1, mlp_multiple=8)
    params, buffers = init(ModelConfig(**base), jax.random.key(0))
    batch = golden.batch({
        "inputs": np.array([[1, 5, 6, 0, 0]]),
        "labels": np.array([[1, 5, 6, 2, 10]]),
        "puzzle_identifiers": np.zeros(1, int),
    })  # fmt: skip

    def gradient(cycles):
        config = TrainConfig(ModelConfig(**base, gradient_cycles=cycles), 1, "softmax", 10)
        gradient = jax.jit(jax.grad(batch_loss, argnums=1), static_argnums=0)
        return gradient(config, params, buffers, batch)["embed"]

    np.testing.assert_array_equal(gradient(0), gradient(2))
    assert np.abs(gradient(1) - gradient(2)).max() > 1e-4


@pytest.mark.parametrize("halt_max_steps", [1, 3])
def test_patching_everything_reproduces_the_donor(halt_max_steps):
    config = ModelConfig(
        11, 16, 1, 2, 1, mlp_multiple=8, num_registers=2, register_size=16,
        halt_max_steps=halt_max_steps,
    )  # fmt: skip
    params, buffers = init(config, jax.random.key(0))
    receiver, donor = (
        golden.batch({
            "inputs": np.array([query]),
            "labels": np.zeros((1, 5), int),
            "puzzle_identifiers": np.zeros(1, int),
        })
        for query in ([1, 5, 6, 0, 0], [2, 5, 7, 0, 0])
    )  # fmt: skip
    source = forward_all_steps(config, params, buffers, donor)
    stages = config.evaluation_stages
    none = jnp.zeros((len(stages), config.length))
    streams = ("z_H", "z_L", "embedding")
    for stage in range(len(stages)):
        patch = Patch(source.states(), dict.fromkeys(streams, none.at[stage].set(1.0)))
        got = forward_all_steps(config, params, buffers, receiver, patch=patch)
        np.testing.assert_array_equal(got.logits, source.logits)
    idle = Patch(source.states(), dict.fromkeys(streams, none))
    plain = forward_all_steps(config, params, buffers, receiver)
    got = forward_all_steps(config, params, buffers, receiver, patch=idle)
    np.testing.assert_array_equal(got.logits, plain.logits)


@pytest.mark.parametrize("name", ["heads", "mixer", "mlp"])
def test_a_block_component_is_replaced_where_its_share_says(name):
    config = ModelConfig(
        11, 16, 2, 1, 1, mixer="attention", num_heads=2, mlp_multiple=8, positions="learned"
    )
    params, buffers = init(config, jax.random.key(0))
    batch = golden.batch({
        "inputs": np.array([[1, 5, 6, 0, 0]]),
        "labels": np.zeros((1, 5), int),
    })  # fmt: skip
    plain = forward(config, params, buffers, batch)
    assert [len(config.blocks), *plain.internals[name].shape[1:3]] == [4, 1, 5]
    block, position = 2, 3  # of H0_Commit: the first stages do not know of it
    share = jnp.zeros(plain.internals[name].shape[:1] + (5,) + ((2,) if name == "heads" else ()))
    share = share.at[block, position].set(1.0)
    source = {name: plain.internals[name] + 1.0}
    patched = forward(config, params, buffers, batch, patch=Patch(source, {name: share}))
    change = np.abs(patched.internals[name] - plain.internals[name])[:, 0].reshape(4, 5, -1)
    np.testing.assert_allclose(change[block, position], 1.0, atol=1e-5)
    assert not change[:block].any() and not change[block, :position].any()
    states = np.abs(patched.trace.z_H - plain.trace.z_H).max(axis=(1, 3))
    assert not states[:2].any() and states[2, position] > 1e-2


def test_a_share_in_between_interpolates():
    config = ModelConfig(11, 16, 1, 1, 1, mlp_multiple=16)
    params, buffers = init(config, jax.random.key(0))
    batch = golden.batch({
        "inputs": np.array([[1, 5, 6, 0, 0]]),
        "labels": np.zeros((1, 5), int),
    })  # fmt: skip
    plain = forward(config, params, buffers, batch)
    share = jnp.zeros((3, 5)).at[1, 2].set(0.25)
    patch = Patch({"z_L": plain.trace.z_L + 4.0}, {"z_L": share})
    patched = forward(config, params, buffers, batch, patch=patch)
    change = np.asarray(patched.trace.z_L - plain.trace.z_L)[1, 0]
    np.testing.assert_allclose(change[2], 1.0, atol=1e-5)
    assert not change[[0, 1, 3, 4]].any()


def test_a_tied_head_is_the_embedding():
    config = ModelConfig(11, 16, 1, 1, 1, mlp_multiple=16, tied_head=True)
    params, buffers = init(config, jax.random.key(0))
    assert "lm_head" not in params
    untied = ModelConfig(11, 16, 1, 1, 1, mlp_multiple=16)
    assert num_parameters(untied) == num_parameters(config) + 11 * 16
    batch = golden.batch({
        "inputs": np.array([[1, 5, 6, 0, 0]]),
        "labels": np.array([[1, 5, 6, 2, 10]]),
    })  # fmt: skip
    tied = forward(config, params, buffers, batch)
    apart = forward(untied, params | {"lm_head": params["embed"].T}, buffers, batch)
    np.testing.assert_array_equal(tied.logits, apart.logits)
    lens = lens_logits(config, params, tied.trace)
    np.testing.assert_allclose(lens[-1], tied.logits, atol=1e-5)
