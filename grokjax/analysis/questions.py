"""Single questions, by the names of their entities: what the lens reads, what a patch carries."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Int

from grokjax.analysis.effects import patch_effects
from grokjax.analysis.pairs import SLOTS, Pairs
from grokjax.analysis.sites import STREAMS, all_sites, components
from grokjax.base.errors import UserError
from grokjax.data.dataset import Dataset, make_batch
from grokjax.data.graph import ANSWER, HEAD, QUERY, RELATION1, RELATION2
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, forward_all_steps
from grokjax.model.lens import top_tokens

_ASKED = [HEAD, RELATION1, RELATION2]


def question(dataset: Dataset, head: str, relation1: str, relation2: str) -> Int[np.ndarray, 5]:
    """A composition by its names, `"Alice", "mother", "employer"` (`"e_3"`, `"r_0"`, `"r_5"`).

    Returns:
      Token ids: head, relation 1, bridge, relation 2, answer.

    Raises:
      UserError: no such name, or no such fact.
    """
    vocabulary = dataset.vocabulary
    named = {
        kind: {vocabulary.name(i): i for i in ids}
        for kind, ids in (("entity", vocabulary.entity_ids), ("relation", vocabulary.relation_ids))
    }

    def id_of(kind: str, name: str) -> int:
        if name not in named[kind]:
            raise UserError(f"{dataset.name}: has no {kind} {name!a}")
        return named[kind][name]

    facts = np.concatenate([dataset.id_facts, dataset.ood_facts, dataset.new_facts]).tolist()
    tail_of = {(h, r): t for h, r, t in facts}

    def tail(entity: int, relation: int) -> int:
        if (entity, relation) not in tail_of:
            fact = f"{vocabulary.name(entity)}, {vocabulary.name(relation)}"
            raise UserError(f"{dataset.name}: has no fact {fact}")
        return tail_of[entity, relation]

    start, first, second = (
        id_of("entity", head),
        *(id_of("relation", name) for name in (relation1, relation2)),
    )
    bridge = tail(start, first)
    return np.array([start, first, bridge, second, tail(bridge, second)], np.int32)


def read_question(
    model: ModelConfig, weights: Any, dataset: Dataset, row: Int[np.ndarray, 5]
) -> pd.DataFrame:
    """What the model's output head, applied to each state, says first.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      dataset: of the run.
      row: from `question`.

    Returns:
      Names, a row per stage and a column per position.
    """
    top, _ = _said(model, weights, dataset, row[None, QUERY])
    name = dataset.vocabulary.name
    table = [[name(token) for token in stage] for stage in top[:, 0]]
    shown = pd.DataFrame(table, list(model.evaluation_stages), list(dataset.task.positions))
    return shown.rename_axis("stage")


def patch_question(
    model: ModelConfig,
    weights: Any,
    clean: Int[np.ndarray, 5],
    corrupted: Int[np.ndarray, 5],
) -> pd.DataFrame:
    """Denoising effects of one pair: each state of the clean run put into the corrupted one.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      clean, corrupted: from `question`; they differ in one of head, relation 1 and relation 2, and
        in the answer.

    Returns:
      Effects, a row per stream and stage and a column per position: 0 changes nothing, 1 brings the
      clean answer.

    Raises:
      UserError: they differ in more, or in less.
    """
    differs = [slot for slot, i in zip(SLOTS, _ASKED, strict=True) if clean[i] != corrupted[i]]
    if len(differs) != 1 or clean[ANSWER] == corrupted[ANSWER]:
        what = ", ".join(differs) or "nothing"
        raise UserError(f"patch: the questions differ in {what}; one token and the answer must")
    pair = Pairs(differs[0], "id", clean[None].astype(int), corrupted[None].astype(int))
    sites = all_sites(model, only=[c for c in components(model) if c in STREAMS])
    found = patch_effects(model, weights, pair, direction="denoising", sites=sites)
    patched = found.logit_difference.to_numpy().ravel()
    before, after = found.corrupted.to_numpy().item(), found.clean.to_numpy().item()
    table = pd.DataFrame(
        {"stream": found.component, "stage": found.place, "position": found.position}
        | {"effect": (patched - before) / (after - before)}
    )
    order = list(dict.fromkeys(table.position))
    wide = table.pivot_table(
        index=["stream", "stage"], columns="position", values="effect", sort=False
    )
    return wide[order]


def questions_table(
    model: ModelConfig, weights: Any, dataset: Dataset, num: int = 6
) -> pd.DataFrame:
    """Some unseen queries by name: what the model says, where it first names what is hidden."""
    probes, task = dataset.probes, dataset.task
    chosen = np.flatnonzero(probes.types == task.generalisation)[:num]
    if not len(chosen):
        return pd.DataFrame()
    query = np.asarray(probes.table.query)[chosen]
    top, answers = _said(model, weights, dataset, query)
    name = dataset.vocabulary.name
    table = []
    for i, (*asked, answer) in enumerate(query):
        tokens = {
            h.name: np.asarray(x.token)[chosen[i]]
            for h, x in zip(task.hidden, probes.hidden, strict=True)
        }
        row = {"question": ", ".join(name(token) for token in asked if token != PAD)}
        row |= {hidden: name(token) for hidden, token in tokens.items()}
        row |= {"answer": name(answer), "said": name(answers[i])}
        for hidden, token in tokens.items():
            stage, place = np.nonzero(top[:, i] == token)
            first = (
                (model.evaluation_stages[stage[0]], task.positions[place[0]]) if len(stage) else "-"
            )
            row[f"{hidden} first read at"] = ", ".join(first)
        table.append(row)
    return pd.DataFrame(table)


def _said(
    model: ModelConfig, weights: Any, dataset: Dataset, query: Int[np.ndarray, "B C"]
) -> tuple[Int[np.ndarray, "G B T"], Int[np.ndarray, " B"]]:
    """First choices of the lens, and answers; a decoder's lens reads the question alone."""
    params, buffers = weights
    batch = make_batch(jnp.asarray(query), dataset.vocabulary.end_id)
    output = forward_all_steps(model, params, buffers, batch)
    top = np.array(top_tokens(model, params, output.trace))
    said = np.asarray(jnp.argmax(output.logits, axis=-1))
    place = np.asarray(batch.answer_position)
    if not model.predicts_input:
        top = np.where(np.arange(top.shape[2])[None, None] < place[None, :, None], top, 0)
    return top, said[np.arange(len(query)), place]
