"""What a run trains on and is tested on: query tables, tokens and labels, probe sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int16
from ml_collections import ConfigDict

from grokjax.base import names
from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.data.composition import COMPOSITION
from grokjax.data.graph import (
    ANSWER,
    BRIDGE,
    HEAD,
    QUERY,
    RELATION1,
    Augmentation,
    CompositionRows,
    FactRows,
    Splits,
    make_graph,
    make_splits,
    resolve_augmentation,
)
from grokjax.data.task import Task
from grokjax.data.vocabulary import MAX_TOKENS, PAD, SPECIAL_TOKENS, Vocabulary, make_vocabulary

NUM_DECOYS = 8
NO_FACTS = np.zeros((0, 3), np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QueryTable:
    """Queries as token ids: the task's question, PAD where it is shorter, and the answer.

    Of compositions: head, relation 1, relation 2 (PAD for an atomic fact), answer; an identity
    query has no relation at all. Rows from `size` on are padding, all 0.
    """

    query: Int16[np.ndarray | Array, "*R N C"]
    size: Int[np.ndarray | Array, "*R"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HiddenTokens:
    """What each query hides, and what tells it found from guessed."""

    token: Int16[np.ndarray | Array, "*R Q"]  # PAD where there is none
    decoy: Int16[np.ndarray | Array, "*R Q 8"]  # those of other queries of the type


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Probes:
    """All probe sets of a run in one table."""

    table: QueryTable
    hidden: tuple[HiddenTokens, ...]  # as many as the task declares
    kind: Int16[np.ndarray | Array, "*R Q"]  # index into names; -1 for padding
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def bridge(self) -> Any:
        """Of compositions, the token that each hides."""
        return self.hidden[0].token

    @property
    def decoy(self) -> Any:
        """Of compositions, bridges of other queries."""
        return self.hidden[0].decoy

    @property
    def types(self) -> np.ndarray:
        """Each query's type by name; without padding."""
        return np.array(self.names)[np.asarray(self.kind)]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data of one run, on the host; facts are rows of token ids."""

    name: str  # the authors' folder name, or the folder's
    vocabulary: Vocabulary
    train: QueryTable
    probes: Probes
    id_facts: FactRows
    ood_facts: FactRows
    parts: Mapping[str, int]  # what `counts` has besides
    new_facts: FactRows = dataclasses.field(default_factory=lambda: NO_FACTS)  # of finetuning
    task: Task = COMPOSITION

    @property
    def counts(self) -> dict[str, int]:
        """What was realised: facts by kind, parts of the training items, probes by type."""
        of_type = np.bincount(self.probes.kind, minlength=len(self.probes.names)).tolist()
        facts = {"num_id_facts": len(self.id_facts), "num_ood_facts": len(self.ood_facts)}
        return (
            (facts if self.task.of_facts else {})
            | dict(self.parts)
            | {"num_train": len(self.train.query)}
            | {f"num_{n}": num for n, num in zip(self.probes.names, of_type, strict=True)}
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What the model sees and should say; PAD labels are ignored."""

    inputs: Int[Array, "B T"]
    labels: Int[Array, "B T"]
    answer_position: Int[Array, " B"]  # the first PAD of the input
    identifiers: Int[Array, " B"]  # rows of the registers' table


def make_dataset(data: ConfigDict, seed: int) -> Dataset:
    """Draws a graph, its splits and its probes as a config's `data` section asks.

    Args:
      data: settings; `folder` is not looked at.
      seed: of every draw (docs/protocol.md, sections 2.1 to 2.3).

    Raises:
      UserError: settings that no dataset can have.
    """
    augmentation = resolve_augmentation(data)
    num_tokens = data.num_entities + data.num_relations + len(SPECIAL_TOKENS)
    if num_tokens > MAX_TOKENS:
        raise UserError(
            f"data: num_entities and num_relations make {num_tokens:,} tokens; tables hold ids up"
            f" to {MAX_TOKENS:,}, so lower one"
        )
    graph = make_graph(
        data.num_entities, data.num_relations, data.out_degree, data.ood_fraction, seed
    )
    splits = make_splits(
        graph,
        phi=data.phi,
        iid_test_fraction=data.iid_test_fraction,
        augmentation=augmentation,
        max_probes=data.max_probes,
        seed=seed,
    )
    fact_ids = np.arange(graph.tail.size)
    ood = graph.is_ood.ravel()
    id_facts, ood_facts = (
        token_ids(graph.facts(ids), data.num_entities) for ids in (fact_ids[~ood], fact_ids[ood])
    )
    rows = {
        field.name: token_ids(getattr(splits, field.name), data.num_entities)
        for field in dataclasses.fields(Splits)
    }
    return dataset_of_splits(
        folder_name(data.num_entities, data.num_relations, data.phi, augmentation),
        make_vocabulary(data.num_entities, data.num_relations),
        id_facts,
        ood_facts,
        Splits(**rows),
        data.max_probes,
        seed,
    )


def dataset_of_splits(
    name: str,
    vocabulary: Vocabulary,
    id_facts: FactRows,
    ood_facts: FactRows,
    splits: Splits,
    max_probes: int,
    seed: int,
) -> Dataset:
    """The data of a run, given its facts and which compositions are for what, all as token ids."""

    def some(facts: FactRows, draw: str) -> CompositionRows:
        order = random_stream(seed, draw).permutation(len(facts))
        return one_hop(facts)[order[:max_probes]]

    base, hop1, hop2 = splits.train_base, splits.hop1_added, splits.hop2_added
    probes = {
        names.ID_ATOMIC: some(id_facts, "id atomic probes"),
        names.OOD_ATOMIC: some(ood_facts, "ood atomic probes"),
        # The pool is shuffled, so its first rows are a sample, and the same one for every phi.
        names.TRAIN_INFERRED: base[:max_probes],
        names.TEST_INFERRED_IID: splits.test_inferred_iid,
        names.TEST_INFERRED_OOD: splits.test_inferred_ood,
    }
    return Dataset(
        name,
        vocabulary,
        query_table(np.concatenate([one_hop(id_facts), one_hop(ood_facts), base, hop1, hop2])),
        probes_by_type(probes, seed),
        id_facts,
        ood_facts,
        {"num_base": len(base), "num_hop1_added": len(hop1), "num_hop2_added": len(hop2)},
    )


def probes_by_type(rows: Mapping[str, CompositionRows], seed: int) -> Probes:
    """`make_probes` of rows that are sorted by type already."""
    types = np.repeat(list(rows), [len(of_type) for of_type in rows.values()])
    return make_probes(np.concatenate(list(rows.values())), types, tuple(rows), seed)


def make_probes(
    rows: CompositionRows, types: Sequence[str] | np.ndarray, known: tuple[str, ...], seed: int
) -> Probes:
    """Compositions to test on.

    Args:
      rows: in any order.
      types: of each row.
      known: types that are reported, with rows or without any.
      seed: shuffles the bridges.
    """
    of_type = [np.asarray(types) == name for name in known]
    kind = np.full(len(rows), -1, np.int16)
    for i, where in enumerate(of_type):
        kind[where] = i
    hidden = hidden_tokens(rows[:, BRIDGE], of_type, seed)
    return Probes(query_table(rows), (hidden,), kind, known)


def hidden_tokens(
    token: Int[np.ndarray, " N"], of_type: Sequence[np.ndarray], seed: int, draw: str = "decoys"
) -> HiddenTokens:
    """Tokens that queries hide, with decoys.

    A decoy is that of another query of the type, so decoys are as frequent as the tokens: a model
    that has only learned which are common says decoys as often.

    Args:
      token: of each query.
      of_type: which queries are of each type.
      seed, draw: of the shuffles.
    """
    rng = random_stream(seed, draw)
    decoys = np.zeros((len(token), NUM_DECOYS), np.int16)
    for where in of_type:
        own = token[where]
        decoys[where] = np.stack([rng.permutation(own) for _ in range(NUM_DECOYS)], axis=1)
    return HiddenTokens(token.astype(np.int16), decoys)


def with_identity_queries(dataset: Dataset) -> Dataset:
    """Also trains on `(e) -> e` for each entity, the identity bridge of arXiv 2509.24653."""
    entities = sorted(dataset.vocabulary.entity_ids)
    rows = np.full((len(entities), ANSWER + 1), PAD, np.int16)
    rows[:, HEAD] = rows[:, ANSWER] = entities
    query = np.concatenate([np.asarray(dataset.train.query), rows[:, QUERY]])
    table = QueryTable(query, np.asarray(len(query), np.int32))
    parts = dict(dataset.parts) | {"num_identity": len(entities)}
    return dataclasses.replace(dataset, train=table, parts=parts)


def query_table(rows: CompositionRows) -> QueryTable:
    """Compositions without their bridges."""
    return QueryTable(rows[:, QUERY].astype(np.int16), np.asarray(len(rows), np.int32))


def with_bridges(
    query: Int[np.ndarray | Array, "n 4"], bridge: Int[np.ndarray | Array, " n"]
) -> CompositionRows:
    """The compositions of a query table, given their bridges."""
    return np.insert(np.asarray(query).astype(np.int32), BRIDGE, np.asarray(bridge), axis=1)


def token_ids(rows: FactRows | CompositionRows, num_entities: int) -> np.ndarray:
    """A graph's numbers as the tokens of `make_vocabulary`: entities and relations in turn."""
    is_relation = np.arange(rows.shape[1]) % 2
    return (rows + 1 + is_relation * num_entities).astype(np.int32)


def one_hop(facts: FactRows) -> CompositionRows:
    """Facts as queries: no bridge, no second relation."""
    rows = np.full((len(facts), ANSWER + 1), PAD, np.int32)
    rows[:, [HEAD, RELATION1, ANSWER]] = facts
    return rows


def folder_name(
    num_entities: int, num_relations: int, phi: float, augmentation: Augmentation
) -> str:
    """The authors' name for a dataset, e.g. `composition.2000.200.18.0_factaug_h1ratio0.5_...`."""
    a = augmentation
    return (
        f"composition.{num_entities}.{num_relations}.{float(phi)}_factaug"
        f"_h1ratio{float(a.hop1_ratio)}_h1k{a.hop1_k}_h2ratio{float(a.hop2_ratio)}_h2k{a.hop2_k}"
    )


def make_batch(query: Int[np.ndarray | Array, "B C"], end_id: int) -> Batch:
    """Inputs and labels of queries (docs/protocol.md, section 2.4); an all-PAD query asks nothing.

    Args:
      query: as in `QueryTable`.
      end_id: of `</a>`.

    Of compositions, two hops: input `h r1 r2`, labels `h r1 r2 t </a>`; one hop: input `h r`,
    labels `h r t </a>`; none (an identity query): input `h`, labels `h h </a>`.
    """
    *question, answer = jnp.asarray(query, jnp.int32).T
    nothing = jnp.zeros_like(answer)
    num_more = sum(((token != PAD).astype(jnp.int32) for token in question[1:]), nothing)
    end = jnp.where(question[0] == PAD, PAD, end_id)

    def label(place: int, token: Array) -> Array:
        """What comes at a place of the sequence, by the question's length, from 1 on."""
        if not place:
            return token
        after = {place: answer, place - 1: end}
        options = [
            token if length > place else after.get(length, nothing)
            for length in range(1, len(question) + 1)
        ]
        return jnp.stack(options)[num_more, jnp.arange(len(answer))]

    tokens = [*question, nothing, nothing]
    labels = [label(place, token) for place, token in enumerate(tokens)]
    return Batch(
        inputs=jnp.stack(tokens).T,
        labels=jnp.stack(labels).T,
        answer_position=num_more + 1,
        identifiers=nothing,
    )


def stack_datasets(datasets: Sequence[Dataset]) -> tuple[QueryTable, Probes]:
    """Training tables and probes of R runs with a leading run axis, padded to the largest.

    Probe names are the union over the runs, in the order in which their task declares them.

    Args:
      datasets: one per run.

    Returns:
      Tables query [R, N, 4] with size [R], and probes [R, Q, ...]; kind is -1 on padding.

    Raises:
      UserError: the runs have different tasks or vocabularies.
    """
    task = datasets[0].task
    if any(d.task != task for d in datasets):
        raise UserError("data: the runs of a population must share one task")
    if any(d.vocabulary != datasets[0].vocabulary for d in datasets):
        raise UserError("data: the runs of a population must share one vocabulary")
    known = tuple(n for n in task.type_names if any(n in d.probes.names for d in datasets))

    def stack(arrays: Sequence[np.ndarray], fill: int = PAD) -> np.ndarray:
        longest = max(len(a) for a in arrays)
        shape = (len(arrays), longest, *arrays[0].shape[1:])
        stacked = np.full(shape, fill, arrays[0].dtype)
        for row, array in zip(stacked, arrays, strict=True):
            row[: len(array)] = array
        return stacked

    def tables(all_tables: Sequence[QueryTable]) -> QueryTable:
        sizes = np.array([t.size for t in all_tables], np.int32)
        return QueryTable(stack([np.asarray(t.query) for t in all_tables]), sizes)

    kinds = []
    for d in datasets:
        place = np.array([known.index(n) for n in d.probes.names], np.int16)
        kinds.append(place[np.asarray(d.probes.kind)])
    probes = Probes(
        table=tables([d.probes.table for d in datasets]),
        hidden=tuple(
            HiddenTokens(
                stack([np.asarray(h.token) for h in of_runs]),
                stack([np.asarray(h.decoy) for h in of_runs]),
            )
            for of_runs in zip(*(d.probes.hidden for d in datasets), strict=True)
        ),
        kind=stack(kinds, fill=-1),
        names=known,
    )
    return tables([d.train for d in datasets]), probes
