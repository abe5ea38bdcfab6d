"""Weights of others as ours: files of named arrays, the official code's names and GPT-2's."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from grokjax.base.errors import UserError
from grokjax.model import ModelConfig, Params

REGISTERS = "puzzle_emb.weights"
# The official training config's names of numbers that an optimiser takes.
OPTIMIZER_NAMES = {
    "learning_rate": "lr", "warmup_steps": "lr_warmup_steps", "weight_decay": "weight_decay",
    "beta1": "beta1", "beta2": "beta2", "ema_rate": "ema_rate",
    "register_learning_rate": "puzzle_emb_lr",
    "register_weight_decay": "puzzle_emb_weight_decay",
}  # fmt: skip
_PREFIXES = ("_orig_mod.", "model.", "inner.")


def read_arrays(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """Named arrays of an `.npz`, safetensors or PyTorch file; nothing in it is executed.

    Raises:
      UserError: there is no such file, or it is of another kind.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give named arrays, .npz or of PyTorch")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(file)
        import torch  # type: ignore[import-not-found]

        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: value.float().numpy() for name, value in state.items()}
    except ModuleNotFoundError:
        raise UserError(f"{file}: reading it takes torch; install it, or give an .npz") from None
    except Exception as error:  # whatever the readers of three formats meet
        raise UserError(f"{file}: not named arrays ({str(error).splitlines()[0][:80]})") from None


def model_config_from_official(arch: Mapping[str, Any], vocab_size: int, **changes) -> ModelConfig:
    """Our static settings from the official `arch` section (paper names on the right there)."""
    mixer = "mlp" if arch["mlp_t"] else "attention"
    positions = {"None": "none", "rope": "rotary", "learned": "learned"}[str(arch["pos_encodings"])]
    size, hidden = arch["puzzle_emb_ndim"], arch["hidden_size"]
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": arch["hidden_size"],
        "num_layers": arch["L_layers"],
        "H_cycles": arch["H_cycles"],
        "L_cycles": arch["L_cycles"],
        "mixer": mixer,
        "positions": positions,
        "num_heads": arch["num_heads"],
        "expansion": arch["expansion"],
        "num_registers": arch["puzzle_emb_len"] or -(-size // hidden),
        "register_size": size,
        "halt_max_steps": arch.get("halt_max_steps", 1),
        "halt_exploration": arch.get("halt_exploration_prob", 0.1),
        "dtype": arch["forward_dtype"],
    }
    return ModelConfig(**(settings | changes))


def loss_from_official(training: Mapping[str, Any]) -> str:
    """`stablemax` or `softmax`, by the official training config."""
    loss = training.get("arch", {}).get("loss", {}).get("loss_type", "stablemax_cross_entropy")
    return "softmax" if str(loss).startswith("softmax") else "stablemax"


def params_from_official(
    arrays: Mapping[str, np.ndarray], config: ModelConfig
) -> tuple[Params, dict[str, np.ndarray]]:
    """A state dict's arrays as our parameters and buffers.

    Torch keeps linear weights as (out, in) and gate and up, or query, key and value, in one
    matrix; ours are (in, out), one matrix each.

    Args:
      arrays: by official name, with or without the prefixes of `torch.compile` and the wrappers.
      config: the model that the arrays belong to.

    Raises:
      UserError: an array is missing, unknown or has another shape.
    """
    rest = {name: np.asarray(value) for name, value in bare_names(arrays).items()}

    def take(name: str) -> np.ndarray:
        if name not in rest:
            raise UserError(f"official weights: array '{name}' is missing; is it another model?")
        return rest.pop(name)

    def linears(name: str, parts: tuple[str, ...]) -> dict[str, np.ndarray]:
        weight = take(f"{name}.weight")
        return {p: w.T for p, w in zip(parts, np.split(weight, len(parts)), strict=True)}

    def swiglu(name: str) -> dict[str, np.ndarray]:
        return linears(f"{name}.gate_up_proj", ("gate", "up")) | linears(
            f"{name}.down_proj", ("down",)
        )

    params: Params = {
        "embed": take("embed_tokens.embedding_weight"),
        "lm_head": take("lm_head.weight").T,
        "q_head": {"kernel": take("q_head.weight").T, "bias": take("q_head.bias")},
        "layers": {},
    }
    if config.positions == "learned":
        params["positions"] = take("embed_pos.embedding_weight")
    if config.num_registers and config.register_size:
        params["registers"] = take(REGISTERS)
    for i in range(config.num_layers):
        layer = f"L_level.layers.{i}"
        if config.mixer == "mlp":
            mixer = {"mixer": swiglu(f"{layer}.mlp_t")}
        else:
            attention = linears(f"{layer}.self_attn.qkv_proj", ("query", "key", "value"))
            mixer = {"attention": attention | linears(f"{layer}.self_attn.o_proj", ("out",))}
        params["layers"][str(i)] = mixer | {"mlp": swiglu(f"{layer}.mlp")}
    buffers = {name: take(name) for name in ("H_init", "L_init")}
    unknown = [n for n in rest if not n.startswith("rotary_emb.") and n != REGISTERS]
    if unknown:
        raise UserError(f"official weights: unknown array '{unknown[0]}'; is it another model?")
    return params, buffers


def params_from_gpt2(arrays: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """Arrays of a GPT-2 state dict as our decoder's parameters, whatever its number of loops.

    GPT-2 keeps its projections as (in, out), as we do.

    Args:
      arrays: by name, with or without prefixes such as `lm.transformer.`.
      config: the decoder; `seq_len` is the length of the table of positions.

    Raises:
      UserError: an array is missing, unknown or has another shape.
    """
    rest = {name.rpartition("transformer.")[2]: np.asarray(v) for name, v in arrays.items()}

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in rest:
            raise UserError(f"GPT-2 weights: array '{name}' is missing; is it another model?")
        array = rest.pop(name)
        if array.shape != shape:
            raise UserError(f"GPT-2 weights: '{name}' is {array.shape}, not {shape}")
        return array

    d = config.hidden_size

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight", d), "bias": take(f"{name}.bias", d)}

    def linear(name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
        kernel = take(f"{name}.weight", fan_in, fan_out)
        return {"kernel": kernel, "bias": take(f"{name}.bias", fan_out)}

    params: Params = {
        "embed": take("wte.weight", config.vocab_size, d),
        "positions": take("wpe.weight", config.seq_len, d),
        "final_norm": norm("ln_f"),
        "layers": {},
    }
    for i in range(config.num_layers):
        params["layers"][str(i)] = {
            "attention_norm": norm(f"h.{i}.ln_1"),
            "qkv": linear(f"h.{i}.attn.c_attn", d, 3 * d),
            "out": linear(f"h.{i}.attn.c_proj", d, d),
            "mlp_norm": norm(f"h.{i}.ln_2"),
            "up": linear(f"h.{i}.mlp.c_fc", d, 4 * d),
            "down": linear(f"h.{i}.mlp.c_proj", 4 * d, d),
        }
    # The head is tied; masks are no weights.
    unknown = [
        n for n in rest if n != "lm_head.weight" and not n.endswith(("attn.bias", "masked_bias"))
    ]
    if unknown:
        raise UserError(f"GPT-2 weights: unknown array '{unknown[0]}'; is it another model?")
    return params


def bare_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefixes of `torch.compile` and the wrappers."""

    def bare(name: str) -> str:
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        return name

    return {bare(name): value for name, value in arrays.items()}
