"""Single questions, by the names of their entities: what the lens reads, what a patch carries."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Int

from grokjax.analysis.effects import patch_effects
from grokjax.analysis.pairs import SLOTS, Pairs
from grokjax.analysis.sites import STREAMS, all_sites
from grokjax.base.errors import UserError
from grokjax.base.names import POSITIONS, TEST_INFERRED_OOD
from grokjax.data.dataset import Dataset, make_batch, with_bridges
from grokjax.data.graph import ANSWER, BRIDGE, HEAD, QUERY, RELATION1, RELATION2
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
    top, _ = _said(model, weights, dataset, row[None])
    name = dataset.vocabulary.name
    table = [[name(token) for token in stage] for stage in top[:, 0]]
    shown = pd.DataFrame(table, list(model.evaluation_stages), list(POSITIONS))
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
    sites = all_sites(model, only=[c for c in STREAMS if c == "z_H" or model.predicts_input])
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
    """Some OOD compositions by name: what the model says, and where it first names the bridge."""
    probes = dataset.probes
    rows = with_bridges(np.asarray(probes.table.query), np.asarray(probes.bridge))
    rows = rows[probes.types == TEST_INFERRED_OOD][:num]
    if not len(rows):
        return pd.DataFrame()
    top, answers = _said(model, weights, dataset, rows)
    name = dataset.vocabulary.name
    table = []
    for i, row in enumerate(rows):
        stage, place = np.nonzero(top[:, i] == row[BRIDGE])
        first = f"{model.evaluation_stages[stage[0]]}, {POSITIONS[place[0]]}" if len(stage) else "-"
        asked = ", ".join(name(row[j]) for j in _ASKED)
        table.append(
            {"question": asked, "bridge": name(row[BRIDGE]), "answer": name(row[ANSWER])}
            | {"said": name(answers[i]), "bridge first read at": first}
        )
    return pd.DataFrame(table)


def _said(
    model: ModelConfig, weights: Any, dataset: Dataset, rows: Int[np.ndarray, "B 5"]
) -> tuple[Int[np.ndarray, "G B T"], Int[np.ndarray, " B"]]:
    """First choices of the lens, and answers; a decoder's lens reads the question alone."""
    params, buffers = weights
    batch = make_batch(jnp.asarray(rows[:, QUERY]), dataset.vocabulary.end_id)
    output = forward_all_steps(model, params, buffers, batch)
    top = np.array(top_tokens(model, params, output.trace))
    said = np.asarray(jnp.argmax(output.logits, axis=-1))
    place = np.asarray(batch.answer_position)
    if not model.predicts_input:
        top = np.where(np.arange(top.shape[2])[None, None] < place[None, :, None], top, 0)
    return top, said[np.arange(len(rows)), place]
