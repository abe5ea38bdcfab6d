"""Clean and corrupted queries that differ in one token: what patching compares."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from grokjax.dataset import Dataset
from grokjax.errors import UserError
from grokjax.graph import random_stream

SLOTS = ("head", "relation1", "relation2")
GROUPS = ("id", "ood")

# Columns of a composition: head, relation 1, bridge, relation 2, answer.
_COLUMN = {"head": 0, "relation1": 1, "relation2": 3}
_QUERY = [0, 1, 3, 4]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """N pairs of one slot and group; token ids (head, relation 1, bridge, relation 2, answer)."""

    slot: str
    group: str
    clean: Int[np.ndarray, "N 5"]
    corrupted: Int[np.ndarray, "N 5"]

    @property
    def queries(self) -> tuple[Int[np.ndarray, "N 4"], Int[np.ndarray, "N 4"]]:
        """Clean and corrupted as `make_batch` takes them."""
        return self.clean[:, _QUERY], self.corrupted[:, _QUERY]


class Compositions(NamedTuple):
    """Every composition of a graph: M rows as in `Pairs`, and how many of its hops are OOD."""

    rows: Int[np.ndarray, "M 5"]
    num_ood_hops: Int[np.ndarray, M]


def all_compositions(dataset: Dataset) -> Compositions:
    """What the facts of a dataset chain to.

    Raises:
      UserError: the dataset has no facts of its own (a finetuning folder).
    """
    facts = np.concatenate([dataset.id_facts, dataset.ood_facts]).astype(np.int64)
    if not len(facts):
        raise UserError(
            f"{dataset.name}: has no list of facts to draw pairs from, so nothing to patch;"
            " grokjax.analysis.logit_lens needs none"
        )
    is_ood = np.arange(len(facts)) >= len(dataset.id_facts)
    by_head = np.argsort(facts[:, 0], kind="stable")
    heads = facts[by_head, 0]
    start = np.searchsorted(heads, facts[:, 2], side="left")
    count = np.searchsorted(heads, facts[:, 2], side="right") - start
    first = np.repeat(np.arange(len(facts)), count)
    within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    second = by_head[np.repeat(start, count) + within]
    rows = np.concatenate([facts[first], facts[second][:, 1:]], axis=1)
    return Compositions(rows, is_ood[first].astype(int) + is_ood[second])


def draw_pairs(
    dataset: Dataset,
    slot: str,
    group: str,
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
      group: one of GROUPS.
      num_pairs: at most; small graphs have fewer.
      seed: of the draw.
      compositions: `all_compositions(dataset)`, where it is at hand.

    Returns:
      Up to `num_pairs` pairs, none where the graph has none.
    """
    rows, num_ood_hops = compositions or all_compositions(dataset)
    column = _COLUMN[slot]
    others = [c for c in _COLUMN.values() if c != column]
    key = rows[:, others[0]] * (rows.max() + 1) + rows[:, others[1]]
    allowed = num_ood_hops == 0 if group == "id" else np.ones(len(rows), bool)
    order = np.flatnonzero(allowed)[np.argsort(key[allowed], kind="stable")]
    keys = key[order]
    rng = random_stream(seed, f"pairs {slot} {group}")
    waiting: dict[int, list[int]] = {}
    for i in rng.permutation(np.flatnonzero(num_ood_hops == (0 if group == "id" else 2))):
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
                differs = (rows[same, column] != rows[i, column]) & (rows[same, 4] != rows[i, 4])
                if np.any(differs):
                    clean.append(i)
                    corrupted.append(rng.choice(same[differs]))
                    break
    return Pairs(slot, group, rows[np.array(clean, int)], rows[np.array(corrupted, int)])


def stack_pairs(
    pairs: list[Pairs], num_pairs: int
) -> tuple[Int[np.ndarray, "C N 4"], Int[np.ndarray, "C N 4"], Bool[np.ndarray, "C N"]]:
    """Clean and corrupted queries of C cells (slot, group), all-PAD rows where one has fewer."""
    clean, corrupted = (np.zeros((len(pairs), num_pairs, 4), np.int32) for _ in range(2))
    there = np.zeros((len(pairs), num_pairs), bool)
    for i, cell in enumerate(pairs):
        n = len(cell.clean)
        clean[i, :n], corrupted[i, :n] = cell.queries
        there[i, :n] = True
    return clean, corrupted, there
