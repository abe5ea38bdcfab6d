"""Losses and exactness of a batch of predictions. Labels: PAD (0) and negative ids are ignored."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def log_stablemax(x: Float[Array, "*B V"]) -> Float[Array, "*B V"]:
    """log(s(x) / sum s(x)), s(x) = x + 1 for x >= 0 and 1 / (1 - x) below (arXiv 2501.04697).

    Written as log-softmax of log s, which float32 can carry. Both branches of the choice get a
    harmless argument where they are not taken: otherwise the gradient is NaN at x = 1.
    """
    positive = x >= 0
    above = jnp.log1p(jnp.where(positive, x, 0.0))
    below = -jnp.log1p(jnp.where(positive, 0.0, -x))
    return jax.nn.log_softmax(jnp.where(positive, above, below), axis=-1)


LOG_PROBABILITIES = {"stablemax": log_stablemax, "softmax": jax.nn.log_softmax}


def token_losses(
    kind: str, logits: Float[Array, "*B T V"], labels: Int[Array, "*B T"]
) -> Float[Array, "*B T"]:
    """Cross-entropy of each position, 0 where the label is ignored; float32 or wider."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_p = LOG_PROBABILITIES[kind](wide)
    # No gather: its gradient would be a scatter into an array of zeros.
    is_label = jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool)
    return jnp.where(labels > 0, -jnp.sum(jnp.where(is_label, log_p, 0.0), axis=-1), 0.0)


def sequence_losses(
    kind: str, logits: Float[Array, "*B T V"], labels: Int[Array, "*B T"]
) -> Float[Array, "*B"]:
    """The mean over each sequence's own labels; 0 for a sequence without any."""
    count = jnp.maximum(jnp.sum(labels > 0, axis=-1), 1)
    return jnp.sum(token_losses(kind, logits, labels), axis=-1) / count


def answer_labels(labels: Int[Array, "B T"], answer_position: Int[Array, " B"]) -> Array:
    """Labels from the answer on; what comes before is ignored."""
    return jnp.where(jnp.arange(labels.shape[1])[None] >= answer_position[:, None], labels, 0)


def sequences_correct(
    logits: Float[Array, "*B T V"], labels: Int[Array, "*B T"]
) -> Bool[Array, "*B"]:
    """Whether every label of a sequence is the argmax; true for a sequence without any."""
    return jnp.all((jnp.argmax(logits, axis=-1) == labels) | (labels <= 0), axis=-1)


def halting_losses(q_halt: Float[Array, "*B"], correct: Bool[Array, "*B"]) -> Float[Array, "*B"]:
    """Binary cross-entropy of the halting logit against `the whole sequence is correct`."""
    return jax.nn.softplus(jnp.where(correct, -q_halt, q_halt))
