"""The decoder against a golden file of GPT-2: one batch, its gradients, and five steps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from grokjax.data.dataset import Batch
from grokjax.interop import official as interop
from grokjax.interop.parity import (
    Arrays,
    Difference,
    group,
    parameters_within,
    within,
    within_relative,
    worst,
)
from grokjax.model import DECODER, ModelConfig, Params, forward
from grokjax.model.decoder import final_norm
from grokjax.model.lens import lens_logits
from grokjax.training.optim import Hyperparameters, OptimizerConfig
from grokjax.training.step import TrainConfig, apply_batch, batch_loss, init_run

_ATOL, _LOSS_RTOL = 2e-4, 1e-5


def compare_gpt2(z: Arrays) -> Iterator[Difference]:
    """Differences of every quantity that the file has."""
    c = json.loads(str(z["config"]))
    config = ModelConfig(
        c["vocab_size"], c["n_embd"], c["n_layer"], 1, 1,
        kind=DECODER, num_heads=c["n_head"], seq_len=c["n_positions"],
    )  # fmt: skip
    # There the padding is the last token and 0 a token like others; here it is the other way round.
    swap = np.arange(config.vocab_size)
    swap[[0, c["eos_token_id"]]] = swap[[c["eos_token_id"], 0]]
    params = gpt2_params(z, "step0/param/", config, swap)
    batch = gpt2_batch(z, 0, swap)
    output = forward(config, params, {}, batch)
    hidden = jnp.concatenate(
        [output.trace.z_H[:-1], final_norm(config, params, output.trace.z_H[-1:])]
    )
    yield within("logits", output.logits[:, 1:], z["logits"][:, :-1, swap], _ATOL)
    yield within("hidden_states", hidden, z["hidden_states"], _ATOL)
    last = lens_logits(config, params, output.trace)[-1]
    yield within("lens_logits, last stage", last, z["lens_logits"][-1][..., swap], _ATOL)
    h = json.loads(str(z["train/hparams"]))
    train = TrainConfig(
        config, len(batch.inputs), "softmax", -1, OptimizerConfig(clip=h["clip"] is not None)
    )
    loss, grads = jax.jit(jax.value_and_grad(batch_loss, argnums=1), static_argnums=0)(
        train, params, {}, batch
    )
    yield within_relative("loss", loss, z["loss"], _LOSS_RTOL)
    wanted = gpt2_params(z, "grad/", config, swap)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(wanted))
    yield worst("gradients", [within("", a, b, _ATOL * largest) for a, b in pairs])

    numbers = {
        "learning_rate": h["lr"], "warmup_steps": h["warmup"], "weight_decay": h["weight_decay"],
        "beta1": h["betas"][0], "beta2": h["betas"][1], "eps": h["eps"],
        "register_learning_rate": 0, "register_weight_decay": 0, "ema_rate": 0,
        "warmup_start": 0, "decay_vectors": 0, "clip_norm": h["clip"] or np.inf,
    }  # fmt: skip
    hyper = Hyperparameters(**{name: jnp.float32(value) for name, value in numbers.items()})
    state = init_run(train, hyper, jnp.int32(0), jnp.int32(0))
    state = dataclasses.replace(state, params=params, ema_params=params)
    step = jax.jit(apply_batch, static_argnums=0)
    for i in range(len(z["batches/target_ids"])):
        state, metrics, _ = step(train, state, hyper, gpt2_batch(z, i, swap))
        rtol = _LOSS_RTOL * (1 if i == 0 else 20)
        yield within_relative(f"step {i + 1} loss", metrics.loss, z["train/loss"][i], rtol)
        prefix = f"step{i + 1}/param/"
        if group(z, prefix):
            want = gpt2_params(z, prefix, config, swap)
            most = 2 * h["lr"] * (i + 1)
            yield parameters_within(f"step {i + 1} param", "float32", state.params, want, most)


def gpt2_params(z: Arrays, prefix: str, config: ModelConfig, swap: Int[np.ndarray, " V"]) -> Params:
    """What the file has under a prefix, its vocabulary in our order."""
    params = interop.params_from_gpt2(group(z, prefix), config)
    return jax.tree.map(jnp.asarray, params | {"embed": params["embed"][swap]})


def gpt2_batch(z: Arrays, i: int, swap: Int[np.ndarray, " V"]) -> Batch:
    """The i-th batch; labels under 0 are ignored."""
    labels = z["batches/lm_labels"][i]
    labels = np.where(labels < 0, 0, swap[np.maximum(labels, 0)])
    return Batch(
        inputs=jnp.asarray(swap[z["batches/target_ids"][i]]),
        labels=jnp.asarray(labels),
        answer_position=jnp.asarray(np.argmax(labels > 0, axis=1)),
        identifiers=jnp.zeros(len(labels), jnp.int32),
    )
