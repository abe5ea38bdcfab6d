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

from grokjax.model.gated_mlp import gated_mlp
from grokjax.model.types import Layout, ModelConfig

# (component, state) -> state: looks at a state in passing, and may change it.
Tap = Callable[[str, Array], Array]

_NORM_EPS = 1e-5
_ROTARY_BASE = 10000.0
CHANNELS = 128  # of a block; a TPU's lanes

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
    layout: Layout
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "S B D"], rotary: tuple[Array, Array] | None, tap: Tap
    ) -> Array:
        d, flat = x.shape[-1], self.layout.flat
        query, key, value, out = (
            self.param(name, linear_init, (d, d), self.param_dtype).astype(self.dtype)
            for name in ("query", "key", "value", "out")
        )
        if self.layout.attention == "columns":
            return self._in_columns(x, (query, key, value), out, tap)
        heads = (self.num_heads, d // self.num_heads)
        if self.layout.attention == "rows":
            joint = _matmul(x, jnp.concatenate([query, key, value], axis=1), flat)
            joint = joint.reshape(*x.shape[:2], 3, *heads)
            # Slices, whose gradients XLA adds within a kernel: those of a split it concatenates.
            q, k, v = (joint[:, :, i] for i in range(3))
        else:
            q, k, v = (
                _matmul(x, kernel, flat).reshape(*x.shape[:2], *heads)
                for kernel in (query, key, value)
            )
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        attend = self._by_rows if self.layout.attention == "rows" else self._by_products
        return _matmul(tap("heads", attend(q, k, v)).reshape(x.shape), out, flat)

    def _by_products(
        self, q: Float[Array, "S B H K"], k: Float[Array, "S B H K"], v: Float[Array, "S B H K"]
    ) -> Float[Array, "S B H K"]:
        scores = jnp.einsum("sbhk,tbhk->bhst", q, k)
        return jnp.einsum("bhst,tbhk->sbhk", self._weights(scores, q.shape[-1], axis=-1), v)

    def _by_rows(
        self, q: Float[Array, "S B H K"], k: Float[Array, "S B H K"], v: Float[Array, "S B H K"]
    ) -> Float[Array, "S B H K"]:
        """Few positions make products too small: their sums are fused with what is around them."""
        scores = _sum_of_products(q[:, None], k[None], axis=-1)  # [S, T, B, H]
        weights = self._weights(scores, q.shape[-1], axis=1)
        return _sum_of_products(weights[..., None], v[None], axis=1)

    def _in_columns(
        self,
        x: Float[Array, "S B D"],
        kernels: tuple[Float[Array, "D D"], ...],
        out: Float[Array, "D D"],
        tap: Tap,
    ) -> Float[Array, "S B D"]:
        """The same on [H, K, S, B]: a TPU has 128 lanes, heads are narrower than a batch."""
        s, b, d = x.shape
        heads = (self.num_heads, d // self.num_heads, s, b)
        rows = x.reshape(-1, d)  # a product that turns its result by itself costs more
        query, key, value = ((rows @ kernel).T.reshape(heads) for kernel in kernels)
        scores = _sum_of_products(query[:, :, :, None], key[:, :, None], axis=1)  # [H, S, T, B]
        weights = self._weights(scores, query.shape[1], axis=2)
        mixed = _sum_of_products(weights[:, None], value[:, :, None], axis=3)  # [H, K, S, B]
        mixed = tap("heads", mixed.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)
        return (mixed.reshape(d, -1).T @ out).reshape(x.shape)

    def _weights(self, scores: Array, head_dim: int, axis: int) -> Array:
        wide = jnp.promote_types(self.dtype, jnp.float32)
        scaled = scores / math.sqrt(head_dim)
        return jax.nn.softmax(scaled.astype(wide), axis=axis).astype(self.dtype)


def _sum_of_products(x: Array, y: Array, axis: int) -> Array:
    """Summed in float32 or wider, as products are; in the dtype of x."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.sum(x.astype(wide) * y.astype(wide), axis=axis).astype(x.dtype)


class SwiGLU(nn.Module):
    """A gated MLP along one axis of [S, B, D]: channels (-1) or positions (0)."""

    inner: int
    axis: int
    layout: Layout
    precision: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "S B D"]) -> Float[Array, "S B D"]:
        width = x.shape[self.axis]
        shapes = {
            "gate": (width, self.inner), "up": (width, self.inner), "down": (self.inner, width)
        }  # fmt: skip
        gate, up, down = (
            self.param(name, linear_init, shape, self.param_dtype).astype(self.dtype)
            for name, shape in shapes.items()
        )
        how = self.layout.mlp if self.axis else self.layout.mixer
        if how == "kernel":
            return gated_mlp(
                x, gate, up, down, self.axis, self.precision, interpret=self.layout.interpret
            )
        product = _matmul if self.axis == -1 else _matmul_first

        def plain(y: Array) -> Array:
            if self.axis == -1 and self.layout.flat:
                # Rows throughout: a TPU fills its lanes with those of all positions.
                rows = y.reshape(-1, width)
                return (_gated(rows @ gate, rows @ up) @ down).reshape(y.shape)
            both = (product(y, kernel, self.layout.flat) for kernel in (gate, up))
            return product(_gated(*both), down, self.layout.flat)

        return _by_blocks(plain, x) if how == "blocks" else plain(x)


def _gated(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate) * up


def _by_blocks(function: Callable[[Array], Array], x: Float[Array, "S B D"]) -> Array:
    """A function of each channel, of `CHANNELS` at a time; the backward pass computes it anew.

    Of a batch that devices share each has its own queries, but all channels.
    """
    s, b, d = x.shape
    parts = jnp.moveaxis(x.reshape(s, b, d // CHANNELS, CHANNELS), 2, 0)
    done = jax.lax.map(jax.checkpoint(function), parts)
    return jnp.moveaxis(done, 0, 2).reshape(s, b, d)


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
        types["layout"] = c.layout
        if c.mixer == "mlp":
            mixer = SwiGLU(c.inner_size(c.length), 0, precision=c.precision, name="mixer", **types)
            x = rms_norm(x + tap("mixer", mixer(x)), axis=0)
        else:
            attention = Attention(c.num_heads, name="attention", **types)
            x = rms_norm(x + tap("mixer", attention(x, rotary, tap)), axis=-1)
        mlp = SwiGLU(c.inner_size(c.hidden_size), -1, precision=c.precision, name="mlp", **types)
        return rms_norm(x + tap("mlp", mlp(x)), axis=-1)
