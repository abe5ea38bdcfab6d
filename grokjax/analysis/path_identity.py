"""Path identity: do groups of runs answer along the same path, beyond what seeds differ in?

A run's path is a vector: its map of mean effects over sites, or its bridge-emergence profile. Two
groups are compared by the distance between their mean vectors, against the distance that two seeds
of one group have (the floor), by a permutation test; "identical" needs more than p > 0.05, namely
that the distance's upper bound stays below a margin (an equivalence test).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Real
from scipy import stats

from grokjax.data.graph import random_stream

MARGIN = 0.25  # a quarter of the path's own size
_MAX_PERMUTATIONS = 10_000
COLUMNS = (
    "group_a", "group_b", "n_a", "n_b", "paired", "distance", "distance_low", "distance_high",
    "floor", "effect_size", "size", "p_value", "num_permutations", "margin", "verdict",
)  # fmt: skip
_NOT_MEASURED = ("group_a", "group_b", "n_a", "n_b", "paired", "num_permutations", "verdict")


def path_identity(
    paths: Float[np.ndarray, "R F"],
    groups: Sequence[str],
    *,
    blocks: Sequence[str] | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> pd.DataFrame:
    """Compares every two groups of runs.

    Distances are root mean squares over sites, relative to the size of the mean path of both
    groups: 0 is the same path, 1 as far from it as no path at all. The squared one is unbiased: the
    mean over pairs of runs of different groups, less half of each group's own mean. It is negative
    where groups differ less than their seeds do, and then shown as 0. Its interval is a jackknife's
    (Student-t). Runs that share a block (a graph and an initialisation, say) are not independent:
    those of one group are one replicate, and groups with blocks in common are compared on these
    alone, block by block, so that what a block brings cancels: the mean is over pairs of blocks'
    differences, and permutations swap within blocks.

    Args:
      paths: a row per run; rows with NaN are left out.
      groups: each run's group.
      blocks: what each run may share with others; None for nothing.
      margin: of the equivalence test, relative like the distances.
      seed: of the permutations, where they are too many to list.

    Returns:
      A row per two groups, COLUMNS: n_a and n_b replicates, the distance with its 95 % interval,
      the seed-to-seed floor (the same between two of one group), the effect size (distance over
      floor), the size of the mean path, the permutation test's p, and a verdict: "different"
      (p < 0.05), "equivalent" (the one-sided 95 % bound is below the margin), "different, within
      the margin", or "undecided".
    """
    rows = []
    for two in _two_groups(paths, groups, blocks):
        rows.append(_compare(two, margin, seed) | {"size": two.size})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({name: float for name in COLUMNS if name not in _NOT_MEASURED})


@dataclasses.dataclass(frozen=True)
class _Two:
    """Two groups of runs: relative square distances between all of them, and who is whose."""

    a: str
    b: str
    squares: Float[np.ndarray, "R R"]
    is_a: Bool[np.ndarray, " R"]
    size: float
    # Runs of a and of b, block by block; None where they do not match.
    matched: tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]] | None


def _two_groups(
    paths: Float[np.ndarray, "R F"], groups: Sequence[str], blocks: Sequence[str] | None
) -> Iterator[_Two]:
    """Every two groups, in the order in which they occur.

    Runs of one group and block are one replicate, their mean: what they share is no new evidence.
    Where two groups have blocks in common, these alone are compared, in pairs: replicates that
    share a block are not independent, and taking them for it would find groups too much alike.
    """
    paths, labels = np.asarray(paths, float), np.asarray(groups, dtype=object)
    defined = ~np.isnan(paths).all(axis=0)  # a site that no run has is no site
    usable = defined.any() & np.isfinite(paths[:, defined]).all(axis=1)
    names = list(dict.fromkeys(labels.tolist()))
    block_of = np.arange(len(labels)) if blocks is None else np.asarray(blocks, dtype=object)

    def replicates(group: str) -> dict[Any, np.ndarray]:
        own = np.flatnonzero(usable & (labels == group))
        of_block = {b: own[block_of[own] == b] for b in dict.fromkeys(block_of[own].tolist())}
        return {b: paths[rows][:, defined].mean(axis=0) for b, rows in of_block.items()}

    for a, b in itertools.combinations(names, 2):
        of_a, of_b = replicates(a), replicates(b)
        common = [block for block in of_a if block in of_b]
        if common:
            of_a, of_b = ({block: x[block] for block in common} for x in (of_a, of_b))
        num = len(of_a) + len(of_b)
        own = np.array([*of_a.values(), *of_b.values()]).reshape(num, int(defined.sum()))
        size = float(np.sqrt(np.mean(np.mean(own, axis=0) ** 2))) if own.size else math.nan
        difference = own[:, None] - own[None]
        squares = np.mean(difference**2, axis=-1) if own.size else np.zeros((num, num))
        places = np.arange(len(common))
        matched = (places, places + len(common)) if common else None
        is_a = np.arange(num) < len(of_a)
        yield _Two(str(a), str(b), squares / (size**2 or 1.0), is_a, size, matched)


def _compare(two: _Two, margin: float, seed: int) -> dict:
    squares, members = two.squares, [np.flatnonzero(m) for m in (two.is_a, ~two.is_a)]
    n_a, n_b = map(len, members)
    row = dict.fromkeys(COLUMNS, math.nan) | {
        "group_a": two.a, "group_b": two.b, "n_a": n_a, "n_b": n_b, "margin": margin,
        "paired": two.matched is not None, "verdict": "undecided", "num_permutations": 0,
    }  # fmt: skip
    within = [squares[np.ix_(g, g)].sum() / (len(g) * (len(g) - 1)) for g in members if len(g) > 1]
    floor = math.sqrt(np.mean(within)) if within else math.nan
    row["floor"] = floor
    if min(n_a, n_b) < 2:
        return row
    observed = _square(two)
    null = permuted(two, seed)
    # Counted among the permutations, the data's own labels keep p above 0.
    p = float(np.mean(null >= observed - 1e-12))
    low, high, upper = _jackknife_bounds(two, observed)
    distance = _root(observed)
    row |= {
        "distance": distance,
        "distance_low": _root(low),
        "distance_high": _root(high),
        "effect_size": distance / floor if floor else math.nan,
        "p_value": p,
        "num_permutations": len(null),
    }
    different, equivalent = p < 0.05, upper < margin**2
    if different or equivalent:
        row["verdict"] = (
            "different, within the margin" if different and equivalent
            else "different" if different else "equivalent"
        )  # fmt: skip
    return row


def permuted(two: _Two, seed: int = 0) -> Float[np.ndarray, " P"]:
    """The squared distance under every labelling of the runs, or a sample with the data's own."""
    rng = random_stream(seed, "permutations")
    if two.matched is not None:
        n = len(two.matched[0])
        if 2**n <= _MAX_PERMUTATIONS:
            signs = np.array(list(itertools.product((1, -1), repeat=n)))
        else:
            signs = rng.choice([1, -1], size=(_MAX_PERMUTATIONS, n))
            signs[0] = 1
        return _paired_squares(_products(two), signs)
    n, n_a = len(two.is_a), int(two.is_a.sum())
    if math.comb(n, n_a) <= _MAX_PERMUTATIONS:
        chosen = np.array(list(itertools.combinations(range(n), n_a)))
        labellings = np.zeros((len(chosen), n), bool)
        np.put_along_axis(labellings, chosen, True, axis=1)
    else:
        others = [rng.permutation(two.is_a) for _ in range(_MAX_PERMUTATIONS - 1)]
        labellings = np.array([two.is_a, *others])
    return _unpaired_squares(two.squares, labellings)


def _square(two: _Two, without: Sequence[int] = ()) -> float:
    """The squared distance, without some runs (or blocks)."""
    if two.matched is not None:
        kept = np.setdiff1d(np.arange(len(two.matched[0])), without)
        products = _products(two)[np.ix_(kept, kept)]
        return float(_paired_squares(products, np.ones((1, len(kept))))[0])
    kept = np.setdiff1d(np.arange(len(two.is_a)), without)
    return float(_unpaired_squares(two.squares[np.ix_(kept, kept)], two.is_a[None, kept])[0])


def _products(two: _Two) -> Float[np.ndarray, "n n"]:
    """<a_i - b_i, a_j - b_j> of blocks i and j, from the distances alone."""
    assert two.matched is not None
    squares, (a, b) = two.squares, two.matched
    across = squares[np.ix_(a, b)] + squares[np.ix_(b, a)]
    return 0.5 * (across - squares[np.ix_(a, a)] - squares[np.ix_(b, b)])


def _paired_squares(
    products: Float[np.ndarray, "n n"], signs: Real[np.ndarray, "P n"]
) -> Float[np.ndarray, " P"]:
    """Means of the products over pairs of different blocks; a swapped block turns its sign."""
    n = len(products)
    sums = np.einsum("pi,ij,pj->p", signs, products, signs, optimize=True)
    return (sums - np.trace(products)) / (n * (n - 1))


def _unpaired_squares(
    squares: Float[np.ndarray, "R R"], labellings: Bool[np.ndarray, "P R"]
) -> Float[np.ndarray, " P"]:
    """Between the groups of each labelling, less half of what each has within."""
    a, b = labellings.astype(float), (~labellings).astype(float)
    n_a, n_b = a.sum(axis=1), b.sum(axis=1)
    to_a = a @ squares
    within_a, between = (to_a * a).sum(axis=1), (to_a * b).sum(axis=1)
    within_b = ((b @ squares) * b).sum(axis=1)
    own = within_a / (2 * n_a * (n_a - 1)) + within_b / (2 * n_b * (n_b - 1))
    return between / (n_a * n_b) - own


def _jackknife_bounds(two: _Two, estimate: float) -> tuple[float, ...]:
    """Two-sided 95 % bounds of the squared distance, and the one-sided 95 % upper bound."""
    if two.matched is not None:
        samples = [np.arange(len(two.matched[0]))]
    else:
        samples = [np.flatnonzero(m) for m in (two.is_a, ~two.is_a)]
    variance, degrees = 0.0, 0
    for sample in samples:
        n = len(sample)
        if n < 3:  # without one of two there is no spread left to measure
            return -math.inf, math.inf, math.inf
        left_out = np.array([_square(two, [int(i)]) for i in sample])
        variance += (n - 1) / n * np.sum((left_out - left_out.mean()) ** 2)
        degrees += n - 1
    error = math.sqrt(variance)
    two_sided, one_sided = (stats.t.ppf(q, degrees) for q in (0.975, 0.95))
    return (
        estimate - two_sided * error,
        estimate + two_sided * error,
        estimate + one_sided * error,
    )


def _root(square: float) -> float:
    return (
        math.sqrt(max(square, 0.0)) if math.isfinite(square) else (0.0 if square < 0 else math.inf)
    )


def permuted_distances(
    paths: Float[np.ndarray, "R F"],
    groups: Sequence[str],
    blocks: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], np.ndarray]:
    """The null of every two groups: `path_identity`'s distances under permuted labels."""
    return {
        (two.a, two.b): np.sqrt(np.maximum(permuted(two, seed), 0.0))
        for two in _two_groups(paths, groups, blocks)
        if min(two.is_a.sum(), (~two.is_a).sum()) >= 2
    }
