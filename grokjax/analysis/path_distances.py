"""How far single runs' paths are apart, across two groups and within each; exchanged labels.

What a regime does to a path shows as distances across groups that two seeds of one group do not
have. The test exchanges the groups' labels: within blocks (a graph and an initialisation), whose
runs share so much that only they are alike under the null, where the groups share blocks.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from grokjax.base.draws import random_stream
from grokjax.statistics.permutation import compared_groups

_MAX_PERMUTATIONS = 10_000
_SMALL = 1e-9  # sums of the same distances differ by this much at most


class Pair(NamedTuple):
    """Two single runs that are compared, one of each group."""

    run_a: str
    run_b: str
    block: str
    distance: float


class Exchange(NamedTuple):
    """A one-sided test of whether runs are further apart across groups than within them.

    smallest: the p that these runs could have given at best.
    """

    p: float
    smallest: float
    num_labellings: int


@dataclasses.dataclass(frozen=True)
class TwoGroups:
    """Two groups of runs that have a path.

    Attributes:
      a, b: the groups' names.
      runs: names, a's first; is_a: which are of a. Without those that were dropped.
      blocks: what each run may share with others, as 0, 1, ...
      paired: whether the groups share blocks, so that runs of one block are compared.
      size: root mean square of the runs' paths, the unit of distances.
      distances: root mean square over sites of two runs' difference, in that unit.
      dropped: runs that are left out, and why.
    """

    a: str
    b: str
    runs: list[str]
    is_a: Bool[np.ndarray, " R"]
    blocks: Int[np.ndarray, " R"]
    block_names: list[str]
    paired: bool
    size: float
    distances: Float[np.ndarray, "R R"]
    dropped: list[str]

    def pairs(self) -> list[Pair]:
        """Of one block where the groups share blocks, else all with all."""
        own = [np.flatnonzero(self.is_a == side).tolist() for side in (True, False)]
        return [
            Pair(
                self.runs[i],
                self.runs[j],
                self.block_names[self.blocks[i]] if self.paired else "",
                float(self.distances[i, j]),
            )
            for i, j in itertools.product(*own)
            if not self.paired or self.blocks[i] == self.blocks[j]
        ]

    def within(self, of_a: bool) -> Float[np.ndarray, " P"]:
        """Distances of two runs of one group, of different blocks: what seeds alone do."""
        own = np.flatnonzero(self.is_a == of_a)
        first, second = np.triu_indices(len(own), 1)
        i, j = own[first], own[second]
        return self.distances[i, j][self.blocks[i] != self.blocks[j]]

    @property
    def num_replicates(self) -> tuple[int, int]:
        """Blocks of a and of b: runs of one block and group are one replicate of the test."""
        n_a, n_b = (len(np.unique(self.blocks[self.is_a == side])) for side in (True, False))
        return n_a, n_b


def two_groups(
    paths: Float[np.ndarray, "R F"],
    groups: Sequence[str],
    blocks: Sequence[str] | None,
    names: Sequence[str],
) -> Iterator[TwoGroups]:
    """The groups that are compared, in the order in which they occur, with their distances.

    Args:
      paths: a row per run; one with NaN has no path, and is dropped by name.
      groups, blocks, names: of each run; no blocks: every run is its own.
    """
    paths, labels = np.asarray(paths, float), np.array([str(g) for g in groups], dtype=object)
    defined = ~np.isnan(paths).all(axis=0)  # a site that no run has is no site
    usable = np.isfinite(paths[:, defined]).all(axis=1) & bool(defined.any())
    block_of = np.array([str(b) for b in (names if blocks is None else blocks)], dtype=object)
    for a, b in compared_groups(labels.tolist()):
        dropped = [
            f"run {names[i]} ({group}): has no path to compare"
            for group in (a, b)
            for i in np.flatnonzero((labels == group) & ~usable).tolist()
        ]
        members = {group: np.flatnonzero((labels == group) & usable) for group in (a, b)}
        common = set(block_of[members[a]]) & set(block_of[members[b]])
        if common:
            for group, other in ((a, b), (b, a)):
                alone = [i for i in members[group].tolist() if block_of[i] not in common]
                dropped += [f"run {names[i]} ({group}): no partner in {other}" for i in alone]
                members[group] = np.array([i for i in members[group] if block_of[i] in common], int)
        kept = np.concatenate([members[a], members[b]]).astype(int)
        size, distances = _distances(paths[np.ix_(kept, defined)])
        block_names = list(dict.fromkeys(block_of[kept].tolist()))
        yield TwoGroups(
            a, b, [names[i] for i in kept], np.arange(len(kept)) < len(members[a]),
            np.array([block_names.index(block) for block in block_of[kept]], int), block_names,
            bool(common), size, distances, dropped,
        )  # fmt: skip


def _distances(paths: Float[np.ndarray, "R F"]) -> tuple[float, Float[np.ndarray, "R R"]]:
    """The paths' size, and the distance of every two of them in units of it."""
    if not paths.size:
        return math.nan, np.zeros((len(paths), len(paths)))
    size = float(np.sqrt(np.mean(np.square(paths))))
    rows = [np.sqrt(np.mean((paths - path) ** 2, axis=1)) for path in paths]
    return size, np.array(rows) / (size or 1.0)


def exchange_test(two: TwoGroups, seed: int = 0) -> Exchange:
    """Whether the groups' runs are further apart than seeds are: labels are exchanged.

    The statistic is the energy distance: twice the mean distance of runs of different groups, less
    those of two runs of each. It sees groups that differ in where their runs are, or in how they
    scatter, and takes no mean of paths. Distances within a block are left out where the groups
    share blocks: an exchange of its runs does not change them.

    Args:
      two: the groups; NaN below two replicates of each.
      seed: of the labellings, where they are too many to list.
    """
    if min(two.num_replicates) < 2:
        return Exchange(math.nan, math.nan, 0)
    null = _paired(two, seed) if two.paired else _unpaired(two, seed)
    # Counted among the labellings, the data's own (the first) keep p above 0.
    p, smallest = (float(np.mean(null >= x - _SMALL)) for x in (null[0], null.max()))
    return Exchange(p, smallest, len(null))


def _paired(two: TwoGroups, seed: int) -> Float[np.ndarray, " P"]:
    """The statistic with the labels of every subset of blocks exchanged."""
    a, b = (two.is_a == side for side in (True, False))
    mean = _between_blocks(two)
    contrast = mean(a, b) + mean(b, a) - mean(a, a) - mean(b, b)  # [blocks, blocks]
    n = len(contrast)
    if 2**n <= _MAX_PERMUTATIONS:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        rng = random_stream(seed, "permutations")
        signs = rng.choice([1, -1], size=(_MAX_PERMUTATIONS, n))
        signs[0] = 1
    return _signed_means(contrast, signs)


def _signed_means(
    contrast: Float[np.ndarray, "n n"], signs: Real[np.ndarray, "P n"]
) -> Float[np.ndarray, " P"]:
    """Means over pairs of different blocks; an exchanged block turns its sign."""
    n = len(contrast)
    sums = np.einsum("pi,ij,pj->p", signs, contrast, signs, optimize=True)
    return (sums - np.trace(contrast)) / (n * (n - 1))


def _unpaired(two: TwoGroups, seed: int) -> Float[np.ndarray, " P"]:
    """The statistic under every labelling of the replicates: here each block is of one group."""
    every = np.ones(len(two.runs), bool)
    distances = _between_blocks(two)(every, every)
    np.fill_diagonal(distances, 0.0)
    n, n_a = len(distances), two.num_replicates[0]
    is_a = np.zeros(n, bool)
    is_a[two.blocks[two.is_a]] = True
    if math.comb(n, n_a) <= _MAX_PERMUTATIONS:
        chosen = np.array(list(itertools.combinations(range(n), n_a)))
        labellings = np.zeros((len(chosen), n), bool)
        np.put_along_axis(labellings, chosen, True, axis=1)
        labellings = np.concatenate([is_a[None], labellings[(labellings != is_a).any(axis=1)]])
    else:
        rng = random_stream(seed, "permutations")
        others = [rng.permutation(is_a) for _ in range(_MAX_PERMUTATIONS - 1)]
        labellings = np.array([is_a, *others])
    return _energy(distances, labellings)


def _energy(
    distances: Float[np.ndarray, "R R"], labellings: Bool[np.ndarray, "P R"]
) -> Float[np.ndarray, " P"]:
    a, b = labellings.astype(float), (~labellings).astype(float)
    n_a, n_b = a.sum(axis=1), b.sum(axis=1)
    to_a = a @ distances
    within_a, between = (to_a * a).sum(axis=1), (to_a * b).sum(axis=1)
    within_b = ((b @ distances) * b).sum(axis=1)
    own = within_a / (n_a * (n_a - 1)) + within_b / (n_b * (n_b - 1))
    return 2 * between / (n_a * n_b) - own


def _between_blocks(two: TwoGroups) -> Callable[..., Float[np.ndarray, "n n"]]:
    """A function of two sets of runs: the mean distance of their runs, of every two blocks."""
    member = np.zeros((len(two.block_names), len(two.runs)))
    member[two.blocks, np.arange(len(two.runs))] = 1.0

    def mean(rows: Bool[np.ndarray, " R"], columns: Bool[np.ndarray, " R"]) -> np.ndarray:
        left, right = member * rows, member * columns
        return (left @ two.distances @ right.T) / np.outer(left.sum(axis=1), right.sum(axis=1))

    return mean
