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

from grokjax.base.errors import UserError
from grokjax.data.dataset import (
    FOLDER_TYPES,
    PAD,
    Dataset,
    Probes,
    QueryTable,
    assemble,
    atomic_rows,
)
from grokjax.data.graph import ID, NEW, OOD, chain_facts, fact_numbers, random_stream

DRAWN_BY = (  # the settings that a dataset follows from, besides the old data and its seed
    "folder", "num_new_facts", "num_kept", "retention", "new_share", "max_probes", "seed",
)  # fmt: skip
# By the kinds of fact at hop 1 and hop 2.
_HOPS = {"new_then_old": (NEW, ID), "old_then_new": (ID, NEW), "new_then_new": (NEW, NEW)}
# The authors' name for a category; what has none is no part of their folders.
AUTHORS_TYPE = {
    "new_then_old": "test_inferred_new_mix",
    "old_then_new": "test_inferred_new_mix",
    "new_then_new": "test_inferred_new",
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
    train = [atomic_rows(kept_facts), kept, atomic_rows(new)]
    probes = {"atomic_new": atomic_rows(new)}
    for name, rows in categories(old, new).items():
        rows = rows[stream(name).permutation(len(rows))]
        asked = len(rows) - round(settings.new_share * len(rows))
        probes[name] = rows[:asked]
        train.append(rows[asked:])
    probes |= {"kept_atomic": atomic_rows(kept_facts), "kept_inferred": kept}
    counts = {
        "num_new_facts": len(new),
        "num_kept_facts": len(kept_facts),
        "num_kept_compositions": len(kept),
        "num_new_compositions": sum(map(len, train[3:])),
    }
    return _assemble(
        old,
        np.concatenate(train),
        {name: rows[: settings.max_probes] for name, rows in probes.items()},
        new,
        counts,
        seed,
    )


def draw_new_facts(
    old: Dataset, num_facts: int, rng: np.random.Generator
) -> Int[np.ndarray, "n 3"]:
    """Chains of two facts with relations that their heads do not use, an odd last one alone.

    Raises:
      UserError: there are fewer unused pairs of head and relation.
    """
    entities = np.array(sorted(old.vocabulary.entity_ids))
    relations = np.array(sorted(old.vocabulary.relation_ids))
    used = np.zeros((old.vocabulary.size, old.vocabulary.size), bool)
    facts = np.concatenate([old.id_facts, old.ood_facts])
    used[facts[:, 0], facts[:, 1]] = True
    unused = {e: list(rng.permutation(relations[~used[e, relations]])) for e in entities.tolist()}
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
) -> tuple[Int[np.ndarray, "n 3"], Int[np.ndarray, "m 5"]]:
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
) -> tuple[Int[np.ndarray, "n 3"], Int[np.ndarray, "m 5"]]:
    """The authors' code: facts, each with every training composition of it, to exactly so many."""
    facts = np.concatenate([old.id_facts, old.ood_facts])
    facts = facts[rng.permutation(len(facts))]
    rows = trained_compositions(old)
    first, second = _hop_numbers(rows, facts)
    comes_with = np.minimum(first, second)
    # A fact stands before its compositions.
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


def trained_compositions(dataset: Dataset) -> Int[np.ndarray, "m 5"]:
    """The two-hop queries of a training set, with their bridges."""
    query = np.asarray(dataset.train.query).astype(np.int32)
    query = query[query[:, 2] != PAD]
    facts = np.concatenate([dataset.id_facts, dataset.ood_facts, dataset.new_facts])
    bridge = facts[fact_numbers(facts)(query[:, 0], query[:, 1]), 2]
    return np.insert(query, 2, bridge, axis=1)


def _hop_numbers(
    rows: Int[np.ndarray, "m 5"], facts: Int[np.ndarray, "n 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """Of both hops the number in `facts`, or -1."""
    number_of = fact_numbers(facts)
    return number_of(rows[:, 0], rows[:, 1]), number_of(rows[:, 2], rows[:, 3])


def categories(old: Dataset, new: Int[np.ndarray, "n 3"]) -> dict[str, Int[np.ndarray, "m 5"]]:
    """All compositions with a new fact and no OOD one, by the kinds of their hops."""
    facts = np.concatenate([old.id_facts, new])
    kind = np.repeat([ID, NEW], [len(old.id_facts), len(new)])
    first, second = chain_facts(facts)
    hops = np.stack([kind[first], kind[second]], axis=1)
    rows = np.concatenate([facts[first], facts[second][:, 1:]], axis=1)
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
    types = np.array(folder.probes.names)[np.asarray(folder.probes.kind)]
    new = query[types == "atomic_new"][:, [0, 1, 3]]
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
    bridge = np.where(two_hops, tails[first], PAD)
    rows = np.insert(query, 2, bridge, axis=1)
    rows[:, 2] *= two_hops
    probes = {name: rows[types == name] for name in dict.fromkeys([*types.tolist(), *_HOPS])}
    train = np.insert(np.asarray(folder.train.query).astype(np.int32), 2, PAD, axis=1)
    problems = {n: folder.counts.get(n, 0) for n in ("num_missing_facts", "num_contradictions")}
    return _assemble(old, train, probes, new, problems | {"num_new_facts": len(new)}, seed)


def for_folder(dataset: Dataset) -> Dataset:
    """A finetuning dataset as the authors' folders hold it: their types, and no lists of facts."""
    probes = dataset.probes
    types = np.array([AUTHORS_TYPE.get(name, name) for name in probes.names])[probes.kind]
    names = tuple(name for name in FOLDER_TYPES if name in types)
    rows = np.concatenate([np.flatnonzero(types == name) for name in names])
    nothing = np.zeros((0, 3), np.int32)
    table = QueryTable(np.asarray(probes.table.query)[rows], np.asarray(len(rows), np.int32))
    kind = np.array([names.index(name) for name in types[rows]], np.int16)
    return dataclasses.replace(
        dataset,
        probes=Probes(table, probes.bridge[rows], probes.decoy[rows], kind, names),
        id_facts=nothing,
        ood_facts=nothing,
        new_facts=nothing,
    )


def _assemble(
    old: Dataset,
    train: Int[np.ndarray, "n 5"],
    probes: dict[str, Int[np.ndarray, "q 5"]],
    new: Int[np.ndarray, "n 3"],
    counts: Mapping[str, int],
    seed: int,
) -> Dataset:
    """The old probes and those of finetuning, the latter in place of old ones of the same name."""
    rows = np.insert(np.asarray(old.probes.table.query).astype(np.int32), 2, PAD, axis=1)
    rows[:, 2] = old.probes.bridge
    before = {n: rows[old.probes.kind == i] for i, n in enumerate(old.probes.names)}
    own = before | probes
    facts = {"num_id_facts": len(old.id_facts), "num_ood_facts": len(old.ood_facts)}
    made = assemble(
        f"{old.name}_finetuning",
        old.vocabulary,
        train,
        np.concatenate(list(own.values())),
        np.repeat(np.arange(len(own)), [len(of_type) for of_type in own.values()]),
        tuple(own),
        old.id_facts,
        old.ood_facts,
        facts | dict(counts),
        seed,
    )
    return dataclasses.replace(made, new_facts=new)
