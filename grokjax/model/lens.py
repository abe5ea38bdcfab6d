"""The logit lens: the model's own output head on the state of every stage."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grokjax.model import ModelConfig, Params, Trace, readout


def lens_stream(stage: str) -> str:
    """The state that a stage has just written: z_L while thinking, z_H at Init and Commit."""
    return "z_L" if stage.endswith("Thinking") else "z_H"


def lens_states(trace: Trace) -> Float[Array, "G B S D"]:
    """Of each stage, the state of its own stream."""
    if trace.z_L is None:
        return trace.z_H
    thinking = jnp.array([lens_stream(stage) == "z_L" for stage in trace.stages])
    return jnp.where(thinking[:, None, None, None], trace.z_L, trace.z_H)


def lens_logits(config: ModelConfig, params: Params, trace: Trace) -> Float[Array, "G B T V"]:
    """Logits of every stage at every token position, float32."""
    return readout(config, params, lens_states(trace))


def top_tokens(config: ModelConfig, params: Params, trace: Trace) -> Int[Array, "G B T"]:
    """The lens's first choice at every stage and position."""
    return jnp.argmax(lens_logits(config, params, trace), axis=-1)


def found_anywhere(top: Int[Array, "G B T"], token: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Whether a query's token is first choice at any stage and any position; never for PAD."""
    return jnp.any(top == token[None, :, None], axis=(0, 2)) & (token > 0)
