"""A gated MLP in one kernel (Pallas, Triton): its inner activations never reach a GPU's memory.

`down(silu(gate(x)) * up(x))` along one axis of [S, B, D]. Where that axis is narrow, the inner
arrays are most of what XLA's program writes and reads: for the paper's token mixer, 21 numbers
through 256 and back, twelve times its input. The backward pass starts from the input again.

Each program takes a few columns (one column: the axis' numbers at one place of the other two axes)
through the inner width in pieces. What a kernel computes is invisible to XLA; `metadata` tells it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array, Float

_PIECE = 64  # of the inner width at once
_MIN_DOT = 16  # Triton's smallest matrix


class Shape(NamedTuple):
    """How a kernel sees its input.

    width: W, of the axis. inner: I. columns: N. first: whether x is [W, N], or [N, W].
    """

    width: int
    inner: int
    columns: int
    first: bool
    precision: str
    interpret: bool

    @property
    def padded(self) -> int:
        return max(pl.next_power_of_2(self.width), _MIN_DOT)

    @property
    def piece(self) -> int:
        """Of the inner width at once."""
        return min(_PIECE, max(pl.next_power_of_2(self.inner), _MIN_DOT))

    @property
    def num_pieces(self) -> int:
        return pl.cdiv(self.inner, self.piece)

    @property
    def tile(self) -> int:
        """Columns of one program."""
        return 64 if self.padded >= 64 else 128

    @property
    def num_tiles(self) -> int:
        return pl.cdiv(self.columns, self.tile)

    @property
    def splits(self) -> int:
        """Programs that share the sum over columns in the gradient of the weights."""
        return min(64, pl.cdiv(self.num_tiles, 8))


class _Tiles:
    """Loads and stores parts of arrays; what lies outside of them is 0 and is not written."""

    def __init__(self, s: Shape):
        self.s = s
        self.rows = jnp.arange(s.padded)

    def columns(self, tile: Array) -> Array:
        return tile * self.s.tile + jnp.arange(self.s.tile)

    def x(self, ref: Any, columns: Array) -> Array:
        """[padded, tile] of x."""
        at, mask = self._x_at(columns)
        return plt.load(ref.at[at], mask=mask, other=0)

    def store_x(self, ref: Any, columns: Array, value: Array) -> None:
        at, mask = self._x_at(columns)
        plt.store(ref.at[at], value.astype(ref.dtype), mask=mask)

    def weight(self, ref: Any, piece: Array) -> Array:
        """[piece, padded] of gate or up (stored [W, I])."""
        i = self._inner(piece)
        mask = (i < self.s.inner)[:, None] & (self.rows < self.s.width)[None]
        return plt.load(ref.at[self.rows[None], i[:, None]], mask=mask, other=0)

    def down(self, ref: Any, piece: Array) -> Array:
        """[piece, padded] of down (stored [I, W])."""
        i = self._inner(piece)
        mask = (i < self.s.inner)[:, None] & (self.rows < self.s.width)[None]
        return plt.load(ref.at[i[:, None], self.rows[None]], mask=mask, other=0)

    def _inner(self, piece: Array) -> Array:
        return piece * self.s.piece + jnp.arange(self.s.piece)

    def _x_at(self, columns: Array) -> tuple[tuple[Array, Array], Array]:
        w, n = self.rows[:, None], columns[None]
        mask = (w < self.s.width) & (n < self.s.columns)
        return ((w, n) if self.s.first else (n, w)), mask


def _dot(a: Array, b: Array, s: Shape) -> Array:
    return jnp.dot(a, b, precision=s.precision, preferred_element_type=jnp.float32)


def _forward_kernel(s: Shape, x_ref, gate_ref, up_ref, down_ref, y_ref):
    tiles = _Tiles(s)
    columns = tiles.columns(pl.program_id(0))
    x = tiles.x(x_ref, columns)

    def step(piece, y):
        gate = _dot(tiles.weight(gate_ref, piece), x, s)
        up = _dot(tiles.weight(up_ref, piece), x, s)
        inner = (jax.nn.silu(gate) * up).astype(x.dtype)
        return y + _dot(tiles.down(down_ref, piece).T, inner, s)

    zero = jnp.zeros((s.padded, s.tile), jnp.float32)
    tiles.store_x(y_ref, columns, jax.lax.fori_loop(0, s.num_pieces, step, zero))


def _inner_gradients(gate: Array, up: Array, d_inner: Array) -> tuple[Array, Array]:
    """Of gate and up, from that of silu(gate) * up."""
    share = jax.nn.sigmoid(gate)
    silu = gate * share
    return d_inner * up * (share + silu * (1 - share)), d_inner * silu


def _input_kernel(s: Shape, x_ref, dy_ref, gate_ref, up_ref, down_ref, dx_ref):
    tiles = _Tiles(s)
    columns = tiles.columns(pl.program_id(0))
    x, dy = tiles.x(x_ref, columns), tiles.x(dy_ref, columns)

    def step(piece, dx):
        gate_kernel, up_kernel = tiles.weight(gate_ref, piece), tiles.weight(up_ref, piece)
        d_inner = _dot(tiles.down(down_ref, piece), dy, s)
        d_gate, d_up = _inner_gradients(_dot(gate_kernel, x, s), _dot(up_kernel, x, s), d_inner)
        dx += _dot(gate_kernel.T, d_gate.astype(x.dtype), s)
        return dx + _dot(up_kernel.T, d_up.astype(x.dtype), s)

    zero = jnp.zeros((s.padded, s.tile), jnp.float32)
    tiles.store_x(dx_ref, columns, jax.lax.fori_loop(0, s.num_pieces, step, zero))


def _weights_kernel(s: Shape, x_ref, dy_ref, gate_ref, up_ref, down_ref, *sum_refs):
    """Of one piece of the inner width and one share of the columns; sums have padded widths."""
    tiles = _Tiles(s)
    piece, split = pl.program_id(0), pl.program_id(1)
    gate_kernel, up_kernel = tiles.weight(gate_ref, piece), tiles.weight(up_ref, piece)
    down_kernel = tiles.down(down_ref, piece)

    def step(i, sums):
        columns = tiles.columns(split + i * s.splits)
        x, dy = tiles.x(x_ref, columns), tiles.x(dy_ref, columns)
        gate, up = _dot(gate_kernel, x, s), _dot(up_kernel, x, s)
        d_gate, d_up = _inner_gradients(gate, up, _dot(down_kernel, dy, s))
        inner = (jax.nn.silu(gate) * up).astype(x.dtype)
        parts = ((d_gate.astype(x.dtype), x), (d_up.astype(x.dtype), x), (inner, dy))
        return tuple(
            total + _dot(left, right.T, s) for total, (left, right) in zip(sums, parts, strict=True)
        )

    zeros = (jnp.zeros((s.piece, s.padded), jnp.float32),) * 3
    sums = jax.lax.fori_loop(0, pl.cdiv(s.num_tiles, s.splits), step, zeros)
    inner = pl.ds(piece * s.piece, s.piece)
    for ref, total in zip(sum_refs[:2], sums[:2], strict=True):
        plt.store(ref.at[split, :, inner], total.T)
    plt.store(sum_refs[2].at[split, inner, :], sums[2])


def _call(
    kernel: Callable, s: Shape, grid: tuple[int, ...], out: Any, products: int, *arrays: Array
) -> Any:
    flops = 2 * products * s.width * s.inner * s.columns // math.prod(grid)
    return pl.pallas_call(
        functools.partial(kernel, s),
        out_shape=out,
        grid=grid,
        interpret=s.interpret,
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=2),
        metadata={"flops_of_a_program": str(flops)},
        name=kernel.__name__.strip("_"),
    )(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _columns(s: Shape, x: Array, gate: Array, up: Array, down: Array) -> Array:
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return _call(_forward_kernel, s, (s.num_tiles,), out, 3, x, gate, up, down)


def _columns_forward(s, x, gate, up, down):
    return _columns(s, x, gate, up, down), (x, gate, up, down)


def _columns_backward(s, saved, dy):
    x, gate, up, down = saved
    arrays = (x, dy, gate, up, down)
    dx = _call(_input_kernel, s, (s.num_tiles,), jax.ShapeDtypeStruct(x.shape, x.dtype), 5, *arrays)
    inner = s.num_pieces * s.piece
    d_gate, d_up, d_down = (
        jax.ShapeDtypeStruct((s.splits, *shape), jnp.float32)
        for shape in ((s.padded, inner), (s.padded, inner), (inner, s.padded))
    )
    grid = (s.num_pieces, s.splits)
    sums = _call(_weights_kernel, s, grid, (d_gate, d_up, d_down), 6, *arrays)
    totals = (
        jnp.sum(of, axis=0)[: like.shape[0], : like.shape[1]].astype(like.dtype)
        for of, like in zip(sums, (gate, up, down), strict=True)
    )
    return dx, *totals


_columns.defvjp(_columns_forward, _columns_backward)


def gated_mlp(
    x: Float[Array, "S B D"],
    gate: Float[Array, "W I"],
    up: Float[Array, "W I"],
    down: Float[Array, "I W"],
    axis: int,
    precision: str = "highest",
    interpret: bool = False,
) -> Float[Array, "S B D"]:
    """`down(silu(gate(x)) * up(x))` along axis 0 or -1 of x, in one kernel on a GPU.

    Sums are float32; inner values are rounded to x's type where they enter a product.
    """
    first = axis == 0
    width = x.shape[axis]
    flat = x.reshape((width, -1) if first else (-1, width))
    s = Shape(width, gate.shape[1], flat.shape[1 if first else 0], first, precision, interpret)
    return _columns(s, flat, gate, up, down).reshape(x.shape)
