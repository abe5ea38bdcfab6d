"""Names and shapes of the official PyTorch code, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grokjax.errors import UserError
from grokjax.model import ModelConfig, Params

REGISTERS = "puzzle_emb.weights"
_PREFIXES = ("_orig_mod.", "model.", "inner.")


def model_config_from_official(arch: Mapping[str, Any], vocab_size: int, **changes) -> ModelConfig:
    """Our static settings from the official `arch` section (paper names on the right there)."""
    mixer = "mlp" if arch["mlp_t"] else "attention"
    positions = {"None": "none", "rope": "rotary", "learned": "learned"}[str(arch["pos_encodings"])]
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
        "num_registers": arch["puzzle_emb_len"],
        "register_size": arch["puzzle_emb_ndim"],
        "dtype": arch["forward_dtype"],
    }
    return ModelConfig(**(settings | changes))


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
    rest = {_bare(name): np.asarray(value) for name, value in arrays.items()}

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


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name
