"""From rows of tokens to the data of a run, for any task: tables, hidden tokens, decoys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from grokjax.data.dataset import NO_FACTS, Dataset, Probes, QueryTable, hidden_tokens
from grokjax.data.task import Task, check_task
from grokjax.data.vocabulary import MAX_TOKENS, PAD, SPECIAL_TOKENS, Vocabulary

Rows = Int[np.ndarray, "_ _"]  # the question, PAD where it is shorter; hidden tokens; the answer


def vocabulary_of(names: Iterable[Any]) -> Vocabulary:
    """A token `<NAME>` for each name, from id 1 on, then the special ones."""
    return Vocabulary((*(f"<{name}>" for name in names), *SPECIAL_TOKENS))


def dataset_of(
    task: Task,
    vocabulary: Vocabulary,
    train: np.ndarray,
    probes: Mapping[str, np.ndarray],
    seed: int,
    *,
    name: str = "",
    parts: Mapping[str, int] | None = None,
) -> Dataset:
    """The data of a run, checked against what its task declares.

    Args:
      task: with L tokens in a question, of which H are hidden.
      vocabulary: token ids are its.
      train: what is trained on, token ids: question (PAD at the end of a shorter one), hidden
        tokens (PAD where there is none) and answer, W = L + H + 1.
      probes: the same by type, each of the task's.
      seed: shuffles hidden tokens, for their chance levels.
      name: of the data; the task's by default.
      parts: further counts for `runs.csv`.

    Raises:
      ValueError: what of it is not as declared.
    """
    check_task(task)
    if len(vocabulary.tokens) > MAX_TOKENS:
        raise ValueError(f"has {len(vocabulary.tokens):,} tokens; tables hold {MAX_TOKENS:,}")
    if "</a>" not in vocabulary.ids:
        raise ValueError("its vocabulary has no token </a>, which ends every answer")
    if unknown := [kind for kind in probes if kind not in task.type_names]:
        raise ValueError(f"gives probes of the type {unknown[0]!a}, which {task.name} lacks")
    kinds = [kind for kind in task.type_names if kind in probes]
    rows = {kind: _checked(task, vocabulary, kind, probes[kind]) for kind in kinds}
    if not len(rows.get(task.generalisation, ())):
        raise ValueError(f"has no probes of the type {task.generalisation}, which tells grokking")
    table = _checked(task, vocabulary, "", train)
    if not len(table):
        raise ValueError("has no training queries")
    return Dataset(
        name or task.name,
        vocabulary,
        _query_table(task, table),
        _probes(task, rows, seed),
        NO_FACTS,
        NO_FACTS,
        dict(parts or {}),
        task=task,
    )


def _query_table(task: Task, rows: Rows) -> QueryTable:
    columns = [*range(len(task.question)), -1]
    return QueryTable(rows[:, columns].astype(np.int16), np.asarray(len(rows), np.int32))


def _probes(task: Task, rows: Mapping[str, Rows], seed: int) -> Probes:
    together = np.concatenate(list(rows.values()))
    kind = np.repeat(np.arange(len(rows)), [len(x) for x in rows.values()]).astype(np.int16)
    of_type = [kind == i for i in range(len(rows))]
    first = len(task.question)
    hidden = tuple(
        hidden_tokens(together[:, first + i], of_type, seed, f"decoys {h.name}")
        for i, h in enumerate(task.hidden)
    )
    return Probes(_query_table(task, together), hidden, kind, tuple(rows))


def _checked(task: Task, vocabulary: Vocabulary, kind: str, rows: np.ndarray) -> Rows:
    """Rows of a probe type, or of no one for training, that are what the task declares.

    Raises:
      ValueError: a row is not.
    """
    rows, what = np.asarray(rows), kind or "training"
    length, num_hidden = len(task.question), len(task.hidden)
    width = length + num_hidden + 1
    if rows.dtype.kind == "f" and not np.all(np.isfinite(rows)):
        raise ValueError(f"gives {what} queries that are not finite")
    if not len(rows):
        return np.zeros((0, width), np.int32)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(
            f"gives {what} queries of shape {rows.shape}; {task.name} declares {width} columns:"
            f" {length} of the question, {num_hidden} hidden, the answer"
        )
    if rows.dtype.kind not in "iu":
        raise ValueError(f"gives {what} queries of {rows.dtype}; token ids are whole numbers")
    outside = (rows < PAD) | (rows >= vocabulary.size)
    if np.any(outside):
        at = int(np.argmax(np.any(outside, axis=1)))
        raise ValueError(
            f"{what} query {at} has the token {int(rows[at][outside[at]][0])}, outside of the"
            f" vocabulary's 1..{vocabulary.size - 1}"
        )
    asked = rows[:, :length] != PAD
    wrong = ~asked[:, 0] | np.any(asked[:, 1:] & ~asked[:, :-1], axis=1) | (rows[:, -1] == PAD)
    if kind:
        wrong |= asked.sum(axis=1) != task.length_of(kind)
    if np.any(wrong):
        raise ValueError(
            f"{what} query {int(np.argmax(wrong))} has a gap, no answer, or another length than"
            " declared"
        )
    return rows.astype(np.int32)
