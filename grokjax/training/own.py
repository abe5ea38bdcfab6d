"""Schedules, optimisers and metrics of people's own files, as training and evaluation call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from grokjax.data.dataset import Batch
from grokjax.model import Output
from grokjax.settings.own_functions import is_own, own_function, own_name, telling, values_of

METRICS = "evaluate.metrics"
Metric = Callable[[Output, Batch, Array], Float[Array, " B"]]


def own_schedule(setting: str, value: str, h: Any) -> optax.Schedule:
    """A factor by the number of updates before: the file's `NAME(count, h)`."""
    factor = own_function(setting, value, ("count", "h"))
    return lambda count: factor(count, h)


def own_moments(value: str, h: Any) -> optax.GradientTransformation:
    """What turns a gradient into a step, before decay and rate: the file's `NAME(h)`."""
    made = own_function("optimizer.name", value, ("h",))(h)

    def init(params: Any) -> Any:
        with telling("optimizer.name", value):
            return made.init(params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        with telling("optimizer.name", value):
            return made.update(grads, state, params)

    return optax.GradientTransformation(init, update)


def metrics(value: str) -> dict[str, Metric]:
    """The functions that `evaluate.metrics` names, by the names of their columns."""
    return {
        own_name(part): own_function(METRICS, part, ("output", "batch", "query"))
        if is_own(part)
        else _OURS[part]
        for part in values_of(value)
    }


def answer_logits(output: Output, batch: Batch) -> Float[Array, "B V"]:
    """Where each query is answered."""
    place = batch.answer_position[:, None, None]
    return jnp.take_along_axis(output.logits, place, axis=1)[:, 0].astype(jnp.float32)


def answer_log_probability(
    output: Output, batch: Batch, query: Int[Array, "B C"]
) -> Float[Array, " B"]:
    """Of the right answer, in nats."""
    log_probabilities = jax.nn.log_softmax(answer_logits(output, batch))
    answer = query[:, -1, None].astype(jnp.int32)
    return jnp.take_along_axis(log_probabilities, answer, axis=1)[:, 0]


def answer_rank(output: Output, batch: Batch, query: Int[Array, "B C"]) -> Float[Array, " B"]:
    """How many tokens come before the right answer: 0 is right."""
    logits = answer_logits(output, batch)
    own = jnp.take_along_axis(logits, query[:, -1, None].astype(jnp.int32), axis=1)
    return jnp.sum(logits > own, axis=1).astype(jnp.float32)


_OURS: dict[str, Metric] = {
    "answer_log_probability": answer_log_probability,
    "answer_rank": answer_rank,
}
