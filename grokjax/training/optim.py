"""Optimisers, built inside the step from traced numbers: each run of a population has its own.

A network's gradient passes Grokfast's filter, clipping and OrthoGrad, in this order and each of
them off unless asked for, then Adam's moments (AdamW or Adam-atan2), decoupled weight decay and the
learning rate. Registers have sign-SGD.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from grokjax.model import Params
from grokjax.settings.own_functions import is_own
from grokjax.training.own import own_moments, own_schedule

ATAN2_SCALE = 4 / math.pi  # a, so that a constant gradient moves by the learning rate
_TINY = 1e-30  # OrthoGrad's guard against weights, or gradients, of zero

Number = Float[Array, "*R"] | float  # one run's, or those of a population's R


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What shapes the update; one per population."""

    name: str = "adamw"
    schedule: str = "constant"
    weight_decay_schedule: str = "constant"
    # Whether any run uses them; what no run uses costs neither memory nor time.
    grokfast: bool = False
    clip: bool = False
    orthograd: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """One run's numbers, a scalar each ([R] in a population)."""

    learning_rate: Number
    warmup_steps: Number
    weight_decay: Number
    beta1: Number
    beta2: Number
    eps: Number
    register_learning_rate: Number
    register_weight_decay: Number
    ema_rate: Number
    # What the study does without.
    warmup_start: Number = 1.0
    decay_steps: Number = 0.0
    decay_vectors: Number = 1.0
    clip_norm: Number = math.inf
    grokfast_alpha: Number = 0.98
    grokfast_lambda: Number = 0.0
    orthograd: Number = 0.0


HYPERPARAMETERS = tuple(field.name for field in dataclasses.fields(Hyperparameters))


def make_optimizer(
    config: OptimizerConfig, h: Hyperparameters
) -> optax.GradientTransformationExtraArgs:
    """One run's optimiser.

    Weight decay is decoupled and touches every parameter, embeddings included (biases and norms too
    unless `decay_vectors` is off). The update takes `present`, bool[num_identifiers]: identifiers
    that the batch holds.
    """
    network = optax.chain(
        *([grokfast(h.grokfast_alpha, h.grokfast_lambda)] if config.grokfast else []),
        *([optax.clip_by_global_norm(h.clip_norm)] if config.clip else []),  # type: ignore[arg-type]
        *([orthograd(jnp.asarray(h.orthograd) > 0)] if config.orthograd else []),
        moments(config.name, h),
        decay_weights(
            lambda n: h.weight_decay * schedule(config.weight_decay_schedule, h)(n), h.decay_vectors
        ),
        optax.scale_by_learning_rate(learning_rate(config, h)),
    )
    registers = sign_sgd(
        warmup(h.register_learning_rate, h.warmup_steps, h.warmup_start), h.register_weight_decay
    )
    return optax.partition(
        {"network": network, "registers": registers},
        lambda params: {name: "registers" if name == "registers" else "network" for name in params},
    )


def moments(name: str, h: Hyperparameters) -> optax.GradientTransformation:
    """What makes a step of a gradient, before weight decay and learning rate."""
    if is_own(name):
        return own_moments(name, h)
    if name == "adam_atan2":
        return scale_by_atan2(h.beta1, h.beta2)
    return optax.scale_by_adam(h.beta1, h.beta2, h.eps)  # type: ignore[arg-type]


def learning_rate(config: OptimizerConfig, h: Hyperparameters) -> optax.Schedule:
    """Rate of the update with this many before it: warm-up, then the schedule."""
    rise = warmup(h.learning_rate, h.warmup_steps, h.warmup_start)
    fall = schedule(config.schedule, h)
    return lambda count: rise(count) * fall(count)


def warmup(peak: Number, steps: Number, start: Number = 1) -> optax.Schedule:
    """Linear, then constant: the n-th update, counted from `start`, uses peak * n / steps."""
    return lambda count: peak * jnp.minimum((count + start) / jnp.maximum(steps, 1), 1)


def schedule(kind: str, h: Hyperparameters) -> optax.Schedule:
    """A factor of 1, or half a cosine from 1 at the end of the warm-up to 0 at `decay_steps`.

    Or a file's, by the number of updates before and the run's numbers.
    """
    if is_own(kind):
        return own_schedule("optimizer.schedule", kind, h)
    if kind == "constant":
        return lambda count: 1.0

    def cosine(count):
        way = (count - h.warmup_steps) / jnp.maximum(h.decay_steps - h.warmup_steps, 1)
        return 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(way, 0, 1)))

    return cosine


class GrokfastState(NamedTuple):
    num_updates: Array
    slow: Params


def grokfast(alpha: Number, amplification: Number) -> optax.GradientTransformation:
    """Adds the amplified moving average of gradients to each (Lee et al. 2024, Grokfast-EMA).

    The average h <- alpha h + (1 - alpha) g starts at the first gradient; g + lambda h goes on.
    """

    def init(params):
        return GrokfastState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params

        def filtered(slow, grad):
            before = jnp.where(state.num_updates == 0, grad, slow)
            return alpha * before + (1 - alpha) * grad

        slow = jax.tree.map(filtered, state.slow, grads)
        grads = jax.tree.map(lambda g, s: g + amplification * s, grads, slow)
        return grads, GrokfastState(state.num_updates + 1, slow)

    return optax.GradientTransformation(init, update)


def orthograd(on: Bool[Array, ""]) -> optax.GradientTransformation:
    """Each array's gradient without its part along the weights, of the length that it had.

    Prieto et al. 2025 (arXiv 2501.04697), against softmax's naive growth of the logits.
    """

    def project(grad, weight):
        exact = functools.partial(jnp.vdot, precision="highest")
        along = exact(weight, grad) / (exact(weight, weight) + _TINY)
        across = grad - along * weight
        length, before = jnp.linalg.norm(across), jnp.linalg.norm(grad)
        return jnp.where(on, across * (before / (length + _TINY)), grad)

    def update(grads, params):
        return jax.tree.map(project, grads, params)

    return optax.stateless(update)


class Atan2State(NamedTuple):
    num_updates: Array
    mean: Params
    square: Params


def scale_by_atan2(beta1: Number, beta2: Number) -> optax.GradientTransformation:
    """a * atan2(m, sqrt(v)) of Adam's corrected moments: no epsilon, no dependence on scale.

    Adam-atan2 of Everett et al. 2024 (arXiv 2407.05872), with a = 4 / pi and b = 1.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Atan2State(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state, params=None):
        del params
        n = state.num_updates + 1
        mean = optax.tree.update_moment(grads, state.mean, beta1, 1)
        square = optax.tree.update_moment(grads, state.square, beta2, 2)
        updates = jax.tree.map(
            lambda m, v: (
                ATAN2_SCALE * jnp.arctan2(m / (1 - beta1**n), jnp.sqrt(v / (1 - beta2**n)))
            ),
            mean,
            square,
        )
        return updates, Atan2State(n, mean, square)

    return optax.GradientTransformation(init, update)


class DecayState(NamedTuple):
    num_updates: Array


def decay_weights(rate: Callable[[Array], Array], vectors: Number) -> optax.GradientTransformation:
    """Adds rate(count) * p to each update; for biases and norms, `vectors` times as much."""

    def init(params):
        del params
        return DecayState(jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        now = rate(state.num_updates)

        def decayed(u, p):
            return u + (now if p.ndim > 1 else now * vectors) * p

        return jax.tree.map(decayed, updates, params), DecayState(state.num_updates + 1)

    return optax.GradientTransformation(init, update)


class SignSGDState(NamedTuple):
    num_updates: Array


def sign_sgd(
    learning_rate: optax.Schedule, weight_decay: Number
) -> optax.GradientTransformationExtraArgs:
    """p <- p (1 - lr wd) - lr sign(g), on rows of identifiers in the batch only."""

    def init(params):
        del params
        return SignSGDState(jnp.zeros((), jnp.int32))

    def update(grads, state, params, *, present: Bool[Array, " N"], **_):
        rate = learning_rate(state.num_updates)

        def step(grad, param):
            delta = -rate * (weight_decay * param + jnp.sign(grad))
            return jnp.where(present[:, None], delta, 0.0)

        return jax.tree.map(step, grads, params), SignSGDState(state.num_updates + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def update_ema(rate: Number, ema: Params, params: Params) -> Params:
    """Exponential moving average of every parameter; the registers keep their raw values."""
    averaged = jax.tree.map(lambda e, p: rate * e + (1 - rate) * p, ema, params)
    if "registers" in params:
        averaged["registers"] = params["registers"]
    return averaged
