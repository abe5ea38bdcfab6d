"""The graph, its compositions and what runs train on (docs/protocol.md, sections 2.1 to 2.3).

Everything here is drawn on the host with NumPy. Each draw has a random stream of its own, derived
from the data seed and the draw's name: changing phi or the augmentation changes neither the graph
nor the probes, and a smaller phi, ratio or k selects a prefix of what a larger one does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError

ID, OOD, NEW = range(3)  # kinds of facts; new ones come with finetuning
# Facts and compositions are rows: a graph's own numbers here, token ids everywhere else.
FactRows = Int[np.ndarray, "_ 3"]  # head, relation, tail
CompositionRows = Int[np.ndarray, "_ 5"]  # head, relation 1, bridge, relation 2, answer
HEAD, RELATION1, BRIDGE, RELATION2, ANSWER = range(5)
QUERY = [HEAD, RELATION1, RELATION2, ANSWER]  # a composition without the bridge that it hides
MAX_COMPOSITIONS = 2**27  # 160 times the paper's; some 10 GB while they are sorted out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KnowledgeGraph:
    """E entities with K facts `(head, relation) -> tail` each; a fact's id is `head * K + slot`."""

    relation: Int[np.ndarray, "E K"]
    tail: Int[np.ndarray, "E K"]
    is_ood: Bool[np.ndarray, "E K"]
    num_relations: int = dataclasses.field(metadata={"static": True})

    @property
    def num_entities(self) -> int:
        return self.tail.shape[0]

    @property
    def out_degree(self) -> int:
        return self.tail.shape[1]

    def facts(self, ids: Int[np.ndarray, " N"]) -> FactRows:
        """The rows of facts by id."""
        relation, tail = self.relation.ravel()[ids], self.tail.ravel()[ids]
        head = (ids // self.out_degree).astype(np.int32)
        return np.stack([head, relation, tail], axis=1)

    def compositions(
        self, first: Int[np.ndarray, " N"], second: Int[np.ndarray, " N"]
    ) -> CompositionRows:
        """The rows of chained facts by id."""
        return compose(self.facts(first), self.facts(second))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """OOD facts put into training compositions: which share of them, how many times each."""

    hop1_ratio: float
    hop1_k: int
    hop2_ratio: float
    hop2_k: int


HOP_SETTINGS = tuple(f"data.{field.name}" for field in dataclasses.fields(Augmentation))
REGIMES = {
    "natural": Augmentation(0.0, 0, 0.0, 0),
    "both_hop_full": Augmentation(1.0, 18, 1.0, 18),
    "both_hop_half": Augmentation(0.5, 9, 0.5, 9),
    "first_hop_full": Augmentation(1.0, 18, 0.0, 0),
    "second_hop_full": Augmentation(0.0, 0, 1.0, 18),
}


@dataclasses.dataclass(frozen=True)
class Splits:
    """Compositions by what they are for."""

    train_base: CompositionRows  # both hops ID; a prefix of the pool's order
    hop1_added: CompositionRows  # first hop OOD
    hop2_added: CompositionRows  # second hop OOD
    test_inferred_iid: CompositionRows  # both hops ID, held out; at most max_probes
    test_inferred_ood: CompositionRows  # both hops OOD; at most max_probes


def resolve_augmentation(data: ConfigDict) -> Augmentation:
    """The regime's numbers, each replaced where the config gives its own (0 or more).

    Args:
      data: the config's section: `regime`, `hop1_ratio`, `hop1_k`, `hop2_ratio`, `hop2_k`.
    """
    names = (field.name for field in dataclasses.fields(Augmentation))
    own = {name: data[name] for name in names if data[name] >= 0}
    return dataclasses.replace(REGIMES[data.regime], **own)


def regime_name(augmentation: Augmentation) -> str:
    """The paper's name for these numbers, or the numbers."""
    for name, regime in REGIMES.items():
        if regime == augmentation:
            return name
    a = augmentation
    return f"h1ratio{a.hop1_ratio:g}_h1k{a.hop1_k}_h2ratio{a.hop2_ratio:g}_h2k{a.hop2_k}"


def make_graph(
    num_entities: int, num_relations: int, out_degree: int, ood_fraction: float, seed: int
) -> KnowledgeGraph:
    """Each entity gets distinct relations with uniform tails; a share of all facts is OOD.

    Args:
      num_entities: E.
      num_relations: R.
      out_degree: K, facts per entity.
      ood_fraction: of all E * K facts, in [0, 1); rounded to a whole number of facts.
      seed: the data seed.

    Raises:
      UserError: the out-degree is over the relations.
    """
    if out_degree > num_relations:
        raise UserError(
            f"data.out_degree: {out_degree} is over num_relations {num_relations}; an entity's"
            " relations are distinct, so lower it or add relations"
        )
    rng = random_stream(seed, "graph")
    shuffled = np.argsort(rng.random((num_entities, num_relations)), axis=1)
    tail = rng.integers(num_entities, size=(num_entities, out_degree))
    num_facts = num_entities * out_degree
    is_ood = np.zeros(num_facts, bool)
    num_ood = round(ood_fraction * num_facts)
    is_ood[random_stream(seed, "ood facts").permutation(num_facts)[:num_ood]] = True
    return KnowledgeGraph(
        relation=shuffled[:, :out_degree].astype(np.int32),
        tail=tail.astype(np.int32),
        is_ood=is_ood.reshape(num_entities, out_degree),
        num_relations=num_relations,
    )


def make_splits(
    graph: KnowledgeGraph,
    *,
    phi: float,
    iid_test_fraction: float,
    augmentation: Augmentation,
    max_probes: int,
    seed: int,
) -> Splits:
    """Which compositions a run trains on and which ones test it.

    Args:
      graph: the facts.
      phi: training compositions per ID fact; infinity takes the whole pool.
      iid_test_fraction: share of the both-ID compositions held out.
      augmentation: what is added on top.
      max_probes: at most this many compositions of each test type.
      seed: the data seed.

    Raises:
      UserError: phi asks for more compositions than there are, or they are too many to build.
    """
    num_compositions = graph.tail.size * graph.out_degree
    if num_compositions > MAX_COMPOSITIONS:
        raise UserError(
            f"data: this graph has {num_compositions:,} compositions, over the"
            f" {MAX_COMPOSITIONS:,} that are built in memory; lower out_degree or num_entities"
        )
    first, second = _chained_facts(graph)
    ood = graph.is_ood.ravel()
    both_id = ~ood[first] & ~ood[second]
    held_out = random_stream(seed, "iid test").random(len(first)) < iid_test_fraction

    # The pool has one order whatever phi is, so a larger phi adds compositions and takes none away:
    # what differs between two such runs is the amount of data, not its choice.
    pool = np.flatnonzero(both_id & ~held_out)
    pool = pool[random_stream(seed, "pool order").permutation(len(pool))]
    base = pool[: _base_size(phi, int(np.sum(~ood)), len(pool))]
    iid = _probes(np.flatnonzero(both_id & held_out), max_probes, seed, "iid probes")
    both_ood = _probes(np.flatnonzero(ood[first] & ood[second]), max_probes, seed, "ood probes")

    a = augmentation
    hop1 = _augment(
        first, both_ood, ~ood[second], a.hop1_ratio, a.hop1_k, random_stream(seed, "hop 1")
    )
    hop2 = _augment(
        second, both_ood, ~ood[first], a.hop2_ratio, a.hop2_k, random_stream(seed, "hop 2")
    )
    return Splits(
        *(
            graph.compositions(first[rows], second[rows])
            for rows in (base, hop1, hop2, iid, both_ood)
        )
    )


def _chained_facts(graph: KnowledgeGraph) -> tuple[np.ndarray, np.ndarray]:
    """Fact ids of both hops of all E * K * K compositions."""
    k = graph.out_degree
    first = np.repeat(np.arange(graph.tail.size), k)
    second = (graph.tail.reshape(-1, 1) * k + np.arange(k)).ravel()
    return first, second


def compose(hop1: FactRows, hop2: FactRows) -> CompositionRows:
    """Row by row; each fact of hop 2 starts where that of hop 1 ends."""
    return np.concatenate([hop1, hop2[:, 1:]], axis=1)


def chain_facts(facts: FactRows, most: int = MAX_COMPOSITIONS) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of both hops of everything that facts chain to.

    Where that is over `most`, only some facts come first, the same ones each time.
    """
    by_head = np.argsort(facts[:, 0], kind="stable")
    heads = facts[by_head, 0]
    start = np.searchsorted(heads, facts[:, 2], side="left")
    count = np.searchsorted(heads, facts[:, 2], side="right") - start
    if count.sum() > most:
        order = random_stream(0, "chained first").permutation(len(facts))
        count[order[np.cumsum(count[order]) > most]] = 0
    first = np.repeat(np.arange(len(facts)), count)
    within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    return first, by_head[np.repeat(start, count) + within]


def fact_numbers(facts: FactRows) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(heads, relations) -> row numbers of their facts, -1 without one; a later duplicate wins."""
    width = int(facts[:, 1].max(initial=0)) + 1
    keys = facts[:, 0].astype(np.int64) * width + facts[:, 1]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]

    def number_of(head: np.ndarray, relation: np.ndarray) -> np.ndarray:
        if not len(keys):
            return np.full(len(head), -1)
        wanted = head.astype(np.int64) * width + relation
        place = np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)
        known = (keys[place] == wanted) & (relation < width)
        return np.where(known, order[place], -1)

    return number_of


def _base_size(phi: float, num_id_facts: int, pool_size: int) -> int:
    if phi == float("inf"):
        return pool_size
    wanted = phi * num_id_facts
    if wanted > pool_size + 0.5 or round(wanted) > pool_size:
        largest = math.floor(1000 * pool_size / num_id_facts) / 1000
        raise UserError(
            f"data.phi: {phi:g} asks for {wanted:,.0f} training compositions, the pool has"
            f" {pool_size:,}; give at most {largest}, or inf for all"
        )
    return round(wanted)


def _probes(rows: np.ndarray, max_probes: int, seed: int, draw: str) -> np.ndarray:
    if len(rows) <= max_probes:
        return rows
    return np.sort(rows[random_stream(seed, draw).permutation(len(rows))[:max_probes]])


def _augment(
    fact: np.ndarray,
    probes: np.ndarray,
    other_is_id: np.ndarray,
    ratio: float,
    k: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Compositions that put OOD facts of the probes next to ID facts, at most k per fact.

    Args:
      fact: of every composition, the fact at the augmented hop.
      probes: the OOD test compositions.
      other_is_id: of every composition, whether the fact at the other hop is ID.
      ratio: share of the probes' facts to use.
      k: compositions per chosen fact.
      rng: draws the facts and their compositions.
    """
    universe = np.unique(fact[probes])
    order = rng.permutation(universe)
    chosen = order[: round(ratio * len(universe))]
    rows = np.flatnonzero(np.isin(fact, universe) & other_is_id)
    rows = rows[rng.permutation(len(rows))]
    # In each fact's own random order, keep its first k.
    rows = rows[np.argsort(fact[rows], kind="stable")]
    sorted_facts = fact[rows]
    rank = np.arange(len(rows)) - np.searchsorted(sorted_facts, sorted_facts)
    return np.sort(rows[(rank < k) & np.isin(sorted_facts, chosen)])
