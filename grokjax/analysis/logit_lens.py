"""The logit lens on every stage, stream and position: what a state would say if it were the last.

The model's own output head reads each state (a decoder's final norm first). Rates are means over
the queries of a probe type; what is read of whom, and its definitions: docs/protocol.md, section 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from grokjax.analysis.patching import Weights
from grokjax.analysis.sites import position_names
from grokjax.base.names import ANSWER_ACCURACY, BEST, TARGET_FOUND
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import Probes, make_batch
from grokjax.data.task import Task
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, forward_all_steps, readout
from grokjax.training.evaluate import EvaluateConfig, evaluate, in_batches, is_given
from grokjax.training.mesh import make_mesh, over_runs

# Of queries whose hidden token is also in the question, or the answer, it can be read without being
# computed. Of compositions, those are head and answer.
SUBSETS = ("apart", "head_or_answer")
MEASURES = ("top1", "rank", "reciprocal_rank", "log_probability")
_LENS_BUDGET = {"cpu": 2**24}  # bytes of logits at once; on a CPU what its cache holds


def tokens_of(task: Task) -> tuple[str, ...]:
    """What the lens is asked for: hidden tokens, the answer, and what is given."""
    return (*(hidden.name for hidden in task.hidden), "target", *task.question)


def rates_of(task: Task) -> tuple[str, ...]:
    """Metrics of a probe type that go with it."""
    return (ANSWER_ACCURACY, TARGET_FOUND, *task.readings)


def logit_lens(
    model: ModelConfig,
    weights: Weights,
    probes: Probes,
    *,
    batch_size: int | None = None,
    path_site: tuple[str, str] = (BEST, "answer"),
    task: Task = COMPOSITION,
) -> xr.Dataset:
    """Reads one model's states of all probe queries.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      probes: as `Dataset.probes`.
      batch_size: queries at once; by default what fits a budget.
      path_site: stage and position of the strict rates, see `EvaluateConfig`.
      task: of the model.

    Returns:
      Dimensions type (probe type), subset, token, stage, stream and position, by name:
        `top1`: share of queries whose first choice is the token,
        `rank` (0 is first), `reciprocal_rank` (1 is first), `log_probability` (nats): means,
        `num_queries` (type, subset, token): that have such a token,
        `rates_of` the task by type, as `evaluate` defines them, and where each hidden token is
        read, `path_stage` and `path_position`.
      Where a type's questions are shorter than others, the rest of their positions are NaN.
    """
    one_run = jax.tree.map(lambda x: jnp.asarray(x)[None], (weights, probes))
    measured = measure_lens(model, *one_run, batch_size=batch_size, path_site=path_site, task=task)
    return label_lens(model, measured, 0, probes.names, task)


def measure_lens(
    model: ModelConfig,
    weights: Any,
    probes: Probes,
    *,
    batch_size: int | None = None,
    path_site: tuple[str, str] = (BEST, "answer"),
    mesh: Mesh | None = None,
    task: Task = COMPOSITION,
) -> dict[str, np.ndarray]:
    """The same of R runs at once, unlabelled: sums [R, K, 2, tokens, streams, G, T] by measure."""
    mesh = mesh or make_mesh(1, devices=jax.devices()[:1])
    batch_size = batch_size or queries_within_budget(model)
    return jax.device_get(lens_program(model, batch_size, path_site, mesh, task)(weights, probes))


@functools.lru_cache(maxsize=8)
def lens_program(
    model: ModelConfig,
    batch_size: int,
    path_site: tuple[str, str],
    mesh: Mesh,
    task: Task = COMPOSITION,
) -> Callable:
    """Compiled once for all calls: (weights [R], probes [R]) -> sums and rates."""
    settings = EvaluateConfig(model, batch_size, PAD, *path_site, task=task)  # they know no `</a>`

    def one_run(weights: Weights, probes: Probes) -> dict[str, Array]:
        sums = _sums(model, weights, probes, batch_size)
        return sums | evaluate(settings, *weights, probes)

    return over_runs(one_run, mesh)


def _sums(
    model: ModelConfig, weights: Weights, probes: Probes, batch_size: int
) -> dict[str, Array]:
    """Measures summed over the queries of each probe type and subset."""
    num_types = len(probes.names)

    def one_batch(columns: tuple[Array, tuple[Array, ...], Array]) -> dict[str, Array]:
        query, hidden, member = columns
        wanted = jnp.stack([*hidden, query[:, -1], *query[:, :-1].T], axis=1)
        values = _read(model, weights, query, wanted.astype(jnp.int32))
        there = member[:, :, None] * (wanted > PAD)[:, None]  # [B, kinds, tokens]
        sums = {
            name: jnp.einsum("bkt,sgbpt->ktsgp", there, value) for name, value in values.items()
        }
        return sums | {"num_queries": there.sum(axis=0)}

    query = jnp.asarray(probes.table.query)
    hidden = tuple(jnp.asarray(h.token) for h in probes.hidden)
    known = sum(((h > PAD) & is_given(query, h) for h in hidden), jnp.zeros(len(query), bool))
    kind = 2 * jnp.asarray(probes.kind) + known  # negative on padding
    member = jax.nn.one_hot(kind, 2 * num_types)
    batches = in_batches((query, hidden, member), batch_size)
    sums = jax.tree.map(lambda x: x.sum(axis=0), jax.lax.map(one_batch, batches))
    return {n: x.reshape(num_types, len(SUBSETS), *x.shape[1:]) for n, x in sums.items()}


def _read(
    model: ModelConfig, weights: Weights, query: Int[Array, "B C"], wanted: Int[Array, "B tokens"]
) -> dict[str, Float[Array, "streams G B T tokens"]]:
    """Measures of every query, stream, stage, position and wanted token."""
    params, buffers = weights
    batch = make_batch(query, PAD)
    trace = forward_all_steps(model, params, buffers, batch).trace
    states = trace.z_H[None] if trace.z_L is None else jnp.stack([trace.z_H, trace.z_L])
    logits = readout(model, params, states)
    top = jnp.argmax(logits, axis=-1)
    normaliser = jax.nn.logsumexp(logits, axis=-1)

    def about(token: Int[Array, " B"]) -> dict[str, Array]:
        own = jnp.take_along_axis(
            logits, jnp.broadcast_to(token[:, None, None], (*logits.shape[:-1], 1)), axis=-1
        )
        rank = jnp.sum(logits > own, axis=-1)
        return {
            "top1": (top == token[None, None, :, None]).astype(jnp.float32),
            "rank": rank.astype(jnp.float32),
            "reciprocal_rank": 1.0 / (1 + rank),
            "log_probability": (own[..., 0] - normaliser).astype(jnp.float32),
        }

    # Of shorter questions the answer comes earlier; what it leaves empty is read for the rest.
    length, asked = batch.answer_position[:, None], jnp.arange(query.shape[1] - 1)[None]
    place = jnp.concatenate(
        [jnp.where(asked < length, asked, asked + 2), length, length + 1], axis=1
    )
    by_token = [about(wanted[:, i]) for i in range(wanted.shape[1])]
    return {
        name: jnp.take_along_axis(
            jnp.stack([x[name] for x in by_token], axis=-1), place[None, None, :, :, None], axis=3
        )
        for name in MEASURES
    }


def label_lens(
    model: ModelConfig,
    measured: dict[str, np.ndarray],
    run: int,
    types: tuple[str, ...],
    task: Task = COMPOSITION,
) -> xr.Dataset:
    """One run of what `measure_lens` gave, as means with names."""
    streams = ("z_H",) if model.is_stack else ("z_H", "z_L")
    positions = position_names(model)[model.num_registers :]
    dims = ("type", "subset", "token", "stream", "stage", "position")
    sizes = measured["num_queries"][run]
    data: dict[str, Any] = {"num_queries": (dims[:3], sizes.astype(int))}
    some = np.where(sizes > 0, sizes, np.nan)[..., None, None, None]
    for name in MEASURES:
        means = measured[name][run] / some
        for i, kind in enumerate(types):
            means[i, ..., task.length_of(kind) : len(task.question)] = np.nan
        if not model.predicts_input:  # what follows the question has seen the answer
            means = means[..., : len(task.question)]
        data[name] = (dims, means.astype(np.float32))
    for name in rates_of(task):
        values = [measured.get(f"{t}/{name}", np.full(run + 1, np.nan))[run] for t in types]
        data[name] = ("type", np.asarray(values, np.float32))
    stages = model.evaluation_stages
    for hidden in task.hidden:
        for what, named in (("path_stage", stages), ("path_position", task.positions)):
            column = task.site_column(hidden.name, what)
            name = column.replace("/", "_")  # a slash is a group of a NetCDF file
            data[name] = ((), named[int(measured[column][run])])
    coordinates = {
        "type": list(types),
        "subset": list(SUBSETS),
        "token": list(tokens_of(task)),
        "stream": list(streams),
        "stage": list(stages),
        "position": list(positions[: data["top1"][1].shape[-1]]),
    }
    return xr.Dataset(data, coordinates)


def queries_within_budget(model: ModelConfig, platform: str | None = None) -> int:
    """Queries whose logits of all stages and both streams fit the platform's budget."""
    budget = _LENS_BUDGET.get(platform or jax.default_backend(), 2**32)
    streams = 1 if model.is_stack else 2
    logits = streams * len(model.evaluation_stages) * model.seq_len * model.vocab_size * 4
    return max(budget // logits, 1)
