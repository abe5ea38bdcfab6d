"""The recursive model (a Tiny Recursive Model): parameters, one forward pass, its states by stage.

Two states per position, `z_H` and `z_L`, are refined by the same few blocks over and over. The
semantics are those of the official code of arXiv 2601.09049, matched by golden tests.

Inside, states are laid out [S, B, D], positions first: mixing across positions and across channels
are then plain matrix products and no transpose is ever needed. What leaves this file is [B, S, D].
Axes: B batch, T tokens, P registers, S = P + T, D hidden, V vocabulary, G stages.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from grokjax.dataset import Batch

Params = dict[str, Any]
Buffers = dict[str, Array]

_NORM_EPS = 1e-5
_ROTARY_BASE = 10000.0
_POSITION_SCALE = 0.707106781  # 1/sqrt(2) as the official code writes it

_unit_variance = jax.nn.initializers.variance_scaling  # truncated at 2 sigma, deviation corrected
_linear_init = _unit_variance(1.0, "fan_in", "truncated_normal")
_embedding_init = _unit_variance(1.0, "fan_out", "truncated_normal")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What shapes the program. Hashable, so that it can be closed over or passed as static."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    H_cycles: int
    L_cycles: int
    kind: str = "recursive"
    seq_len: int = 5
    gradient_cycles: int = 1  # trailing H cycles with gradient; 0 means all
    mixer: str = "mlp"
    positions: str = "none"
    num_heads: int = 1
    expansion: float = 4.0
    mlp_multiple: int = 256
    num_registers: int = 0
    register_size: int = 0
    num_identifiers: int = 1
    dtype: str = "float32"

    @property
    def length(self) -> int:
        """S: positions of a state, registers first."""
        return self.num_registers + self.seq_len

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of what the lens and patches see, in order."""
        return stage_names(self.H_cycles, self.L_cycles)

    @property
    def param_dtype(self) -> Any:
        return jnp.float64 if self.dtype == "float64" else jnp.float32

    def inner_size(self, width: int) -> int:
        """The gated MLP's inner width over an axis of `width`, rounded up to `mlp_multiple`."""
        wanted = round(self.expansion * width * 2 / 3)
        return -(-wanted // self.mlp_multiple) * self.mlp_multiple


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """Both states after every stage, [G, B, S, D], and the stages' names."""

    z_H: Float[Array, "G B S D"]
    z_L: Float[Array, "G B S D"]
    stages: tuple[str, ...] = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Patch:
    """An intervention as data: after stage g, positions under a mask take the source's value.

    The embedding is injected again in every L update, so it can be replaced from stage g on.
    """

    z_H: Float[Array, "G B S D"]
    z_L: Float[Array, "G B S D"]
    embedding: Float[Array, "B S D"]
    z_H_mask: Bool[Array, "G S"]
    z_L_mask: Bool[Array, "G S"]
    embedding_mask: Bool[Array, "G S"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """One forward pass. `carry` is (z_H, z_L) for models that continue from it, [B, S, D] each."""

    logits: Float[Array, "B T V"]
    q_logits: Float[Array, "B 2"]
    carry: tuple[Float[Array, "B S D"], Float[Array, "B S D"]]
    embedding: Float[Array, "B S D"]
    trace: Trace


def stage_names(H_cycles: int, L_cycles: int) -> tuple[str, ...]:
    """`Init`, then `H{i}_L{j}_Thinking` after each z_L and `H{i}_Commit` after each z_H update."""
    names = ["Init"]
    for h in range(H_cycles):
        names += [f"H{h}_L{j}_Thinking" for j in range(L_cycles)] + [f"H{h}_Commit"]
    return tuple(names)


def init(config: ModelConfig, key: Array) -> tuple[Params, Buffers]:
    """Draws parameters (trained) and buffers (H_init and L_init, never trained) as the paper does.

    Returns:
      params: nested dict of float32 (float64 if that is the compute dtype); `registers` exists
        only if there are any. buffers: `H_init` and `L_init`, [D].
    """
    keys = iter(jax.random.split(key, 8 + config.num_layers))
    dtype, d = config.param_dtype, config.hidden_size
    params: Params = {
        "embed": _embedding_init(next(keys), (config.vocab_size, d), dtype),
        "lm_head": _linear_init(next(keys), (d, config.vocab_size), dtype),
        # A low halting bias: the network starts out sure that it has not finished.
        "q_head": {"kernel": jnp.zeros((d, 2), dtype), "bias": jnp.full((2,), -5.0, dtype)},
    }
    if config.positions == "learned":
        params["positions"] = _embedding_init(next(keys), (config.length, d), dtype)
    if config.num_registers and config.register_size:
        params["registers"] = jnp.zeros((config.num_identifiers, config.register_size), dtype)
    x = jnp.zeros((config.length, 1, d), jnp.dtype(config.dtype))
    params["layers"] = {
        str(i): Block(config).init(next(keys), x)["params"] for i in range(config.num_layers)
    }
    # The official code creates these in the compute dtype; rounding them keeps its values.
    draw = jax.nn.initializers.truncated_normal(1.0 / 0.87962566103423978)
    buffers = {
        name: draw(next(keys), (d,), dtype).astype(config.dtype).astype(dtype)
        for name in ("H_init", "L_init")
    }
    return params, buffers


def num_parameters(config: ModelConfig) -> int:
    """Trained parameters of one run, registers included."""
    shapes, _ = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def forward(
    config: ModelConfig,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    *,
    carry: tuple[Array, Array] | None = None,
    patch: Patch | None = None,
    key: Array | None = None,
) -> Output:
    """The recursive model on a batch of queries: training, lens and patching all use it.

    Args:
      config: static settings.
      params, buffers: of one run, from `init`.
      batch: inputs i32[B, T] and identifiers i32[B]; its labels are not read.
      carry: (z_H, z_L), [B, S, D] each, to start from; the initial vectors when None.
      patch: an intervention, applied after every stage; None runs the same program without.
      key: unused here; models with dropout draw from it.

    Returns:
      Output. Logits are in the compute dtype, q_logits in float32 at least; what nobody reads is
      not computed under `jit`.
    """
    del key
    dtype = jnp.dtype(config.dtype)
    embedding = _embed(config, params, batch)
    if carry is None:
        z_H, z_L = (
            jnp.broadcast_to(buffers[name].astype(dtype), embedding.shape)
            for name in ("H_init", "L_init")
        )
    else:
        z_H, z_L = (_positions_first(z).astype(dtype) for z in carry)

    rotary = _rotary(config) if config.positions == "rotary" else None
    layers = [params["layers"][str(i)] for i in range(config.num_layers)]

    def reason(z: Array, injection: Array) -> Array:
        """One level of reasoning: inject, then every block. z_H and z_L share the blocks."""
        z = z + injection
        for layer in layers:
            z = jnp.asarray(Block(config).apply({"params": layer}, z, rotary))
        return z

    states: list[tuple[Array, Array]] = []

    def end_stage(z_H, z_L, embedding):
        if patch is not None:
            z_H, z_L, embedding = _apply_patch(patch, len(states), z_H, z_L, embedding)
        states.append((z_H, z_L))
        return z_H, z_L, embedding

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
    logits = z_out[:, config.num_registers :] @ params["lm_head"].astype(dtype)
    q_head = params["q_head"]
    q_logits = z_out[:, 0] @ q_head["kernel"].astype(dtype) + q_head["bias"].astype(dtype)
    trace_H, trace_L = (
        jnp.stack(stream).transpose(0, 2, 1, 3) for stream in zip(*states, strict=True)
    )
    return Output(
        logits=logits,
        q_logits=q_logits.astype(config.param_dtype),
        carry=(z_out, _batch_first(z_L)),
        embedding=_batch_first(unpatched_embedding),
        trace=Trace(trace_H, trace_L, config.stages),
    )


def readout(config: ModelConfig, params: Params, z: Float[Array, "*B S D"]) -> Array:
    """The output head on any state, without the registers: float32 logits [*B, T, V]."""
    tokens = z[..., config.num_registers :, :].astype(config.param_dtype)
    return tokens @ params["lm_head"]


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


def _apply_patch(patch: Patch, stage: int, z_H: Array, z_L: Array, embedding: Array) -> tuple:
    def choose(mask, source, z):
        return jnp.where(mask[:, None, None], _positions_first(source).astype(z.dtype), z)

    return (
        choose(patch.z_H_mask[stage], patch.z_H[stage], z_H),
        choose(patch.z_L_mask[stage], patch.z_L[stage], z_L),
        choose(patch.embedding_mask[stage], patch.embedding, embedding),
    )


def _positions_first(x: Array) -> Array:
    return x.transpose(1, 0, 2)


def _batch_first(x: Array) -> Array:
    return x.transpose(1, 0, 2)


def _rms_norm(x: Float[Array, "S B D"], axis: int) -> Float[Array, "S B D"]:
    """Root-mean-square norm along `axis`, no learned scale, in float32 or wider."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis=axis, keepdims=True)
    return (wide * jax.lax.rsqrt(square + _NORM_EPS)).astype(x.dtype)


def _rotary(config: ModelConfig) -> tuple[Array, Array]:
    """cos and sin of the rotary angles, [S, 1, 1, head_dim], both halves alike."""
    head_dim = config.hidden_size // config.num_heads
    dtype = config.param_dtype
    frequency = _ROTARY_BASE ** (-jnp.arange(0, head_dim, 2, dtype=dtype) / head_dim)
    angle = jnp.arange(config.length, dtype=dtype)[:, None] * frequency
    angle = jnp.concatenate([angle, angle], axis=-1)[:, None, None]
    return jnp.cos(angle), jnp.sin(angle)


def _rotate(x: Float[Array, "S B H K"], rotary: tuple[Array, Array]) -> Array:
    cos, sin = rotary
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos + turned * sin).astype(x.dtype)


def _matmul(x: Float[Array, "S B I"], kernel: Float[Array, "I O"]) -> Float[Array, "S B O"]:
    """Over the last axis; flat, since XLA would transpose a twofold contraction's operands."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _matmul_first(x: Float[Array, "I B D"], kernel: Float[Array, "I O"]) -> Float[Array, "O B D"]:
    """Over the first axis."""
    return (kernel.T @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


class Attention(nn.Module):
    """Bidirectional multi-head attention without biases, [S, B, D] -> [S, B, D]."""

    num_heads: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "S B D"], rotary: tuple[Array, Array] | None) -> Array:
        s, b, d = x.shape
        heads = (s, b, self.num_heads, d // self.num_heads)

        def project(name: str, y: Array) -> Array:
            kernel = self.param(name, _linear_init, (d, d), self.param_dtype)
            return _matmul(y, kernel.astype(self.dtype))

        query, key, value = (project(n, x).reshape(heads) for n in ("query", "key", "value"))
        if rotary is not None:
            query, key = _rotate(query, rotary), _rotate(key, rotary)
        scores = jnp.einsum("sbhk,tbhk->bhst", query, key) / math.sqrt(heads[-1])
        wide = jnp.promote_types(self.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide), axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhst,tbhk->sbhk", weights, value)
        return project("out", mixed.reshape(s, b, d))


class SwiGLU(nn.Module):
    """A gated MLP along one axis of [S, B, D]: channels (-1) or positions (0)."""

    inner: int
    axis: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "S B D"]) -> Float[Array, "S B D"]:
        width = x.shape[self.axis]
        product = _matmul if self.axis == -1 else _matmul_first

        def linear(name: str, y: Array, fan_in: int, fan_out: int) -> Array:
            kernel = self.param(name, _linear_init, (fan_in, fan_out), self.param_dtype)
            return product(y, kernel.astype(self.dtype))

        gate = linear("gate", x, width, self.inner)
        up = linear("up", x, width, self.inner)
        return linear("down", jax.nn.silu(gate) * up, self.inner, width)


class Block(nn.Module):
    """Post-norm: mix positions, then channels, each `rms_norm(x + f(x))`. [S, B, D] throughout."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "S B D"], rotary: tuple[Array, Array] | None = None):
        c = self.config
        types = {"dtype": jnp.dtype(c.dtype), "param_dtype": c.param_dtype}
        if c.mixer == "mlp":
            mixer = SwiGLU(c.inner_size(c.length), axis=0, name="mixer", **types)
            x = _rms_norm(x + mixer(x), axis=0)
        else:
            attention = Attention(c.num_heads, name="attention", **types)
            x = _rms_norm(x + attention(x, rotary), axis=-1)
        mlp = SwiGLU(c.inner_size(c.hidden_size), axis=-1, name="mlp", **types)
        return _rms_norm(x + mlp(x), axis=-1)
