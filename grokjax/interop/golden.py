"""Golden files, printed by the PyTorch code of others, read as our parameters and batches.

A forward file holds parameters, one batch and everything that the model makes of it; a training
file holds batches, and parameters and their average after some of the steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from grokjax.data.dataset import Batch
from grokjax.interop.weights import (
    OPTIMIZER_NAMES,
    REGISTERS,
    model_config_from_official,
    params_from_gpt2,
    params_from_official,
)
from grokjax.model import DECODER, Buffers, ModelConfig, Params
from grokjax.training.optim import Hyperparameters

Arrays = Mapping[str, np.ndarray]


def model_config(z: Arrays) -> ModelConfig:
    """Our settings of the model that a file is of; float64 if its parameters are."""
    arch = settings(z)["arch"]
    prefix = "step0/param/" if "batches/inputs" in z else "param/"
    names = [name for name in z if name.endswith("embed_tokens.embedding_weight")]
    start = [name for name in names if name.startswith(prefix)] or names
    if not start:
        raise KeyError("embed_tokens.embedding_weight")
    changes: dict[str, Any] = {}
    if z[start[0]].dtype == np.float64:
        changes["dtype"] = "float64"
    identifiers = [z[name] for name in z if name.endswith(REGISTERS)]
    if identifiers:
        changes["num_identifiers"] = len(identifiers[0])
    inputs = z["batches/inputs"][0] if "batches/inputs" in z else z["batch/inputs"]
    changes["seq_len"] = inputs.shape[1]
    return model_config_from_official(arch, len(z[start[0]]), **changes)


def arrays_under(z: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts so, without it."""
    return {name[len(prefix) :]: value for name, value in z.items() if name.startswith(prefix)}


def batch(arrays: Arrays) -> Batch:
    """A batch of the official code; negative labels are ignored, as PAD is."""
    inputs = jnp.asarray(arrays["inputs"])
    identifiers = arrays.get("puzzle_identifiers", np.zeros(len(inputs), np.int32))
    return Batch(
        inputs=inputs,
        labels=jnp.asarray(arrays["labels"]),
        answer_position=jnp.sum(inputs > 0, axis=1),
        identifiers=jnp.asarray(identifiers),
    )


def params_and_buffers(z: Arrays, prefix: str, config: ModelConfig) -> tuple[Params, Buffers]:
    """What a file has under a prefix such as `param/` or `step0/param/`, as ours."""
    arrays = arrays_under(z, prefix) | arrays_under(z, "buffer/")
    for name in ("H_init", "L_init"):
        if name in z:
            arrays[name] = z[name]
    registers = prefix.removesuffix("param/").removesuffix("ema/") + REGISTERS
    if registers in z:
        arrays[REGISTERS] = z[registers]
    return jax.tree.map(jnp.asarray, params_from_official(arrays, config))


def hyperparameters(z: Arrays, dtype: Any) -> Hyperparameters:
    """The numbers that a file's training ran with."""
    c = settings(z)
    values = {ours: c[theirs] for ours, theirs in OPTIMIZER_NAMES.items()} | {"eps": 1e-8}
    return Hyperparameters(**{name: jnp.asarray(v, dtype) for name, v in values.items()})


def gradients(z: Arrays, config: ModelConfig) -> Params:
    """A file's gradients as ours: rows of the registers are summed per identifier."""
    arrays = arrays_under(z, "grad/") | arrays_under(z, "buffer/")
    rows = arrays.pop("puzzle_emb.local_weights", None)
    if rows is not None:
        total = np.zeros((config.num_identifiers, rows.shape[1]), rows.dtype)
        np.add.at(total, z["batch/puzzle_identifiers"], rows)
        arrays[REGISTERS] = total
    return params_from_official(arrays, config)[0]


def settings(z: Arrays) -> dict[str, Any]:
    """The training config that a file was made with."""
    try:
        return json.loads(str(z["config"]))
    except ValueError:
        raise KeyError("config") from None


def gpt2_config(z: Arrays) -> ModelConfig:
    """Our settings of the GPT-2 that a file is of."""
    c = settings(z)
    return ModelConfig(
        c["vocab_size"], c["n_embd"], c["n_layer"], 1, 1,
        kind=DECODER, num_heads=c["n_head"], seq_len=c["n_positions"],
    )  # fmt: skip


def gpt2_swap(z: Arrays) -> Int[np.ndarray, " V"]:
    """Its vocabulary in our order: its padding is the last token and its 0 one like others."""
    c = settings(z)
    swap = np.arange(c["vocab_size"])
    swap[[0, c["eos_token_id"]]] = swap[[c["eos_token_id"], 0]]
    return swap


def gpt2_hyperparameters(z: Arrays) -> Hyperparameters:
    """The numbers that its training ran with."""
    h = json.loads(str(z["train/hparams"]))
    numbers = {
        "learning_rate": h["lr"], "warmup_steps": h["warmup"], "weight_decay": h["weight_decay"],
        "beta1": h["betas"][0], "beta2": h["betas"][1], "eps": h["eps"],
        "register_learning_rate": 0, "register_weight_decay": 0, "ema_rate": 0,
        "warmup_start": 0, "decay_vectors": 0, "clip_norm": h["clip"] or np.inf,
    }  # fmt: skip
    return Hyperparameters(**{name: jnp.float32(value) for name, value in numbers.items()})


def gpt2_params(z: Arrays, prefix: str, config: ModelConfig, swap: Int[np.ndarray, " V"]) -> Params:
    """What the file has under a prefix, its vocabulary in our order."""
    params = params_from_gpt2(arrays_under(z, prefix), config)
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
