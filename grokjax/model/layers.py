"""Layers of the recursive model, on states laid out [S, B, D], positions first.

Mixing across positions and across channels are then plain matrix products and no transpose is ever
needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grokjax.model.types import ModelConfig

# (component, state) -> state: looks at a state in passing, and may change it.
Tap = Callable[[str, Array], Array]

_NORM_EPS = 1e-5
_ROTARY_BASE = 10000.0

_unit_variance = jax.nn.initializers.variance_scaling  # truncated at 2 sigma, deviation corrected
linear_init = _unit_variance(1.0, "fan_in", "truncated_normal")
embedding_init = _unit_variance(1.0, "fan_out", "truncated_normal")


def untapped(component: str, x: Array) -> Array:
    """The tap of a pass that nobody looks into."""
    return x


def rms_norm(x: Float[Array, "S B D"], axis: int) -> Float[Array, "S B D"]:
    """Root-mean-square norm along `axis`, no learned scale, in float32 or wider."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis=axis, keepdims=True)
    return (wide * jax.lax.rsqrt(square + _NORM_EPS)).astype(x.dtype)


def rotary_angles(config: ModelConfig) -> tuple[Array, Array]:
    """cos and sin of the rotary angles, [S, 1, 1, head_dim], both halves alike."""
    head_dim = config.hidden_size // config.num_heads
    dtype = config.param_dtype
    frequency = _ROTARY_BASE ** (-jnp.arange(0, head_dim, 2, dtype=dtype) / head_dim)
    angle = jnp.arange(config.length, dtype=dtype)[:, None] * frequency[None]
    angle = jnp.concatenate([angle, angle], axis=-1)[:, None, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "S B H K"], rotary: tuple[Array, Array]) -> Array:
    cos, sin = rotary
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos + turned * sin).astype(x.dtype)


# A batch that devices share must not be flattened with its neighbours: no part of the product is
# then one device's, so each gathers the whole and computes all of it (paper's model on four v5e:
# 23.1 TFLOP a step on each, 6.05 unflattened). Elsewhere flat is as good or better: on a CPU XLA
# transposes the operands of a twofold contraction, on an H200 64 quickstart runs move 5 % less.


def _matmul(
    x: Float[Array, "S B I"], kernel: Float[Array, "I O"], flat: bool
) -> Float[Array, "S B O"]:
    """Over the last axis."""
    if not flat:
        return jnp.einsum("sbi,io->sbo", x, kernel)
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _matmul_first(
    x: Float[Array, "I B D"], kernel: Float[Array, "I O"], flat: bool
) -> Float[Array, "O B D"]:
    """Over the first axis."""
    if not flat:
        return jnp.einsum("ibd,io->obd", x, kernel)
    return (kernel.T @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


class Attention(nn.Module):
    """Bidirectional multi-head attention without biases, [S, B, D] -> [S, B, D]."""

    num_heads: int
    flat: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "S B D"], rotary: tuple[Array, Array] | None, tap: Tap
    ) -> Array:
        s, b, d = x.shape
        heads = (s, b, self.num_heads, d // self.num_heads)

        def project(name: str, y: Array) -> Array:
            kernel = self.param(name, linear_init, (d, d), self.param_dtype)
            return _matmul(y, kernel.astype(self.dtype), self.flat)

        query, key, value = (project(n, x).reshape(heads) for n in ("query", "key", "value"))
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        scores = jnp.einsum("sbhk,tbhk->bhst", query, key) / math.sqrt(heads[-1])
        wide = jnp.promote_types(self.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide), axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhst,tbhk->sbhk", weights, value)
        return project("out", tap("heads", mixed).reshape(s, b, d))


class SwiGLU(nn.Module):
    """A gated MLP along one axis of [S, B, D]: channels (-1) or positions (0)."""

    inner: int
    axis: int
    flat: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "S B D"]) -> Float[Array, "S B D"]:
        width = x.shape[self.axis]
        product = _matmul if self.axis == -1 else _matmul_first

        def linear(name: str, y: Array, fan_in: int, fan_out: int) -> Array:
            kernel = self.param(name, linear_init, (fan_in, fan_out), self.param_dtype)
            return product(y, kernel.astype(self.dtype), self.flat)

        gate = linear("gate", x, width, self.inner)
        up = linear("up", x, width, self.inner)
        return linear("down", jax.nn.silu(gate) * up, self.inner, width)


class Block(nn.Module):
    """Post-norm: mix positions, then channels, each `rms_norm(x + f(x))`. [S, B, D] throughout."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "S B D"],
        rotary: tuple[Array, Array] | None = None,
        tap: Tap = untapped,
    ):
        c = self.config
        types: Any = {"dtype": jnp.dtype(c.dtype), "param_dtype": c.param_dtype}
        types["flat"] = not c.split_batch
        if c.mixer == "mlp":
            mixer = SwiGLU(c.inner_size(c.length), axis=0, name="mixer", **types)
            x = rms_norm(x + tap("mixer", mixer(x)), axis=0)
        else:
            attention = Attention(c.num_heads, name="attention", **types)
            x = rms_norm(x + tap("mixer", attention(x, rotary, tap)), axis=-1)
        mlp = SwiGLU(c.inner_size(c.hidden_size), axis=-1, name="mlp", **types)
        return rms_norm(x + tap("mlp", mlp(x)), axis=-1)
