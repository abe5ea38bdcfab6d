"""Probe accuracies and lens rates of one run, on the device (see docs/protocol.md, section 4)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from grokjax.base import names
from grokjax.base.errors import UserError
from grokjax.base.names import BEST
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import Batch, HiddenTokens, Probes, make_batch
from grokjax.data.task import CHANCE, CHANCE_STRICT, FOUND, FOUND_STRICT, READINGS, Task
from grokjax.data.vocabulary import PAD
from grokjax.model import Buffers, ModelConfig, Params, forward_all_steps
from grokjax.model.lens import found_anywhere, top_tokens
from grokjax.training.own import metrics


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What shapes the evaluation program."""

    model: ModelConfig
    batch_size: int
    end_id: int
    path_stage: str = BEST
    path_position: str = "answer"  # BEST, or one of the task's; of a decoder, where it says it
    metrics: str = ""  # more of them, as `evaluate.metrics` names them
    task: Task = COMPOSITION

    def __post_init__(self) -> None:
        check_position(self.task, self.path_position)


def check_position(task: Task, name: str) -> None:
    """Refuses a place of the path that a task does not have."""
    known = (BEST, *task.positions)
    if name not in known:
        raise UserError(
            f"evaluate.path_position: '{name}' is no place of {task.name},"
            f" which has {', '.join(known)}"
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hits:
    """What each query got right. N queries, G stages, P positions that a path may be read at."""

    answer: Bool[Array, " N"]
    exact: Bool[Array, " N"]
    target: Bool[Array, " N"]
    hidden: tuple[HiddenHits, ...]
    own: dict[str, Float[Array, " N"]]  # by metric


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HiddenHits:
    """Where each query's hidden token was read."""

    found: Bool[Array, " N"]
    chance: Float[Array, " N"]
    by_site: Bool[Array, "N G P"]  # first choice there
    chance_by_site: Float[Array, "N G P"]  # share of the decoys that are


def evaluate(
    config: EvaluateConfig, params: Params, buffers: Buffers, probes: Probes
) -> dict[str, Float[Array, ...]]:
    """All measures of one run on its probe sets.

    Returns:
      `<probe type>/<metric>` for every type and metric that applies to it, `training_accuracy`
      (the mean exact match of the types that are trained), and of each hidden token `path_stage`
      and `path_position` (indices of the site that its strict rate reads). Where that site is
      chosen, `Task.by_site/<stage>/<position>` too, the strict rate at each that it may be:
      whoever reads the curves can keep one site for all steps. A type without queries gives NaN,
      and so do the strict rates where their site should be the best on familiar queries without
      any.
    """
    task = config.task
    hits = probe_hits(config, params, buffers, probes)
    is_type = {name: probes.kind == i for i, name in enumerate(probes.names)}
    nothing = jnp.zeros(probes.kind.shape, bool)
    # What the types that hide something have besides: values, and over which queries.
    read: dict[str, tuple[Array, Array]] = {}
    sites: dict[str, Array] = {}
    is_declared = BEST not in (config.path_stage, config.path_position)
    for hidden, tokens, own in zip(task.hidden, probes.hidden, hits.hidden, strict=True):
        is_hidden = jnp.asarray(tokens.token) > 0
        strict = is_hidden & ~is_given(probes.table.query, tokens.token)
        familiar = strict & sum((is_type[n] for n in task.site_types if n in is_type), nothing)
        by_site = jnp.mean(own.by_site, axis=0, where=familiar[:, None, None])
        stage, place = _best_site(config, jnp.nan_to_num(by_site))
        is_chosen = is_declared | jnp.any(familiar)
        read |= {
            f"{hidden.name}_{FOUND}": (own.found, is_hidden),
            f"{hidden.name}_{FOUND_STRICT}": (own.by_site[:, stage, place], strict & is_chosen),
            f"{hidden.name}_{CHANCE}": (own.chance, is_hidden),
            f"{hidden.name}_{CHANCE_STRICT}": (
                own.chance_by_site[:, stage, place],
                strict & is_chosen,
            ),
        }
        sites[task.site_column(hidden.name, "path_stage")] = stage
        sites[task.site_column(hidden.name, "path_position")] = jnp.asarray(
            _position(config, place)
        )
        if not is_declared and task.generalisation in is_type:
            of_type = (is_type[task.generalisation] & strict)[:, None, None]
            by_site = jnp.sum(own.by_site & of_type, axis=0) / jnp.sum(of_type)
            sites |= _named_sites(config, hidden.name, by_site)
    if len(task.hidden) > 1:
        read |= _jointly(task, read)

    measured: dict[str, Array] = {}
    of_all = {
        names.ANSWER_ACCURACY: hits.answer,
        names.EXACT_MATCH: hits.exact,
        names.TARGET_FOUND: hits.target,
    } | hits.own
    for name, of_type in is_type.items():
        for metric, value in of_all.items():
            measured[f"{name}/{metric}"] = _mean_where(value, of_type)
        for metric, (value, where) in read.items() if name in task.hiding else ():
            measured[f"{name}/{metric}"] = _mean_where(value, of_type & where)
    trained = [measured[f"{n}/{names.EXACT_MATCH}"] for n in task.trained if n in is_type]
    if trained:
        measured[names.TRAINING_ACCURACY] = jnp.nanmean(jnp.stack(trained))
    return measured | sites


def is_given(query: Any, token: Any) -> Bool[Array, " N"]:
    """Whether a token is in the question, or is its answer: it can be read without a thought."""
    return jnp.any(jnp.asarray(query) == jnp.asarray(token)[:, None], axis=1)


def _jointly(task: Task, read: dict[str, tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
    """That all hidden tokens of a query are read; by chance, of decoys drawn apart."""
    joint = {}
    for reading in READINGS:
        values, where = zip(*(read[f"{h.name}_{reading}"] for h in task.hidden), strict=True)
        joint[f"{task.path}_{reading}"] = (
            jnp.prod(jnp.stack([jnp.asarray(v, jnp.float32) for v in values]), axis=0),
            jnp.all(jnp.stack(where), axis=0),
        )
    return joint


def _named_sites(
    config: EvaluateConfig, hidden: str, by_site: Float[Array, "G P"]
) -> dict[str, Array]:
    """A rate per site that may be chosen, by its name."""
    places, positions = range(by_site.shape[1]), config.task.positions
    return {
        f"{config.task.by_site(hidden)}/{stage}/{positions[_position(config, place)]}": by_site[
            g, place
        ]
        for g, stage in enumerate(config.model.evaluation_stages)
        for place in places
        if config.path_stage == stage or (config.path_stage == BEST and not _is_init(stage))
    }


def probe_hits(config: EvaluateConfig, params: Params, buffers: Buffers, probes: Probes) -> Hits:
    """Runs every probe query, `batch_size` at a time."""
    num_queries = probes.table.query.shape[0]
    own = metrics(config.metrics)
    columns = (probes.table.query, probes.hidden)

    def one_batch(columns):
        query, hidden = columns
        batch = make_batch(query, config.end_id)
        output = forward_all_steps(config.model, params, buffers, batch)
        top = top_tokens(config.model, params, output.trace)
        predicted = jnp.argmax(output.logits, axis=-1)
        answer, read_at = query[:, -1], batch.answer_position
        if not config.model.predicts_input:
            # The question is given; a position before the answer is the one that says it, and
            # those from the answer on have seen it.
            position = jnp.arange(predicted.shape[1])[None]
            asked = position < batch.answer_position[:, None]
            predicted = jnp.where(asked, batch.labels, predicted)
            top = jnp.where(asked[None], top, PAD)
            read_at = read_at - 1
        return Hits(
            answer=_at(predicted, batch.answer_position) == answer,
            exact=exact_match(predicted, batch, config.end_id),
            target=found_anywhere(top, answer),
            hidden=tuple(_hidden_hits(config, top, x, read_at) for x in hidden),
            own={name: metric(output, batch, query) for name, metric in own.items()},
        )

    hits = jax.lax.map(one_batch, in_batches(columns, config.batch_size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_queries], hits)


def _hidden_hits(
    config: EvaluateConfig, top: Int[Array, "G B T"], tokens: HiddenTokens, read_at: Array
) -> HiddenHits:
    token, decoy = jnp.asarray(tokens.token), jnp.asarray(tokens.decoy)
    said = jax.vmap(_said_by_site, in_axes=(None, None, 1, None))
    anywhere = jax.vmap(found_anywhere, in_axes=(None, 1))
    return HiddenHits(
        found=found_anywhere(top, token),
        chance=jnp.mean(anywhere(top, decoy).astype(jnp.float32), axis=0),
        by_site=_said_by_site(config, top, token, read_at),
        chance_by_site=jnp.mean(said(config, top, decoy, read_at).astype(jnp.float32), axis=0),
    )


def in_batches(columns: Any, batch_size: int) -> Any:
    """Columns over the queries as [batches, batch_size, ...], the last one filled up with zeros."""
    num_queries = jax.tree.leaves(columns)[0].shape[0]
    batch_size = min(batch_size, num_queries)

    def split(x: Array) -> Array:
        pad = [(0, -num_queries % batch_size)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, pad).reshape(-1, batch_size, *x.shape[1:])

    return jax.tree.map(split, columns)


def exact_match(predicted: Int[Array, "B T"], batch: Batch, end_id: int) -> Bool[Array, " B"]:
    """The authors' rule: PADs dropped, the text before the first `</a>` equals the target's."""
    num_tokens = predicted.shape[1]
    kept = predicted != 0
    place = jnp.cumsum(kept, axis=1) - 1
    is_at = kept[:, :, None] & (
        place[:, :, None] == jnp.arange(num_tokens)[None, None]
    )  # [B, from, to]
    text = jnp.sum(jnp.where(is_at, predicted[:, :, None], 0), axis=1)
    length = batch.answer_position + 1  # copied input and the answer
    position = jnp.arange(num_tokens)[None]
    before_end = position < length[:, None]
    same = jnp.all((text == batch.labels) | ~before_end, axis=1)
    after = jnp.sum(jnp.where(position == length[:, None], text, 0), axis=1)
    # Behind the answer: `</a>`, or nothing at all where every kept token has been compared.
    return same & ((after == end_id) | (jnp.sum(kept, axis=1) == length))


def _said_by_site(
    config: EvaluateConfig,
    top: Int[Array, "G B T"],
    token: Int[Array, " B"],
    read_at: Int[Array, " B"],
) -> Bool[Array, "B G P"]:
    """Whether the first choice is a token, at every stage and position of a possible path."""
    if config.path_position == BEST:
        read = top
    elif config.path_position == "answer":
        read = jax.vmap(_at, in_axes=(0, None))(top, read_at)[..., None]
    else:
        read = top[..., config.task.positions.index(config.path_position), None]
    return jnp.moveaxis(read == token[None, :, None], 0, 1)


def _best_site(
    config: EvaluateConfig, by_site: Float[Array, "G P"]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Indices of the site that reads the bridge best, of those that were declared.

    Never the first stage, unless it is declared: nothing has been computed there.
    """
    if config.path_stage == BEST:
        computed = [not _is_init(stage) for stage in config.model.evaluation_stages]
        by_site = jnp.where(jnp.asarray(computed)[:, None], by_site, -1.0)
        stage, place = jnp.unravel_index(jnp.argmax(by_site), by_site.shape)
        return stage, place
    stage = jnp.asarray(config.model.evaluation_stages.index(config.path_stage))
    return stage, jnp.argmax(by_site[stage])


def _is_init(stage: str) -> bool:
    return stage == "Init" or stage.endswith("_Init")


def _position(config: EvaluateConfig, place: Any) -> Any:
    """Index among the task's positions of the place that the path is read at."""
    if config.path_position == BEST:
        return place
    says_next = config.path_position == "answer" and not config.model.predicts_input
    return config.task.positions.index(config.path_position) - says_next


def _mean_where(value: Array, where: Bool[Array, " N"]) -> Float[Array, ""]:
    """Mean over the queries in question, NaN without any."""
    return jnp.sum(jnp.where(where, value, 0)) / jnp.sum(where)


def _at(x: Int[Array, "B T"], position: Int[Array, " B"]) -> Int[Array, " B"]:
    return jnp.take_along_axis(x, position[:, None], axis=1)[:, 0]
