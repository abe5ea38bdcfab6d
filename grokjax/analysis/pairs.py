"""Clean and corrupted queries that differ in one token: what patching compares."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.data.dataset import Dataset
from grokjax.data.graph import (
    ANSWER,
    HEAD,
    ID,
    NEW,
    OOD,
    QUERY,
    RELATION1,
    RELATION2,
    chain_facts,
    compose,
)

MOST_COMPOSITIONS = 2**21  # that pairs are drawn from: over twice the paper's
SLOTS = ("head", "relation1", "relation2")
SPLITS = ("id", "ood")

_COLUMN = {"head": HEAD, "relation1": RELATION1, "relation2": RELATION2}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """N pairs of one slot and split; token ids (head, relation 1, bridge, relation 2, answer)."""

    slot: str
    split: str
    clean: Int[np.ndarray, "N 5"]
    corrupted: Int[np.ndarray, "N 5"]

    @property
    def queries(self) -> tuple[Int[np.ndarray, "N 4"], Int[np.ndarray, "N 4"]]:
        """Clean and corrupted as `make_batch` takes them."""
        return self.clean[:, QUERY], self.corrupted[:, QUERY]


class Compositions(NamedTuple):
    """Every composition of a graph: M rows as in `Pairs`, and each hop's kind of fact."""

    rows: Int[np.ndarray, "M 5"]
    hops: Int[np.ndarray, "M 2"]  # ID, OOD or NEW


def all_compositions(dataset: Dataset) -> Compositions:
    """What the facts of a dataset chain to; of over `MOST_COMPOSITIONS` those of some first facts.

    Raises:
      UserError: the dataset has no facts of its own (a finetuning folder).
    """
    kinds = (dataset.id_facts, dataset.ood_facts, dataset.new_facts)
    facts = np.concatenate(kinds).astype(np.int64)
    if not len(facts):
        raise UserError(
            f"{dataset.name}: has no list of facts to draw pairs from, so nothing to patch;"
            " grokjax.analysis.logit_lens needs none"
        )
    kind = np.repeat([ID, OOD, NEW], [len(of_kind) for of_kind in kinds])
    first, second = chain_facts(facts, MOST_COMPOSITIONS)
    rows = compose(facts[first], facts[second])
    return Compositions(rows, np.stack([kind[first], kind[second]], axis=1))


def draw_pairs(
    dataset: Dataset,
    slot: str,
    split: str,
    num_pairs: int,
    seed: int = 0,
    compositions: Compositions | None = None,
) -> Pairs:
    """Pairs that differ in exactly one token of the question, and in the answer.

    "id": both queries have two ID hops. "ood": the clean query has two OOD hops and the corrupted
    one is any composition, since too few of OOD ones share two tokens. No clean query comes twice,
    and every value of the differing token is drawn about as often.

    Args:
      dataset: with its facts.
      slot: one of SLOTS.
      split: one of SPLITS.
      num_pairs: at most; small graphs have fewer.
      seed: of the draw.
      compositions: `all_compositions(dataset)`, where it is at hand.

    Returns:
      Up to `num_pairs` pairs, none where the graph has none.
    """
    rows, hops = compositions or all_compositions(dataset)
    both = {"id": ID, "ood": OOD}[split]
    column = _COLUMN[slot]
    others = [c for c in _COLUMN.values() if c != column]
    key = rows[:, others[0]] * (rows.max() + 1) + rows[:, others[1]]
    asked = np.all(hops == both, axis=1)
    allowed = asked if split == "id" else np.ones(len(rows), bool)
    order = np.flatnonzero(allowed)[np.argsort(key[allowed], kind="stable")]
    keys = key[order]
    rng = random_stream(seed, f"pairs {slot} {split}")
    waiting: dict[int, list[int]] = {}
    for i in rng.permutation(np.flatnonzero(asked)):
        waiting.setdefault(int(rows[i, column]), []).append(int(i))
    clean: list[int] = []
    corrupted: list[int] = []
    while waiting and len(clean) < num_pairs:
        for value in list(waiting)[: num_pairs - len(clean)]:  # one of each, in turn
            while value in waiting:
                i = waiting[value].pop()
                if not waiting[value]:
                    del waiting[value]
                low, high = (np.searchsorted(keys, key[i], side) for side in ("left", "right"))
                same = order[low:high]
                differs = (rows[same, column] != rows[i, column]) & (
                    rows[same, ANSWER] != rows[i, ANSWER]
                )
                if np.any(differs):
                    clean.append(i)
                    corrupted.append(rng.choice(same[differs]))
                    break
    return Pairs(slot, split, rows[np.array(clean, int)], rows[np.array(corrupted, int)])


def stack_pairs(
    pairs: list[Pairs], num_pairs: int
) -> tuple[Int[np.ndarray, "C N 4"], Int[np.ndarray, "C N 4"], Bool[np.ndarray, "C N"]]:
    """Clean and corrupted queries of C cells (slot, split), all-PAD rows where one has fewer."""
    clean, corrupted = (np.zeros((len(pairs), num_pairs, 4), np.int32) for _ in range(2))
    there = np.zeros((len(pairs), num_pairs), bool)
    for i, cell in enumerate(pairs):
        n = len(cell.clean)
        clean[i, :n], corrupted[i, :n] = cell.queries
        there[i, :n] = True
    return clean, corrupted, there
