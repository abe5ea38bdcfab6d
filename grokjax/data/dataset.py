"""What a run trains on and is tested on: query tables, tokens and labels, probe sets."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int16
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.data.graph import (
    Augmentation,
    Splits,
    make_graph,
    make_splits,
    random_stream,
    resolve_augmentation,
)

PAD = 0
POSITIONS = ("head", "relation1", "relation2", "answer", "end")  # of a composition
NUM_TOKENS = len(POSITIONS)  # T
NUM_DECOYS = 8
MAX_TOKENS = 2**15 - 1  # ids are stored in 16 bits
TOKEN = re.compile(r"<[^<>]*>")
SPECIAL_TOKENS = ("<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>")
FOLDER_TYPES = (  # as the authors name them
    "id_atomic",
    "ood_atomic",
    "train_inferred",
    "test_inferred_iid",
    "test_inferred_ood",
    "atomic_new",
    "test_inferred_new",
    "test_inferred_new_mix",
)
CATEGORIES = ("new_then_old", "old_then_new", "new_then_new")  # kind of hop 1, of hop 2
PROBE_TYPES = (*FOLDER_TYPES, *CATEGORIES, "kept_atomic", "kept_inferred")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens by id: PAD is 0, `tokens[i]` has id i + 1."""

    tokens: tuple[str, ...]

    @property
    def size(self) -> int:
        """V: the tokens and PAD."""
        return len(self.tokens) + 1

    @property
    def end_id(self) -> int:
        """Of `</a>`, which ends every answer."""
        return self.ids["</a>"]

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """Id by token."""
        return {token: i + 1 for i, token in enumerate(self.tokens)}

    @functools.cached_property
    def entity_ids(self) -> frozenset[int]:
        """Ids of `<e_...>`."""
        return frozenset(i for token, i in self.ids.items() if token.startswith("<e_"))

    @functools.cached_property
    def relation_ids(self) -> frozenset[int]:
        """Ids of `<r_...>`."""
        return frozenset(i for token, i in self.ids.items() if token.startswith("<r_"))

    def encode(self, text: str) -> list[int]:
        """Ids of a text such as `<e_0><r_1>`.

        Raises:
          UserError: the text has an unknown token, or something between tokens.
        """
        pieces = TOKEN.findall(text)
        if "".join(pieces) != text:
            raise UserError(f"text outside of tokens in {text[:60]!a}; write <e_0><r_1>")
        try:
            return [self.ids[piece] for piece in pieces]
        except KeyError as error:
            unknown = str(error.args[0])[:60]
            raise UserError(f"unknown token {unknown!a}; the vocabulary lacks it") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, PADs dropped."""
        return "".join(self.tokens[i - 1] for i in ids if i != PAD)


def make_vocabulary(num_entities: int, num_relations: int) -> Vocabulary:
    """`<e_0>` ..., `<r_0>` ..., then the special tokens."""
    entities = (f"<e_{i}>" for i in range(num_entities))
    relations = (f"<r_{i}>" for i in range(num_relations))
    return Vocabulary((*entities, *relations, *SPECIAL_TOKENS))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QueryTable:
    """Queries as token ids: head, relation 1, relation 2 (PAD for an atomic fact), answer.

    An identity query has no relation at all.

    Rows from `size` on are padding, all 0.
    """

    query: Int16[np.ndarray | Array, "N 4"]
    size: Int[np.ndarray | Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Probes:
    """All probe sets of a run in one table."""

    table: QueryTable
    bridge: Int16[np.ndarray | Array, " Q"]  # token id; PAD where there is none
    decoy: Int16[np.ndarray | Array, "Q 8"]  # bridges shuffled within the type, for chance levels
    kind: Int16[np.ndarray | Array, " Q"]  # index into names; -1 for padding
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data of one run, on the host."""

    name: str  # the authors' folder name, or the folder's
    vocabulary: Vocabulary
    train: QueryTable
    probes: Probes
    id_facts: Int[np.ndarray, "n 3"]  # token ids (head, relation, tail)
    ood_facts: Int[np.ndarray, "n 3"]
    counts: Mapping[str, int]  # what was realised: items and facts by kind
    new_facts: Int[np.ndarray, "n 3"] = dataclasses.field(  # of finetuning
        default_factory=lambda: np.zeros((0, 3), np.int32)
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
        fact_tokens(graph.facts(ids), data.num_entities) for ids in (fact_ids[~ood], fact_ids[ood])
    )
    tables = {
        name: composition_tokens(getattr(splits, name), data.num_entities)
        for name in (field.name for field in dataclasses.fields(Splits))
    }
    base, hop1, hop2 = (tables[n] for n in ("train_base", "hop1_added", "hop2_added"))

    def some(rows: np.ndarray, draw: str) -> np.ndarray:
        return rows[random_stream(seed, draw).permutation(len(rows))[: data.max_probes]]

    probe_rows = {
        "id_atomic": some(atomic_rows(id_facts), "id atomic probes"),
        "ood_atomic": some(atomic_rows(ood_facts), "ood atomic probes"),
        # The pool is shuffled, so its first rows are a sample, and the same one for every phi.
        "train_inferred": base[: data.max_probes],
        "test_inferred_iid": tables["test_inferred_iid"],
        "test_inferred_ood": tables["test_inferred_ood"],
    }
    train = np.concatenate([atomic_rows(id_facts), atomic_rows(ood_facts), base, hop1, hop2])
    counts = {
        "num_id_facts": len(id_facts),
        "num_ood_facts": len(ood_facts),
        "num_base": len(base),
        "num_hop1_added": len(hop1),
        "num_hop2_added": len(hop2),
    }
    return assemble(
        folder_name(data.num_entities, data.num_relations, data.phi, augmentation),
        make_vocabulary(data.num_entities, data.num_relations),
        train,
        np.concatenate(list(probe_rows.values())),
        np.repeat(np.arange(len(probe_rows)), [len(rows) for rows in probe_rows.values()]),
        tuple(probe_rows),
        id_facts,
        ood_facts,
        counts,
        seed,
    )


def assemble(
    name: str,
    vocabulary: Vocabulary,
    train: Int[np.ndarray, "n 5"],
    probes: Int[np.ndarray, "Q 5"],
    kind: Int[np.ndarray, " Q"],
    names: tuple[str, ...],
    id_facts: Int[np.ndarray, "n 3"],
    ood_facts: Int[np.ndarray, "n 3"],
    counts: Mapping[str, int],
    seed: int,
) -> Dataset:
    """A Dataset from rows of token ids (head, relation 1, bridge, relation 2, answer).

    Args:
      name: of the dataset.
      vocabulary: that the ids are of.
      train: rows to train on.
      probes, kind: rows to test on, in any order, and the index of each one's type in `names`.
      names: probe types.
      id_facts, ood_facts: (head, relation, tail).
      counts: what else to report.
      seed: shuffles bridges within their type for the chance level.
    """
    rng = random_stream(seed, "decoys")
    decoys = np.zeros((len(probes), NUM_DECOYS), np.int16)
    for i in range(len(names)):
        of_type = np.flatnonzero(kind == i)
        bridges = probes[of_type, 2]
        decoys[of_type] = np.stack([rng.permutation(bridges) for _ in range(NUM_DECOYS)], axis=1)
    return Dataset(
        name=name,
        vocabulary=vocabulary,
        train=query_table(train),
        probes=Probes(
            query_table(probes), probes[:, 2].astype(np.int16), decoys, kind.astype(np.int16), names
        ),
        id_facts=id_facts,
        ood_facts=ood_facts,
        counts=dict(counts)
        | {"num_train": len(train)}
        | {f"num_{n}": int(np.sum(kind == i)) for i, n in enumerate(names)},
    )


def with_identity_queries(dataset: Dataset) -> Dataset:
    """Also trains on `(e) -> e` for each entity, the identity bridge of arXiv 2509.24653."""
    entities = np.array(sorted(dataset.vocabulary.entity_ids), np.int16)
    query = np.zeros((len(entities), 4), np.int16)
    query[:, 0] = query[:, 3] = entities
    train = np.concatenate([np.asarray(dataset.train.query), query])
    table = QueryTable(train, np.asarray(len(train), np.int32))
    counts = dict(dataset.counts) | {"num_train": len(train), "num_identity": len(query)}
    return dataclasses.replace(dataset, train=table, counts=counts)


def query_table(rows: Int[np.ndarray, "n 5"]) -> QueryTable:
    """Rows of token ids (head, relation 1, bridge, relation 2, answer) without their bridges."""
    return QueryTable(rows[:, [0, 1, 3, 4]].astype(np.int16), np.asarray(len(rows), np.int32))


def fact_tokens(facts: Int[np.ndarray, "n 3"], num_entities: int) -> Int[np.ndarray, "n 3"]:
    """Token ids of (head, relation, tail)."""
    return facts + np.array([1, 1 + num_entities, 1], np.int32)


def composition_tokens(rows: Int[np.ndarray, "n 5"], num_entities: int) -> Int[np.ndarray, "n 5"]:
    """Token ids of (head, relation 1, bridge, relation 2, tail)."""
    return rows + np.array([1, 1 + num_entities, 1, 1 + num_entities, 1], np.int32)


def atomic_rows(facts: Int[np.ndarray, "n 3"]) -> Int[np.ndarray, "n 5"]:
    """Facts as one-hop queries: no bridge, no second relation."""
    rows = np.full((len(facts), 5), PAD, np.int32)
    rows[:, [0, 1, 4]] = facts
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


def make_batch(query: Int[Array, "B 4"], end_id: int) -> Batch:
    """Inputs and labels of queries (docs/protocol.md, section 2.4); an all-PAD query asks nothing.

    Args:
      query: head, relation 1, relation 2 (PAD for an atomic fact), answer.
      end_id: of `</a>`.

    Two hops: input `h r1 r2`, labels `h r1 r2 t </a>`; one hop: input `h r`, labels `h r t </a>`;
    none (an identity query): input `h`, labels `h h </a>`.
    """
    head, relation1, relation2, answer = query.astype(jnp.int32).T
    nothing = jnp.zeros_like(head)
    num_hops = (relation1 != PAD).astype(jnp.int32) + (relation2 != PAD)
    end = jnp.where(head == PAD, PAD, end_id)

    def by_hops(*options: Array) -> Array:
        return jnp.stack(options)[num_hops, jnp.arange(len(head))]

    labels = [
        head,
        by_hops(answer, relation1, relation1),
        by_hops(end, answer, relation2),
        by_hops(nothing, end, answer),
        by_hops(nothing, nothing, end),
    ]
    return Batch(
        inputs=jnp.stack([head, relation1, relation2, nothing, nothing], axis=1),
        labels=jnp.stack(labels, axis=1),
        answer_position=num_hops + 1,
        identifiers=nothing,
    )


def stack_datasets(datasets: Sequence[Dataset]) -> tuple[QueryTable, Probes]:
    """Training tables and probes of R runs with a leading run axis, padded to the largest.

    Probe names are the union over the runs, in the order of `PROBE_TYPES`.

    Args:
      datasets: one per run.

    Returns:
      Tables query [R, N, 4] with size [R], and probes [R, Q, ...]; kind is -1 on padding.

    Raises:
      UserError: the runs have different vocabularies.
    """
    if any(d.vocabulary != datasets[0].vocabulary for d in datasets):
        raise UserError("data: the runs of a population must share one vocabulary")
    names = tuple(n for n in PROBE_TYPES if any(n in d.probes.names for d in datasets))

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
        place = np.array([names.index(n) for n in d.probes.names], np.int16)
        kinds.append(place[np.asarray(d.probes.kind)])
    probes = Probes(
        table=tables([d.probes.table for d in datasets]),
        bridge=stack([np.asarray(d.probes.bridge) for d in datasets]),
        decoy=stack([np.asarray(d.probes.decoy) for d in datasets]),
        kind=stack(kinds, fill=-1),
        names=names,
    )
    return tables([d.train for d in datasets]), probes
