"""Deep supervision: a sequence stays for several steps, its state carried over, until it halts.

Of every batch row the state after a step goes on, detached, into the next; a row that has halted
starts anew with the next training item. With one step (the study's) none of this exists.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int16, UInt32

from grokjax.data.dataset import QueryTable
from grokjax.model import Buffers, ModelConfig, initial_carry
from grokjax.training.order import items_at

_EXPLORATION = 2  # folded into a run's key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Halting:
    """The sequences of a batch and how far each has come."""

    states: tuple[Float[Array, "B S D"], Float[Array, "B S D"]]
    query: Int16[Array, "B C"]
    steps: Int[Array, " B"]
    halted: Bool[Array, " B"]
    epoch: UInt32[Array, ""]  # of the next item to be drawn
    offset: UInt32[Array, ""]


def first_halting(config: ModelConfig, buffers: Buffers, batch_size: int) -> Halting:
    """Before the first step: every row waits for an item."""
    return Halting(
        states=initial_carry(config, buffers, batch_size),
        query=jnp.zeros((batch_size, config.seq_len - 1), jnp.int16),
        steps=jnp.zeros(batch_size, jnp.int32),
        halted=jnp.ones(batch_size, bool),
        epoch=jnp.zeros((), jnp.uint32),
        offset=jnp.zeros((), jnp.uint32),
    )


def continue_or_replace(
    config: ModelConfig, buffers: Buffers, carry: Halting, key: Array, table: QueryTable
) -> Halting:
    """Rows that halted get the next items, in the run's order; none is skipped or repeated."""
    size = jnp.asarray(table.size).astype(jnp.uint32)
    rank = jnp.cumsum(carry.halted).astype(jnp.uint32) - 1
    items = items_at(key, carry.epoch, carry.offset + rank, size)
    drawn = carry.offset + jnp.sum(carry.halted).astype(jnp.uint32)
    fresh = initial_carry(config, buffers, len(carry.steps))
    halted = carry.halted[:, None]
    z_H, z_L = (
        jnp.where(halted[..., None], new, old) for new, old in zip(fresh, carry.states, strict=True)
    )
    return Halting(
        states=(z_H, z_L),
        query=jnp.where(halted, table.query[items], carry.query),
        steps=jnp.where(carry.halted, 0, carry.steps),
        halted=jnp.zeros_like(carry.halted),
        epoch=carry.epoch + drawn // size,
        offset=drawn % size,
    )


def halt(
    config: ModelConfig,
    going: Halting,
    q_logits: Float[Array, "B 2"],
    states: tuple[Array, Array],
    key: Array,
    step: Int[Array, ""] | int,
) -> Halting:
    """After a step: at the last one, or when the model says so and exploration lets it.

    Exploration: with probability `halt_exploration` a sequence may not halt before a step drawn
    from 2..halt_max_steps.
    """
    now = jax.random.fold_in(jax.random.fold_in(key, _EXPLORATION), step)
    explore_key, least_key = jax.random.split(now)
    shape = going.steps.shape
    explores = jax.random.uniform(explore_key, shape) < config.halt_exploration
    least = jax.random.randint(least_key, shape, 2, config.halt_max_steps + 1)
    steps = going.steps + 1
    wants = (q_logits[:, 0] > 0) & (steps >= jnp.where(explores, least, 0))
    z_H, z_L = jax.lax.stop_gradient(states)
    return dataclasses.replace(
        going, states=(z_H, z_L), steps=steps, halted=wants | (steps >= config.halt_max_steps)
    )
