"""The recursive model (a Tiny Recursive Model): parameters, one forward pass, its states by stage.

Two states per position, `z_H` and `z_L`, are refined by the same few blocks over and over. The
semantics are those of the official code of arXiv 2601.09049, matched by golden tests. Inside,
states are laid out [S, B, D]; what leaves this file is [B, S, D].
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grokjax.data.dataset import Batch
from grokjax.model.layers import (
    Block,
    Tap,
    embedding_init,
    linear_init,
    rotary_angles,
    untapped,
)
from grokjax.model.taps import Taps
from grokjax.model.types import Buffers, ModelConfig, Output, Params, Patch, Trace
from grokjax.settings.own_functions import is_own, own_function, telling

_POSITION_SCALE = 0.707106781  # 1/sqrt(2) as the official code writes it


def init(config: ModelConfig, key: Array) -> tuple[Params, Buffers]:
    """Draws parameters (trained) and buffers (H_init and L_init, never trained) as the paper does.

    Returns:
      params: nested dict of float32 (float64 if that is the compute dtype); `registers` exists
        only if there are any. buffers: `H_init` and `L_init`, [D].
    """
    keys = iter(jax.random.split(key, 8 + config.num_layers))
    dtype, d = config.param_dtype, config.hidden_size
    params: Params = {
        "embed": embedding_init(next(keys), (config.vocab_size, d), dtype),
        "lm_head": linear_init(next(keys), (d, config.vocab_size), dtype),
        # A low halting bias: the network starts out sure that it has not finished.
        "q_head": {"kernel": jnp.zeros((d, 2), dtype), "bias": jnp.full((2,), -5.0, dtype)},
    }
    if config.tied_head:
        del params["lm_head"]
    if config.positions == "learned":
        params["positions"] = embedding_init(next(keys), (config.length, d), dtype)
    if config.num_registers and config.register_size:
        params["registers"] = jnp.zeros((config.num_identifiers, config.register_size), dtype)
    x = jnp.zeros((config.length, 1, d), jnp.dtype(config.dtype))
    params["layers"] = {
        str(i): make_block(config).init(next(keys), x)["params"] for i in range(config.num_layers)
    }
    # The official code creates these in the compute dtype; rounding them keeps its values.
    draw = jax.nn.initializers.truncated_normal(1.0 / 0.87962566103423978)
    buffers = {
        name: draw(next(keys), (d,), dtype).astype(config.dtype).astype(dtype)
        for name in ("H_init", "L_init")
    }
    return params, buffers


def forward(
    config: ModelConfig,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    *,
    carry: tuple[Array, ...] | None = None,
    patch: Patch | None = None,
) -> Output:
    """The recursive model on a batch of queries: training, lens and patching all use it.

    Args:
      config: static settings.
      params, buffers: of one run, from `init`.
      batch: inputs i32[B, T] and identifiers i32[B]; its labels are not read.
      carry: (z_H, z_L), [B, S, D] each, to start from; the initial vectors when None.
      patch: an intervention; None runs the same program without.

    Returns:
      Output. Logits are in the compute dtype, q_logits in float32 at least; what nobody reads is
      not computed under `jit`.
    """
    dtype = jnp.dtype(config.dtype)
    embedding = _embed(config, params, batch)
    if carry is None:
        z_H, z_L = (
            jnp.broadcast_to(buffers[name].astype(dtype), embedding.shape)
            for name in ("H_init", "L_init")
        )
    else:
        z_H, z_L = (_positions_first(z).astype(dtype) for z in carry)

    rotary = rotary_angles(config) if config.positions == "rotary" else None
    layers = [params["layers"][str(i)] for i in range(config.num_layers)]

    def block(layer: Params, z: Array, tap: Tap = untapped) -> Array:
        return jnp.asarray(make_block(config).apply({"params": layer}, z, rotary, tap))

    def reason(z: Array, injection: Array) -> Array:
        """One level of reasoning: inject, then every block. z_H and z_L share the blocks."""
        z = z + injection
        for layer in layers:
            # What is computed anew cannot be looked into: its values would be another pass'.
            z = (
                jax.checkpoint(block)(layer, z)
                if config.remat == "blocks"
                else block(layer, z, taps)
            )
        return z

    taps = Taps(patch, position_axis=0)

    def end_stage(z_H, z_L, embedding):
        return taps("z_H", z_H), taps("z_L", z_L), taps("embedding", embedding)

    unpatched_embedding = embedding
    z_H, z_L, embedding = end_stage(z_H, z_L, embedding)
    for h in range(config.H_cycles):
        if config.gradient_cycles and h == config.H_cycles - config.gradient_cycles:
            z_H, z_L = jax.lax.stop_gradient((z_H, z_L))
        for _ in range(config.L_cycles):
            z_L = reason(z_L, z_H + embedding)
            z_H, z_L, embedding = end_stage(z_H, z_L, embedding)
        z_H = reason(z_H, z_L)
        z_H, z_L, embedding = end_stage(z_H, z_L, embedding)

    z_out = _batch_first(z_H)
    logits = _batch_first(z_H[config.num_registers :] @ head(params).astype(dtype))
    q_head = params["q_head"]
    q_logits = z_H[0] @ q_head["kernel"].astype(dtype) + q_head["bias"].astype(dtype)[None]
    return Output(
        logits=logits,
        q_logits=q_logits.astype(config.param_dtype),
        carry=(z_out, _batch_first(z_L)),
        embedding=_batch_first(unpatched_embedding),
        trace=Trace(taps.recorded("z_H"), taps.recorded("z_L"), config.stages),
        internals=taps.internals(),
    )


def make_block(config: ModelConfig) -> Any:
    """The block that both states share: ours, or `FILE.py:NAME` of `model.kind`, NAME(config).

    Called as a flax module: `init(key, x)`, `apply({"params": params}, x, rotary, tap)`.
    """
    if is_own(config.kind):
        return _Told(own_function("model.kind", config.kind, ("config",))(config), config.kind)
    return Block(config)


class _Told:
    """A block of somebody's file: what goes wrong in it is told with file and line."""

    def __init__(self, block: Any, kind: str):
        self._block, self._kind = block, kind

    def init(self, *args: Any) -> Any:
        with telling("model.kind", self._kind):
            return self._block.init(*args)

    def apply(self, *args: Any) -> Any:
        with telling("model.kind", self._kind):
            return self._block.apply(*args)


def initial_carry(config: ModelConfig, buffers: Buffers, batch_size: int) -> tuple[Array, Array]:
    """(z_H, z_L) that every sequence starts from, [B, S, D] each."""
    shape = (batch_size, config.length, config.hidden_size)
    z_H, z_L = (
        jnp.broadcast_to(buffers[name].astype(config.dtype), shape) for name in ("H_init", "L_init")
    )
    return z_H, z_L


def readout(config: ModelConfig, params: Params, z: Float[Array, "*B S D"]) -> Array:
    """The output head on any state, without the registers: float32 logits [*B, T, V]."""
    tokens = z[..., config.num_registers :, :].astype(config.param_dtype)
    return tokens @ head(params)


def head(params: Params) -> Float[Array, "D V"]:
    """The output head; a tied one is the embedding."""
    return params["lm_head"] if "lm_head" in params else params["embed"].T


def _embed(config: ModelConfig, params: Params, batch: Batch) -> Float[Array, "S B D"]:
    """Registers and tokens, [S, B, D], scaled by sqrt(D)."""
    dtype, d = jnp.dtype(config.dtype), config.hidden_size
    x = params["embed"].astype(dtype)[batch.inputs.T]
    if config.num_registers:
        batch_size = batch.inputs.shape[0]
        registers = jnp.zeros((batch_size, config.num_registers * d), dtype)
        if config.register_size:
            rows = params["registers"].astype(dtype)[batch.identifiers]
            registers = registers.at[:, : config.register_size].set(rows)
        registers = registers.reshape(batch_size, config.num_registers, d)
        x = jnp.concatenate([_positions_first(registers), x])
    if config.positions == "learned":
        x = _POSITION_SCALE * (x + params["positions"].astype(dtype)[:, None])
    return math.sqrt(d) * x


def _positions_first(x: Array) -> Array:
    return x.transpose(1, 0, 2)


def _batch_first(x: Array) -> Array:
    return x.transpose(1, 0, 2)
