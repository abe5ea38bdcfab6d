"""Arithmetic modulo p, the task that grokking was first seen on (Power et al. 2022, arXiv
2201.02177): `left operator right`, of which a share is trained on and the rest is asked.

Theirs ends in `=`, whose place ours does without: a model answers at the first place that its
question leaves empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.data.dataset import Dataset
from grokjax.data.queries import Rows, dataset_of, vocabulary_of
from grokjax.data.task import GENERALISATION, TRAINED, ProbeType, Task

TRAIN, TEST = "train", "test"
MODULAR = Task(
    "modular",
    question=("left", "operator", "right"),
    types=(ProbeType(TRAIN, TRAINED), ProbeType(TEST, GENERALISATION)),
    unseen="equations that were held out",
    short="test",
)
Operation = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
OPERATIONS: Mapping[str, tuple[str, Operation]] = {  # how it is written, and what it is
    "add": ("+", lambda a, b, p: (a + b) % p),
    "subtract": ("-", lambda a, b, p: (a - b) % p),
    "multiply": ("*", lambda a, b, p: a * b % p),
    "divide": ("/", lambda a, b, p: a * np.array([pow(int(x), -1, p) for x in b]) % p),
    "quadratic": ("x^2+xy+y^2", lambda a, b, p: (a * a + a * b + b * b) % p),
}


def equations(modulus: int, operation: str) -> Rows:
    """All of them as token ids: left, operator, right, answer; nothing is divided by 0.

    The number n is the token n + 1; operators come after the numbers, in the order of OPERATIONS.

    Raises:
      UserError: not every number but 0 has an inverse.
    """
    if operation == "divide" and any(modulus % x == 0 for x in range(2, modulus)):
        raise UserError(f"data.modulus: {modulus} is no prime, so not all can be divided by")
    left, right = np.divmod(np.arange(modulus**2, dtype=np.int64), modulus)
    if operation == "divide":
        left, right = left[right > 0], right[right > 0]
    answer = OPERATIONS[operation][1](left, right, modulus)
    sign = np.full(len(left), modulus + list(OPERATIONS).index(operation))
    return np.stack([left, sign, right, answer], axis=1) + 1


def make_modular(data: ConfigDict, seed: int) -> Dataset:
    """A share of all equations to train on, the rest to ask.

    Args:
      data: settings `modulus`, `operation`, `train_share`, `max_probes`.
      seed: of the split. A smaller share is a prefix of a larger one.

    Raises:
      UserError: a share that leaves nothing to train on, or to ask.
    """
    rows = equations(data.modulus, data.operation)
    rows = rows[random_stream(seed, "equations").permutation(len(rows))]
    num = round(data.train_share * len(rows))
    if not 0 < num < len(rows):
        raise UserError(
            f"data.train_share: {data.train_share} of {len(rows):,} equations trains on {num:,};"
            " some must be left to train on, and some to ask"
        )
    probes = {TRAIN: rows[:num][: data.max_probes], TEST: rows[num:][: data.max_probes]}
    signs = (sign for sign, _ in OPERATIONS.values())
    vocabulary = vocabulary_of([*map(str, range(data.modulus)), *signs])
    return dataset_of(MODULAR, vocabulary, rows[:num], probes, seed, name=data.operation)
