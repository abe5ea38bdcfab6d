"""The decoder: an ordinary transformer of GPT-2's shape, or the same stack of layers run in a loop.

Causal, pre-norm, learned positions, GELU (tanh form), tied head. With two loops it is the
parameter-sharing variant of Wang et al. 2024 (arXiv 2405.15071), with more a universal transformer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from grokjax.data.dataset import Batch
from grokjax.data.vocabulary import PAD
from grokjax.model.layers import Tap, untapped
from grokjax.model.taps import Taps
from grokjax.model.types import Buffers, ModelConfig, Output, Params, Patch, Trace

_NORM_EPS = 1e-5
_INIT_STD = 0.02


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); [B, T, D] -> [B, T, D]."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], deterministic: bool, tap: Tap = untapped
    ) -> Float[Array, "B T D"]:
        c = self.config
        b, t, d = x.shape
        types = {"dtype": jnp.dtype(c.dtype), "param_dtype": c.param_dtype}
        init = nn.initializers.normal(_INIT_STD)
        # What adds to the stream is drawn smaller, so that its variance does not grow with depth.
        residual_init = nn.initializers.normal(_INIT_STD / math.sqrt(2 * c.num_layers))

        def norm(name: str, y: Array) -> Array:
            return nn.LayerNorm(epsilon=_NORM_EPS, name=name, use_fast_variance=False, **types)(y)

        def drop(y: Array) -> Array:
            return nn.Dropout(c.dropout, deterministic=deterministic)(y)

        qkv = nn.Dense(3 * d, kernel_init=init, name="qkv", **types)(norm("attention_norm", x))
        query, key, value = (
            y.reshape(b, t, c.num_heads, d // c.num_heads) for y in jnp.split(qkv, 3, axis=-1)
        )
        scores = jnp.einsum("bthk,bshk->bhts", query, key) / math.sqrt(d // c.num_heads)
        causal = jnp.tril(jnp.ones((1, 1, t, t), bool))
        scores = jnp.where(causal, scores.astype(c.param_dtype), -jnp.inf)
        weights = drop(jax.nn.softmax(scores, axis=-1).astype(types["dtype"]))
        mixed = tap("heads", jnp.einsum("bhts,bshk->bthk", weights, value)).reshape(b, t, d)
        out = nn.Dense(d, kernel_init=residual_init, name="out", **types)(mixed)
        x = x + tap("mixer", drop(out))

        inner = nn.Dense(4 * d, kernel_init=init, name="up", **types)(norm("mlp_norm", x))
        inner = nn.gelu(inner, approximate=True)
        down = nn.Dense(d, kernel_init=residual_init, name="down", **types)(inner)
        return x + tap("mlp", drop(down))


def init(config: ModelConfig, key: Array) -> tuple[Params, Buffers]:
    """Parameters as GPT-2 draws them; no buffers."""
    keys = iter(jax.random.split(key, 2 + config.num_layers))
    dtype, d = config.param_dtype, config.hidden_size
    draw = jax.nn.initializers.normal(_INIT_STD)
    params: Params = {
        "embed": draw(next(keys), (config.vocab_size, d), dtype),
        "positions": draw(next(keys), (config.seq_len, d), dtype),
        "final_norm": {"scale": jnp.ones(d, dtype), "bias": jnp.zeros(d, dtype)},
    }
    x = jnp.zeros((1, config.seq_len, d), config.dtype)
    params["layers"] = {
        str(i): Layer(config).init(next(keys), x, True)["params"] for i in range(config.num_layers)
    }
    return params, {}


def forward(
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    patch: Patch | None = None,
    key: Array | None = None,
) -> Output:
    """The decoder on whole sequences, the answer given as it is while training.

    What a position says depends on the tokens before it alone, so that the answers of an evaluation
    are the model's own: only its question comes before them.

    Args:
      config: static settings.
      params: of one run, from `init`.
      batch: inputs i32[B, T], whose PAD are filled in from the labels.
      patch: an intervention; the one stream is z_H.
      key: draws the dropout; none is applied when None.

    Returns:
      Output; `logits[:, t]` come from position t - 1, those of t = 0 mean nothing.
    """
    dtype = jnp.dtype(config.dtype)
    tokens = jnp.where(batch.inputs == PAD, jnp.maximum(batch.labels, PAD), batch.inputs)
    num_tokens = tokens.shape[1]
    embedding = params["embed"].astype(dtype)[tokens]
    embedding = embedding + params["positions"].astype(dtype)[None, :num_tokens]
    deterministic = key is None or not config.dropout
    num_keys = 1 + config.num_loops * config.num_layers
    keys: Iterator[Array] = iter([] if key is None else jax.random.split(key, num_keys))
    if not deterministic:
        dropout = nn.Dropout(config.dropout, deterministic=False)
        embedding = jnp.asarray(dropout.apply({}, embedding, rngs={"dropout": next(keys)}))

    taps = Taps(patch, position_axis=1)
    x = taps("z_H", embedding)
    for _ in range(config.num_loops):
        for i in range(config.num_layers):
            rngs = None if deterministic else {"dropout": next(keys)}
            layer = {"params": params["layers"][str(i)]}
            x = jnp.asarray(Layer(config).apply(layer, x, deterministic, taps, rngs=rngs))
            x = taps("z_H", x)
    raw = final_norm(config, params, x) @ params["embed"].astype(dtype).T
    return Output(
        logits=jnp.roll(raw, 1, axis=1),
        q_logits=jnp.zeros((tokens.shape[0], 2), config.param_dtype),
        carry=(),
        embedding=embedding,
        trace=Trace(taps.recorded("z_H"), None, config.stages),
        internals=taps.internals(),
    )


def readout(config: ModelConfig, params: Params, z: Float[Array, "*B T D"]) -> Array:
    """Final norm and head on any state: float32 logits [*B, T, V] about each next token."""
    wide = z.astype(config.param_dtype)
    return final_norm(config, params, wide) @ params["embed"].T


def final_norm(config: ModelConfig, params: Params, x: Float[Array, "*B D"]) -> Array:
    """The layer norm before the head, in the dtype of its input."""
    norm = nn.LayerNorm(epsilon=_NORM_EPS, dtype=x.dtype, use_fast_variance=False)
    return jnp.asarray(norm.apply({"params": params["final_norm"]}, x))
