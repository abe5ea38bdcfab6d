"""Single questions, by the names of their entities: what the lens reads, what a patch carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Int

from grokjax.analysis.effects import patch_effects
from grokjax.analysis.pairs import Pairs, query_columns, query_pool
from grokjax.analysis.sites import STREAMS, all_sites, components
from grokjax.base.errors import UserError
from grokjax.data.dataset import Dataset, make_batch
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, forward_all_steps
from grokjax.model.lens import top_tokens


def question(dataset: Dataset, *names: str) -> Int[np.ndarray, " W"]:
    """A question by the names of its tokens, as a row of `draw_pairs` has it.

    Args:
      dataset: of the run.
      names: of a composition head, relation 1 and relation 2, `"Alice", "mother", "employer"`
        (`"e_3", "r_0", "r_5"`); else the task's question.

    Returns:
      Token ids: head, relation 1, bridge, relation 2, answer; else the question and the answer.

    Raises:
      UserError: no such name, or nothing that the data have an answer to.
    """
    task = dataset.task
    if len(names) != len(task.question):
        wanted = ", ".join(task.question)
        raise UserError(f"{dataset.name}: a question is {wanted}; {len(names)} names are given")
    return _composition(dataset, *names) if task.of_facts else _looked_up(dataset, names)


def _composition(
    dataset: Dataset, head: str, relation1: str, relation2: str
) -> Int[np.ndarray, " W"]:
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


def _looked_up(dataset: Dataset, names: Sequence[str]) -> Int[np.ndarray, " W"]:
    """Among what is trained and what is asked."""
    rows = query_pool(dataset).rows
    name = np.vectorize(dataset.vocabulary.name, otypes=[object])
    known = {token: str(name(token)) for token in np.unique(rows)}
    ids = [{i for i, own in known.items() if own == given} for given in names]
    found = [row for row in rows if all(t in own for t, own in zip(row, ids, strict=False))]
    if not found:
        raise UserError(f"{dataset.name}: nobody asks {', '.join(names)!a}")
    return np.asarray(found[0], np.int32)


def read_question(
    model: ModelConfig, weights: Any, dataset: Dataset, row: Int[np.ndarray, " W"]
) -> pd.DataFrame:
    """What the model's output head, applied to each state, says first.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      dataset: of the run.
      row: from `question`, or of `draw_pairs`.

    Returns:
      Names, a row per stage and a column per position.
    """
    top, _ = _said(model, weights, dataset, row[None, list(query_columns(dataset.task))])
    name = dataset.vocabulary.name
    table = [[name(token) for token in stage] for stage in top[:, 0]]
    shown = pd.DataFrame(table, list(model.evaluation_stages), list(dataset.task.positions))
    return shown.rename_axis("stage")


def patch_question(
    model: ModelConfig,
    weights: Any,
    dataset: Dataset,
    clean: Int[np.ndarray, " W"],
    corrupted: Int[np.ndarray, " W"],
) -> pd.DataFrame:
    """Denoising effects of one pair: each state of the clean run put into the corrupted one.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      dataset: of the run.
      clean, corrupted: from `question`; they differ in one token of it, and in the answer.

    Returns:
      Effects, a row per stream and stage and a column per position, with the names of what differs
      and of the answers: 0 changes nothing, 1 brings the clean answer.

    Raises:
      UserError: they differ in more, or in less.
    """
    task, columns = dataset.task, query_columns(dataset.task)
    *asked, answer = columns
    differs = [
        slot for slot, i in zip(task.question, asked, strict=True) if clean[i] != corrupted[i]
    ]
    if len(differs) != 1 or clean[answer] == corrupted[answer]:
        what = ", ".join(differs) or "nothing"
        raise UserError(f"patch: the questions differ in {what}; one token and the answer must")
    pair = Pairs(differs[0], "id", clean[None].astype(int), corrupted[None].astype(int), columns)
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
    name = dataset.vocabulary.name
    exchanged = {
        slot: f"{slot}: {name(clean[i])} for {name(corrupted[i])}"
        for slot, i in zip((*task.question, "answer"), columns, strict=True)
        if clean[i] != corrupted[i]
    }
    return wide[order].rename(columns=exchanged)


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
