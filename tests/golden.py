"""Reading the golden files: numbers made by the official PyTorch code (see tests/data/golden)."""

import dataclasses  # noqa: F401  (re-exported to the tests)
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from grokjax import interop
from grokjax.dataset import Batch
from grokjax.optim import Hyperparameters

FOLDER = pathlib.Path(__file__).parent / "data" / "golden"


def load(name):
    return np.load(FOLDER / f"{name}.npz", allow_pickle=False)


def group(z, prefix):
    return {k[len(prefix) :]: z[k] for k in z.files if k.startswith(prefix)}


def official_config(z):
    return json.loads(str(z["config"]))


def model_config(z, vocab_size, **changes):
    return interop.model_config_from_official(official_config(z)["arch"], vocab_size, **changes)


def batch(arrays):
    return Batch(
        inputs=jnp.asarray(arrays["inputs"]),
        labels=jnp.asarray(arrays["labels"]),
        answer_position=jnp.sum(arrays["inputs"] > 0, axis=1),
        identifiers=jnp.asarray(arrays["puzzle_identifiers"]),
    )


def params_and_buffers(z, prefix, config):
    arrays = group(z, prefix) | group(z, "buffer/")
    for name in ("H_init", "L_init"):
        if name in z.files:
            arrays[name] = z[name]
    registers = prefix.removesuffix("param/") + interop.REGISTERS
    if registers in z.files:
        arrays[interop.REGISTERS] = z[registers]
    return jax.tree.map(jnp.asarray, interop.params_from_official(arrays, config))


def hyperparameters(z, dtype):
    c = official_config(z)
    values = {
        "learning_rate": c["lr"],
        "warmup_steps": c["lr_warmup_steps"],
        "weight_decay": c["weight_decay"],
        "beta1": c["beta1"],
        "beta2": c["beta2"],
        "eps": 1e-8,
        "register_learning_rate": c["puzzle_emb_lr"],
        "register_weight_decay": c["puzzle_emb_weight_decay"],
        "ema_rate": c["ema_rate"],
    }
    return Hyperparameters(**{k: jnp.asarray(v, dtype) for k, v in values.items()})
