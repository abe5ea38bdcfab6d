"""Clean and corrupted queries that differ in one token: what patching compares."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import Dataset
from grokjax.data.graph import (
    ID,
    NEW,
    OOD,
    QUERY,
    chain_facts,
    compose,
)
from grokjax.data.task import Task
from grokjax.data.vocabulary import PAD

MOST_COMPOSITIONS = 2**21  # that pairs are drawn from: over twice the paper's
SLOTS = COMPOSITION.question  # of compositions; another task's are its question's
SPLITS = ("id", "ood")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """N pairs of one slot and split, as rows of token ids.

    Of compositions: head, relation 1, bridge, relation 2, answer; of other tasks the question and
    the answer. `columns` are those of a query.
    """

    slot: str
    split: str
    clean: Int[np.ndarray, "N W"]
    corrupted: Int[np.ndarray, "N W"]
    columns: tuple[int, ...] = tuple(QUERY)

    @property
    def queries(self) -> tuple[Int[np.ndarray, "N C"], Int[np.ndarray, "N C"]]:
        """Clean and corrupted as `make_batch` takes them."""
        return self.clean[:, self.columns], self.corrupted[:, self.columns]


class Pool(NamedTuple):
    """What pairs are drawn from: rows and query columns as in `Pairs`, and each row's split.

    A split is one of SPLITS, or empty: of a query that can only be the corrupted one.
    """

    rows: Int[np.ndarray, "M W"]
    columns: tuple[int, ...]
    split: np.ndarray


def query_pool(dataset: Dataset) -> Pool:
    """Everything that can be asked, of a task of facts; else what is trained and what is tested.

    "id" are queries of the kind that is trained on, "ood" those of the generalisation type.

    Raises:
      UserError: as `all_compositions`.
    """
    task = dataset.task
    if task.of_facts:
        rows, hops = all_compositions(dataset)
        split = np.full(len(rows), "", object)
        for name, kind in zip(SPLITS, (ID, OOD), strict=True):
            split[np.all(hops == kind, axis=1)] = name
        return Pool(rows, query_columns(task), split)
    probes = dataset.probes
    unseen = np.asarray(probes.table.query)[probes.types == task.generalisation]
    trained = np.unique(np.asarray(dataset.train.query), axis=0)
    trained = trained[np.all(trained != PAD, axis=1)]
    rows = np.concatenate([trained, unseen]).astype(np.int64)
    split = np.repeat(np.array(SPLITS, object), [len(trained), len(unseen)])
    return Pool(rows, query_columns(task), split)


def query_columns(task: Task) -> tuple[int, ...]:
    """Of a row as in `Pairs`: those of the question, and the answer."""
    return tuple(QUERY) if task.of_facts else tuple(range(len(task.question) + 1))


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
    pool: Pool | None = None,
) -> Pairs:
    """Pairs that differ in exactly one token of the question, and in the answer.

    "id": both queries are (of compositions, with two ID hops). "ood": the clean query is, and the
    corrupted one is any, since too few OOD ones share all tokens but one. No clean query comes
    twice, and every value of the differing token is drawn about as often.

    Args:
      dataset: of the run.
      slot: one of the task's question.
      split: one of SPLITS.
      num_pairs: at most; small graphs have fewer.
      seed: of the draw.
      pool: `query_pool(dataset)`, where it is at hand.

    Returns:
      Up to `num_pairs` pairs, none where the graph has none.
    """
    rows, columns, splits = pool or query_pool(dataset)
    *question, answer = columns
    column = question[dataset.task.question.index(slot)]
    key = _joined(rows, [c for c in question if c != column])
    asked = splits == split
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
                    rows[same, answer] != rows[i, answer]
                )
                if np.any(differs):
                    clean.append(i)
                    corrupted.append(rng.choice(same[differs]))
                    break
    chosen = rows[np.array(clean, int)], rows[np.array(corrupted, int)]
    return Pairs(slot, split, *chosen, columns)


def _joined(rows: Int[np.ndarray, "M W"], columns: list[int]) -> Int[np.ndarray, " M"]:
    """A number for each row that is the same for equal values of some columns, in their order."""
    key = np.zeros(len(rows), np.int64)
    for column in columns:
        key = np.unique(key, return_inverse=True)[1] * (rows.max() + 1) + rows[:, column]
    return key


def stack_pairs(
    pairs: list[Pairs], num_pairs: int
) -> tuple[Int[np.ndarray, "cells N C"], Int[np.ndarray, "cells N C"], Bool[np.ndarray, "cells N"]]:
    """Clean and corrupted queries of some cells (slot, split), all-PAD rows where one has fewer."""
    size = len(pairs[0].columns)
    clean, corrupted = (np.zeros((len(pairs), num_pairs, size), np.int32) for _ in range(2))
    there = np.zeros((len(pairs), num_pairs), bool)
    for i, cell in enumerate(pairs):
        n = len(cell.clean)
        clean[i, :n], corrupted[i, :n] = cell.queries
        there[i, :n] = True
    return clean, corrupted, there
