"""Compositions of a graph of any shape, drawn without making all of them.

A graph of people's own may have entities with a hundred thousand facts, and so more compositions
than memory holds. They are numbered instead, and numbers are drawn.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from grokjax.data.graph import FactRows

_ROUNDS = 6


class Chains:
    """All (first, second) pairs of facts where the second starts where the first ends, by number.

    Args:
      facts: of the graph.
      first, second: which facts may come first and second, as row numbers.
    """

    def __init__(
        self, facts: FactRows, first: Int[np.ndarray, " N"], second: Int[np.ndarray, " M"]
    ):
        self._first = first
        self._second = second[np.argsort(facts[second, 0], kind="stable")]
        heads, ends = facts[self._second, 0], facts[first, 2]
        self._start = np.searchsorted(heads, ends, side="left")
        self.counts = np.searchsorted(heads, ends, side="right") - self._start  # by first fact
        self._ends = np.cumsum(self.counts)
        self.size = int(self._ends[-1]) if len(first) else 0

    def at(self, number: Int[np.ndarray, " K"]) -> Int[np.ndarray, "K 2"]:
        """Row numbers of both facts, of pairs by number from 0 to `size` - 1."""
        row = np.searchsorted(self._ends, number, side="right")
        within = number - (self._ends[row] - self.counts[row])
        return np.stack([self._first[row], self._second[self._start[row] + within]], axis=1)

    def of(self, row: int, most: int, key: int | np.integer) -> Int[np.ndarray, "K 2"]:
        """At most so many pairs of one first fact, drawn; of fewer, a prefix of them."""
        end, count = int(self._ends[row]), int(self.counts[row])
        return self.at(end - count + shuffled(count, 0, min(most, count), key))


def shuffled(size: int, start: int, stop: int, key: int | np.integer) -> Int[np.ndarray, " N"]:
    """Places `start` to `stop` of 0 to size - 1 in a random order, of which no more is made.

    A Feistel network permutes the smallest power of four that holds them all; what lands outside
    walks on until it is inside.
    """
    half = np.uint64(max((max(size - 1, 1).bit_length() + 1) // 2, 1))
    mask = (np.uint64(1) << half) - np.uint64(1)
    steps = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = _mix(np.uint64(key) + steps)

    def permute(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        return (left << half) | right

    drawn = permute(np.arange(start, stop, dtype=np.uint64))
    outside = np.flatnonzero(drawn >= size)
    while len(outside):
        drawn[outside] = permute(drawn[outside])
        outside = outside[drawn[outside] >= size]
    return drawn.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """A 64-bit finaliser (splitmix64's): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
