"""What a finetuned run trains on and is tested on: new facts, and what is kept of the old data.

Definitions: docs/protocol.md, section 2.5. New facts come in chains `(a, r1) -> b`, `(b, r2) -> t`
of relations that their heads did not use. All arrays hold token ids; each draw has a random stream
of its own, and fewer new facts, or fewer kept, are a prefix of more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from grokjax.base import names
from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.data.dataset import (
    Dataset,
    QueryTable,
    one_hop,
    probes_by_type,
    query_table,
    with_bridges,
)
from grokjax.data.graph import (
    BRIDGE,
    HEAD,
    ID,
    NEW,
    OOD,
    RELATION1,
    RELATION2,
    CompositionRows,
    FactRows,
    chain_facts,
    compose,
    fact_numbers,
)
from grokjax.data.vocabulary import PAD

DRAWN_BY = (  # the settings that a dataset follows from, besides the old data and its seed
    "folder", "num_new_facts", "num_kept", "retention", "new_share", "max_probes", "seed",
)  # fmt: skip
# By the kinds of fact at hop 1 and hop 2.
_HOPS = {
    names.NEW_THEN_OLD: (NEW, ID),
    names.OLD_THEN_NEW: (ID, NEW),
    names.NEW_THEN_NEW: (NEW, NEW),
}


def finetuning_dataset(old: Dataset, settings: ConfigDict, seed: int) -> Dataset:
    """New facts, some of the old data, and queries that chain new facts with old ones.

    Args:
      old: what the source run was trained on.
      settings: a config's `transfer` section (num_new_facts, num_kept, retention, new_share, seed,
        max_probes).
      seed: the data seed.

    Returns:
      A dataset whose probes are `old`'s, `atomic_new`, CATEGORIES (no query of these is trained
      on), and up to max_probes kept facts and compositions, `kept_atomic` and `kept_inferred`.

    Raises:
      UserError: the graph has no room for so many new facts, or too little to keep.
    """
    if not len(old.id_facts):
        raise UserError(f"{old.name}: has no list of facts, so no new ones can be told from them")

    def stream(draw: str) -> np.random.Generator:
        return random_stream(seed, f"{draw} {settings.seed}")

    new = draw_new_facts(old, settings.num_new_facts, stream("new facts"))
    if settings.retention == "facts":
        kept_facts, kept = keep_facts(old, settings.num_kept, stream("kept facts"))
    else:
        kept_facts, kept = keep_closure(old, settings.num_kept, stream("kept closure"))
    train = [one_hop(kept_facts), kept, one_hop(new)]
    probes = {names.ATOMIC_NEW: one_hop(new)}
    for name, rows in categories(old, new).items():
        rows = rows[stream(name).permutation(len(rows))]
        asked = len(rows) - round(settings.new_share * len(rows))
        probes[name] = rows[:asked]
        train.append(rows[asked:])
    probes |= {names.KEPT_ATOMIC: one_hop(kept_facts), names.KEPT_INFERRED: kept}
    parts = {
        "num_new_facts": len(new),
        "num_kept_facts": len(kept_facts),
        "num_kept_compositions": len(kept),
        "num_new_compositions": sum(map(len, train[3:])),
    }
    probes = {name: rows[: settings.max_probes] for name, rows in probes.items()}
    return _on_top(old, query_table(np.concatenate(train)), probes, new, parts, seed)


def draw_new_facts(old: Dataset, num_facts: int, rng: np.random.Generator) -> FactRows:
    """Chains of two facts with relations that their heads do not use, an odd last one alone.

    Raises:
      UserError: there are fewer unused pairs of head and relation.
    """
    entities = np.array(sorted(old.vocabulary.entity_ids))
    relations = np.array(sorted(old.vocabulary.relation_ids))
    used = np.zeros((old.vocabulary.size, old.vocabulary.size), bool)
    facts = np.concatenate([old.id_facts, old.ood_facts])
    used[facts[:, 0], facts[:, 1]] = True
    unused = {
        e: rng.permutation(relations[~used[e, relations]]).tolist() for e in entities.tolist()
    }
    room = sum(map(len, unused.values()))
    if num_facts > room:
        raise UserError(
            f"transfer.num_new_facts: {num_facts:,}, but only {room:,} pairs of head and relation"
            " are unused; give fewer, or train the source with more relations"
        )
    new: list[tuple[int, int, int]] = []
    while len(new) < num_facts:
        a = _with_room(entities, unused, rng)
        first = unused[a].pop()
        b = _with_room(entities, unused, rng) if any(unused.values()) else rng.choice(entities)
        new.append((a, first, b))
        if len(new) < num_facts:
            new.append((b, unused[b].pop(), rng.choice(entities)))
    return np.array(new, np.int32)


def _with_room(
    entities: Int[np.ndarray, " N"], unused: dict[int, list[int]], rng: np.random.Generator
) -> int:
    """A random entity that has an unused relation."""
    while True:
        if unused[entity := int(rng.choice(entities))]:
            return entity


def keep_facts(
    old: Dataset, num_facts: int, rng: np.random.Generator
) -> tuple[FactRows, CompositionRows]:
    """The paper's text: so many ID facts, and all training compositions of two kept facts."""
    if num_facts > len(old.id_facts):
        raise UserError(
            f"transfer.num_kept: {num_facts:,} facts, the source has {len(old.id_facts):,} ID"
            " facts; give fewer"
        )
    facts = old.id_facts[rng.permutation(len(old.id_facts))[:num_facts]]
    rows = trained_compositions(old)
    first, second = _hop_numbers(rows, facts)
    return facts, rows[(first >= 0) & (second >= 0)]


def keep_closure(
    old: Dataset, num_items: int, rng: np.random.Generator
) -> tuple[FactRows, CompositionRows]:
    """The authors' code: facts, each with every training composition of it, to exactly so many.

    A fact's closure is what the source was taught with it. Facts and compositions stand in one
    order, each composition right behind the first of its two facts, and the first `num_items` are
    kept: of the last fact perhaps not all compositions.
    """
    facts = np.concatenate([old.id_facts, old.ood_facts])
    facts = facts[rng.permutation(len(facts))]
    rows = trained_compositions(old)
    first, second = _hop_numbers(rows, facts)
    comes_with = np.minimum(first, second)
    place = np.concatenate([2 * np.arange(len(facts)), 2 * comes_with + 1])
    order = np.argsort(place, kind="stable")
    if num_items > len(order):
        raise UserError(
            f"transfer.num_kept: {num_items:,} items, the source was trained on {len(order):,};"
            " give fewer"
        )
    chosen = order[:num_items]
    is_fact = chosen < len(facts)
    return facts[chosen[is_fact]], rows[chosen[~is_fact] - len(facts)]


def trained_compositions(dataset: Dataset) -> CompositionRows:
    """The two-hop queries of a training set, with their bridges."""
    query = np.asarray(dataset.train.query)
    query = query[query[:, 2] != PAD]
    facts = np.concatenate([dataset.id_facts, dataset.ood_facts, dataset.new_facts])
    return with_bridges(query, facts[fact_numbers(facts)(query[:, 0], query[:, 1]), 2])


def _hop_numbers(rows: CompositionRows, facts: FactRows) -> tuple[np.ndarray, np.ndarray]:
    """Of both hops the number in `facts`, or -1."""
    number_of = fact_numbers(facts)
    return (
        number_of(rows[:, HEAD], rows[:, RELATION1]),
        number_of(rows[:, BRIDGE], rows[:, RELATION2]),
    )


def categories(old: Dataset, new: FactRows) -> dict[str, CompositionRows]:
    """All compositions with a new fact and no OOD one, by the kinds of their hops."""
    facts = np.concatenate([old.id_facts, new])
    kind = np.repeat([ID, NEW], [len(old.id_facts), len(new)])
    first, second = chain_facts(facts)
    hops = np.stack([kind[first], kind[second]], axis=1)
    rows = compose(facts[first], facts[second])
    return {name: rows[np.all(hops == pair, axis=1)] for name, pair in _HOPS.items()}


def from_folder(old: Dataset, folder: Dataset, seed: int) -> Dataset:
    """A finetuning folder of the authors, its queries sorted by what the old graph says.

    Args:
      old: what the source run was trained on.
      folder: from `read_folder`.
      seed: shuffles bridges for the chance level.

    Raises:
      UserError: it belongs to another graph.
    """
    if folder.vocabulary != old.vocabulary:
        raise UserError(f"transfer.folder {folder.name}: has another vocabulary than the source")
    query = np.asarray(folder.probes.table.query).astype(np.int32)
    types = folder.probes.types
    new = query[types == names.ATOMIC_NEW][:, [0, 1, 3]]
    facts = np.concatenate([old.id_facts, old.ood_facts, new])
    sizes = [len(f) for f in (old.id_facts, old.ood_facts, new)]
    kind, number_of = np.repeat([ID, OOD, NEW], sizes), fact_numbers(facts)
    kind, tails = np.append(kind, -1), np.append(facts[:, 2], PAD)  # the last is for -1
    first = number_of(query[:, 0], query[:, 1])
    second = number_of(tails[first], query[:, 2])
    two_hops = query[:, 2] != PAD
    answer = tails[np.where(two_hops, second, first)]
    asks_new = np.char.find(types, "new") >= 0
    if not len(new) or np.any(answer[~asks_new] != query[~asks_new, 3]):
        raise UserError(
            f"transfer.folder {folder.name}: its old queries do not follow from the source's"
            " facts; give the folder that belongs to the source's data"
        )
    for name, hops in _HOPS.items():
        types[two_hops & asks_new & (kind[first] == hops[0]) & (kind[second] == hops[1])] = name
    rows = with_bridges(query, np.where(two_hops, tails[first], PAD))
    probes = {name: rows[types == name] for name in dict.fromkeys([*types.tolist(), *_HOPS])}
    problems = {n: folder.parts.get(n, 0) for n in ("num_missing_facts", "num_contradictions")}
    parts = problems | {"num_new_facts": len(new)}
    return _on_top(old, folder.train, probes, new, parts, seed)


def _on_top(
    old: Dataset,
    train: QueryTable,
    probes: Mapping[str, CompositionRows],
    new: FactRows,
    parts: Mapping[str, int],
    seed: int,
) -> Dataset:
    """The old probes and those of finetuning, the latter in place of old ones of the same name."""
    rows = with_bridges(old.probes.table.query, old.probes.bridge)
    before = {n: rows[old.probes.kind == i] for i, n in enumerate(old.probes.names)}
    return dataclasses.replace(
        old,
        name=f"{old.name}_finetuning",
        train=train,
        probes=probes_by_type(before | dict(probes), seed),
        parts=parts,
        new_facts=new,
    )
