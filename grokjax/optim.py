"""Optimisers, built inside the step from traced numbers: each run of a population has its own."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from grokjax.model import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """One run's numbers, a scalar each ([R] in a population)."""

    learning_rate: Float[Array, ""]
    warmup_steps: Float[Array, ""]
    weight_decay: Float[Array, ""]
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    eps: Float[Array, ""]
    register_learning_rate: Float[Array, ""]
    register_weight_decay: Float[Array, ""]
    ema_rate: Float[Array, ""]


HYPERPARAMETERS = tuple(field.name for field in dataclasses.fields(Hyperparameters))


def make_optimizer(h: Hyperparameters) -> optax.GradientTransformationExtraArgs:
    """The study's optimiser: AdamW with linear warm-up; sign-SGD for the registers.

    Weight decay is decoupled and touches every parameter, biases and embeddings included. The
    update takes `present`, bool[num_identifiers]: identifiers that the batch holds.
    """
    return optax.partition(
        {
            "network": optax.adamw(
                warmup(h.learning_rate, h.warmup_steps),
                b1=h.beta1,  # type: ignore[arg-type]
                b2=h.beta2,  # type: ignore[arg-type]
                eps=h.eps,  # type: ignore[arg-type]
                weight_decay=h.weight_decay,  # type: ignore[arg-type]
            ),
            "registers": sign_sgd(
                warmup(h.register_learning_rate, h.warmup_steps), h.register_weight_decay
            ),
        },
        lambda params: {name: "registers" if name == "registers" else "network" for name in params},
    )


def warmup(peak: Float[Array, ""], steps: Float[Array, ""]) -> optax.Schedule:
    """Linear warm-up, then constant: the n-th update, counted from 1, uses peak * n / steps."""
    return lambda count: peak * jnp.minimum((count + 1) / jnp.maximum(steps, 1), 1)


class SignSGDState(NamedTuple):
    num_updates: Array


def sign_sgd(
    learning_rate: optax.Schedule, weight_decay: Float[Array, ""]
) -> optax.GradientTransformationExtraArgs:
    """p <- p (1 - lr wd) - lr sign(g), on rows of identifiers in the batch only."""

    def init(params):
        del params
        return SignSGDState(jnp.zeros((), jnp.int32))

    def update(grads, state, params, *, present: Bool[Array, num_identifiers], **_):
        rate = learning_rate(state.num_updates)

        def step(grad, param):
            delta = -rate * (weight_decay * param + jnp.sign(grad))
            return jnp.where(present[:, None], delta, 0.0)

        return jax.tree.map(step, grads, params), SignSGDState(state.num_updates + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def update_ema(rate: Float[Array, ""], ema: Params, params: Params) -> Params:
    """Exponential moving average of every parameter; the registers keep their raw values."""
    averaged = jax.tree.map(lambda e, p: rate * e + (1 - rate) * p, ema, params)
    if "registers" in params:
        averaged["registers"] = params["registers"]
    return averaged
