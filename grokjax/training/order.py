"""The order of training items: a keyed permutation computed on the fly.

Every epoch visits every item of a run exactly once, in an order of its own, for any traced number
of items: a Feistel network permutes the smallest power of two that holds them, and positions that
land outside walk on until they are inside. No sort, no stored permutation, no branch per epoch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

_ROUNDS = 6  # even, so that the two halves end with the widths they started with
# Over half of the places are inside, so that one in 2**64 walks would be longer. A loop that ends
# when all are inside would have no length that a compiler knows: a GPU asks its host after each.
_WALKS = 64


def batch_indices(
    key: Array, step: Int[Array, ""], batch_size: int, size: Int[Array, ""]
) -> Int[Array, " B"]:
    """Items of the batch that step `step` (from 0) trains on. A batch may straddle epochs.

    Args:
      key: a typed key; another key gives other orders.
      step: optimiser step.
      batch_size: B; `batch_size * size` must stay below 2**32.
      size: number of items of this run, at least 1; may be traced.
    """
    size = size.astype(jnp.uint32)
    step = step.astype(jnp.uint32)
    # step * B + i, divided by size without ever leaving 32 bits.
    offset = (step % size) * batch_size + jnp.arange(batch_size, dtype=jnp.uint32)
    return items_at(key, (step // size) * batch_size, offset, size)


def items_at(
    key: Array, epoch: UInt32[Array, ""], offset: UInt32[Array, " B"], size: UInt32[Array, ""]
) -> Int[Array, " B"]:
    """Items `offset` places after the start of an epoch, which may be in a later one."""
    round_keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)
    items = permute(round_keys, epoch + offset // size, offset % size, size)
    return items.astype(jnp.int32)


def permute(
    round_keys: UInt32[Array, " R"],
    epoch: UInt32[Array, " B"],
    position: UInt32[Array, " B"],
    size: UInt32[Array, ""],
) -> UInt32[Array, " B"]:
    """Position -> item: for each epoch a bijection of 0..size-1."""
    # The smallest power of two that holds them all; it has a bit or more for either half.
    bits = jnp.maximum(32 - jax.lax.clz(size - 1), 2)
    # The epoch goes into every round's key, so that each epoch has an order of its own.
    tweaks = [
        _mix(key ^ _mix(epoch + jnp.uint32(0x9E3779B9 * (i + 1) & 0xFFFFFFFF)))
        for i, key in enumerate(round_keys)
    ]

    def network(x):
        low = bits - bits // 2
        high = bits // 2
        left, right = x >> low, x & _mask(low)
        for tweak in tweaks:
            left, right = right, left ^ (_mix(right ^ tweak) & _mask(high))
            low, high = high, low
        return (left << low) | right

    # Cycle-walking: the network permutes the whole power of two, so whoever lands outside and goes
    # on from there comes back inside, each to an item of its own.
    def walk(_, x):
        return jnp.where(x >= size, network(x), x)

    return jax.lax.fori_loop(0, _WALKS, walk, network(position))


def _mask(bits: Array) -> Array:
    return (jnp.uint32(1) << bits) - jnp.uint32(1)


def _mix(x: Array) -> Array:
    """A 32-bit finaliser (murmur3's): every input bit reaches every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
