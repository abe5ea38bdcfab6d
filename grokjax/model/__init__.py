"""The models: one `init`, `forward` and `readout` for all kinds. The only folder that knows flax.

Axes: B batch, T tokens, P registers, S = P + T, D hidden, V vocabulary, G stages.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grokjax.base.names import DECODER, RECURSIVE
from grokjax.data.dataset import Batch
from grokjax.model import decoder, own_model, recursive
from grokjax.model.recursive import initial_carry
from grokjax.model.types import (
    BLOCK_COMPONENTS,
    Buffers,
    Layout,
    ModelConfig,
    Output,
    Params,
    Patch,
    Trace,
    decoder_stage_names,
    stage_names,
)
from grokjax.settings.own_functions import is_own_file

__all__ = [
    "BLOCK_COMPONENTS",
    "DECODER",
    "RECURSIVE",
    "Buffers",
    "Layout",
    "ModelConfig",
    "Output",
    "Params",
    "Patch",
    "Trace",
    "decoder_stage_names",
    "forward",
    "forward_all_steps",
    "init",
    "initial_carry",
    "num_parameters",
    "readout",
    "stage_names",
]


def init(config: ModelConfig, key: Array) -> tuple[Params, Buffers]:
    """Draws parameters (trained) and buffers (never trained) of one run."""
    return _module(config).init(config, key)


def forward(
    config: ModelConfig,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    *,
    carry: tuple[Array, ...] | None = None,
    patch: Patch | None = None,
    key: Array | None = None,
) -> Output:
    """One forward pass: training, lens and patching all use it.

    Args:
      config: static settings.
      params, buffers: of one run, from `init`.
      batch: a batch of queries.
      carry: states to start from, as in `Output.carry`; a new sequence's when None.
      patch: an intervention; None runs the same program without.
      key: for dropout, where there is any; None evaluates.
    """
    with jax.default_matmul_precision(config.precision):
        if config.is_stack:
            return _module(config).forward(config, params, batch, patch=patch, key=key)
        return recursive.forward(config, params, buffers, batch, carry=carry, patch=patch)


def forward_all_steps(
    config: ModelConfig,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    *,
    patch: Patch | None = None,
) -> Output:
    """Every halting step, as an evaluation takes them: the last one's output, all stages.

    A patch is of `ModelConfig.evaluation_stages` and `evaluation_blocks`.
    """
    if config.halt_max_steps == 1:
        return forward(config, params, buffers, batch, patch=patch)
    outputs: list[Output] = []
    for step in range(config.halt_max_steps):
        carry = outputs[-1].carry if outputs else None
        part = None if patch is None else _patch_of_step(config, patch, step)
        outputs.append(forward(config, params, buffers, batch, carry=carry, patch=part))
    last = outputs[-1]
    z_H, z_L = (
        jnp.concatenate([getattr(o.trace, name) for o in outputs]) for name in ("z_H", "z_L")
    )
    internals = {
        name: jnp.concatenate([o.internals[name] for o in outputs]) for name in last.internals
    }
    trace = Trace(z_H, z_L, config.evaluation_stages)
    return dataclasses.replace(last, trace=trace, internals=internals)


def _patch_of_step(config: ModelConfig, patch: Patch, step: int) -> Patch:
    """A halting step's part of a patch; an embedding once replaced stays so."""

    def part(name: str, x: Array) -> Array:
        size = len(config.blocks if name in BLOCK_COMPONENTS else config.stages)
        return x[step * size : (step + 1) * size]

    source = {n: x if n == "embedding" else part(n, x) for n, x in patch.source.items()}
    share = {n: part(n, x) for n, x in patch.share.items()}
    if "embedding" in share:
        # As if mixed in again and again; unlike a maximum, with the right derivative at 0.
        kept = 1 - patch.share["embedding"][: step * len(config.stages) + 1]
        so_far = 1 - jnp.prod(kept, axis=0)
        share["embedding"] = share["embedding"].at[0].set(so_far)
    return Patch(source, share)


def readout(config: ModelConfig, params: Params, z: Float[Array, "*B S D"]) -> Array:
    """The model's own output head on any state: float32 logits [*B, T, V]."""
    with jax.default_matmul_precision(config.matmul_precision):
        return _module(config).readout(config, params, z)


def _module(config: ModelConfig) -> Any:
    if is_own_file(config.kind):
        return own_model
    return decoder if config.kind == DECODER else recursive


def num_parameters(config: ModelConfig) -> int:
    """Trained parameters of one run, registers included."""
    shapes, _ = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
