"""A whole model of somebody's file: its `init`, `forward` and `readout` in place of ours.

One stream of states, seen by the lens and patched at the embedding and after each layer of each
loop, under the decoder's stage names. What goes wrong in the file is told with file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from grokjax.data.dataset import Batch
from grokjax.model.taps import Taps
from grokjax.model.types import Buffers, ModelConfig, Output, Params, Patch, Trace
from grokjax.settings.own_functions import own_function, refuse

SETTING = "model.kind"
SIGNATURES = {
    "init": ("config", "key"),
    "forward": ("config", "params", "tokens", "tap", "key"),
    "readout": ("config", "params", "z"),
}


def function(config: ModelConfig, name: str) -> Callable[..., Any]:
    """One of the file's functions.

    Raises:
      UserError: it has none of this name, or one of another signature.
    """
    return own_function(SETTING, config.kind, SIGNATURES[name], name)


def init(config: ModelConfig, key: Array) -> tuple[Params, Buffers]:
    """Parameters as the file draws them; no buffers."""
    return function(config, "init")(config, key), {}


def forward(
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    patch: Patch | None = None,
    key: Array | None = None,
) -> Output:
    """The file's forward pass.

    Args:
      config: static settings.
      params: of one run, from `init`.
      batch: inputs i32[B, T], with PAD where the answer is asked for; its labels are not read.
      patch: an intervention; the one stream is z_H.
      key: for dropout; None evaluates.

    Returns:
      Output; `logits[:, t]` are about token t.

    Raises:
      UserError: the file taps another number of states, or gives logits of another shape.
    """
    taps = Taps(patch, position_axis=1)
    shape = (*batch.inputs.shape, config.hidden_size)
    num_tapped = 0

    def tap(z: Any) -> Array:
        nonlocal num_tapped
        num_tapped += 1
        if jnp.shape(z) != shape:
            raise refuse(SETTING, config.kind, f"taps {jnp.shape(z)}, not [B, T, D] {shape}")
        if num_tapped > len(config.stages):
            raise refuse(SETTING, config.kind, _tapped(config, f"more than {len(config.stages)}"))
        return taps("z_H", z)

    logits = function(config, "forward")(config, params, batch.inputs, tap, key)
    if num_tapped < len(config.stages):
        raise refuse(SETTING, config.kind, _tapped(config, f"{num_tapped}"))
    wanted = (*batch.inputs.shape, config.vocab_size)
    if jnp.shape(logits) != wanted:
        what = f"forward gives {jnp.shape(logits)}, not logits [B, T, V] {wanted}"
        raise refuse(SETTING, config.kind, what)
    z_H = taps.recorded("z_H")
    return Output(
        logits=logits,
        q_logits=jnp.zeros((batch.inputs.shape[0], 2), config.param_dtype),
        carry=(),
        embedding=z_H[0],
        trace=Trace(z_H, None, config.stages),
        internals={},
    )


def readout(config: ModelConfig, params: Params, z: Float[Array, "*B T D"]) -> Array:
    """The file's head on any state: float32 logits [*B, T, V]."""
    return function(config, "readout")(config, params, z.astype(config.param_dtype))


def _tapped(config: ModelConfig, number: str) -> str:
    wanted = len(config.stages)
    return f"taps {number} states, not {wanted}: the embedding, and num_loops * num_layers more"
