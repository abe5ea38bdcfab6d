"""Path identity: do groups of runs answer along the same path, run by run?

A run's path is a vector: its map of mean effects over sites (patching), or its bridge-emergence
profile (lens). Groups are compared by the distances between single runs, in pairs of one seed where
they share seeds: a minority that goes another way shows as pairs outside the margin, where it
would vanish in the mean paths. A permutation test adds whether the groups differ as a whole.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Real

from grokjax.base.draws import random_stream
from grokjax.statistics.intervals import Interval, wilson

MARGIN = 0.25  # a quarter of the paths' own size
PATCHING, LENS = "patching", "lens"
SAME, SAME_BUT_SOME = "same path", "same path but for some"
DIFFERENT, UNDECIDED = "different", "undecided"
_FEWEST = 4  # pairs of which a share can be told from a half
_MAX_PERMUTATIONS = 10_000
COLUMNS = (
    "paths", "reading", "group_a", "group_b", "n_a", "n_b", "paired", "num_pairs", "within",
    "share", "share_low", "share_high", "distance_min", "distance_median", "distance_max",
    "outside", "dropped", "floor_median", "size", "p_value", "p_smallest", "num_permutations",
    "margin", "verdict", "other_verdict",
)  # fmt: skip
PAIRS = (
    "paths", "reading", "group_a", "group_b", "run_a", "run_b", "block", "distance", "within",
)  # fmt: skip
_TEXTS = (
    "paths", "reading", "group_a", "group_b", "outside", "dropped", "verdict", "other_verdict",
)  # fmt: skip
_COUNTS = ("n_a", "n_b", "paired", "num_pairs", "within", "num_permutations")


class Paths(NamedTuple):
    """One kind of path of all runs: how it was read, and a row per run; NaN where it has none."""

    reading: str  # PATCHING or LENS
    values: Float[np.ndarray, "R F"]


class Identity(NamedTuple):
    """A row per kind of path and two groups; the pairs under it; each two groups' null.

    nulls: distances between the groups' mean paths under permuted labels, by kind and groups.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    nulls: dict[str, dict[tuple[str, str], np.ndarray]]


def compare_paths(
    kinds: Mapping[str, Paths],
    groups: Sequence[str],
    *,
    runs: Sequence[Any] | None = None,
    blocks: Sequence[str] | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> Identity:
    """Compares every two groups on several kinds of path, the readings side by side.

    Args:
      kinds: what is compared, by name.
      groups: each run's group.
      runs: each run's name; its place by default.
      blocks, margin, seed: as in `path_identity`.

    Returns:
      Tables with columns COLUMNS and PAIRS. `other_verdict` is that of the other reading for the
      same groups: the mildest claim among its kinds.
    """
    found = {
        name: path_identity(
            kind.values, groups, runs=runs, blocks=blocks, margin=margin, seed=seed,
            paths_named=name, reading=kind.reading,
        )
        for name, kind in kinds.items()
    }  # fmt: skip
    table = pd.concat([f.table for f in found.values()], ignore_index=True)
    pairs = pd.concat([f.pairs for f in found.values()], ignore_index=True)
    table["other_verdict"] = [_other_verdict(table, row) for row in table.itertuples()]
    return Identity(table, pairs, {name: f.nulls[name] for name, f in found.items()})


def _other_verdict(table: pd.DataFrame, row: Any) -> str:
    same = (table.group_a == row.group_a) & (table.group_b == row.group_b)
    others = table.verdict[same & (table.reading != row.reading)]
    mildest = [v for v in (UNDECIDED, DIFFERENT, SAME_BUT_SOME, SAME) if v in others.tolist()]
    return mildest[0] if mildest else ""


def path_identity(
    paths: Float[np.ndarray, "R F"],
    groups: Sequence[str],
    *,
    runs: Sequence[Any] | None = None,
    blocks: Sequence[str] | None = None,
    margin: float = MARGIN,
    seed: int = 0,
    paths_named: str = "paths",
    reading: str = PATCHING,
) -> Identity:
    """Compares every two groups of runs.

    A distance is the root mean square over sites of two runs' difference, relative to the size of
    the runs' paths (their own root mean square over runs of both groups): 0 is the same path, 1 as
    far from it as no path at all. Runs that share a block (a graph and an initialisation, say) are
    compared with each other; groups without blocks in common, all with all, and a pair is then
    only as much evidence as there are runs in the smaller group.

    Args:
      paths: a row per run; one with NaN has no path, and is named as dropped.
      groups: each run's group.
      runs: each run's name; its place by default.
      blocks: what each run may share with others; None for nothing.
      margin: of a pair, relative like the distances.
      seed: of the permutations, where they are too many to list.
      paths_named, reading: what the rows say of the paths.

    Returns:
      A row per two groups, COLUMNS: pairs within the margin and their share (Wilson), distances,
      the floor (median distance of two runs of one group), pairs outside and runs dropped by name,
      the permutation test's p (of mean paths, swapped within blocks) and a verdict: `same path`
      (all pairs within the margin, and so many that most would be), `same path but for some` (most
      of them, surely), `different` (surely not most) or `undecided`.
    """
    names = [str(x) for x in (range(len(groups)) if runs is None else runs)]
    rows, pair_rows = [], []
    nulls: dict[tuple[str, str], np.ndarray] = {}
    for two in _two_groups(paths, groups, blocks, names):
        pairs = [p | {"paths": paths_named, "reading": reading} for p in _pairs(two, margin)]
        pair_rows += pairs
        if two.testable:
            nulls[two.a, two.b] = np.sqrt(np.maximum(permuted(two, seed), 0.0))
        rows.append(_compare(two, pairs, margin, seed) | {"paths": paths_named, "reading": reading})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = {c: float for c in COLUMNS if c not in (*_TEXTS, *_COUNTS)}
    found_pairs = pd.DataFrame(pair_rows, columns=list(PAIRS))
    return Identity(table.astype(numbers), found_pairs, {paths_named: nulls})


def verdict(within: int, num_pairs: int, evidence: int) -> tuple[Interval, str]:
    """Share of the pairs within the margin, and what it says.

    Args:
      within, num_pairs: counted.
      evidence: pairs that are independent of each other.
    """
    if not num_pairs:
        return wilson(0, 0), UNDECIDED
    share = wilson(within / num_pairs * evidence, evidence)
    if evidence < _FEWEST:
        return share, UNDECIDED
    if share.low > 0.5:
        return share, SAME if within == num_pairs else SAME_BUT_SOME
    return share, DIFFERENT if share.high < 0.5 else UNDECIDED


@dataclasses.dataclass(frozen=True)
class _Two:
    """Two groups of runs.

    runs_a, runs_b: by block, the paths of its runs, by their names. squares: relative square
    distances between replicates (a group's runs of one block are one, their mean), a's first.
    matched: replicates of a and of b, block by block; None where no block is shared.
    """

    a: str
    b: str
    runs_a: dict[Any, dict[str, np.ndarray]]
    runs_b: dict[Any, dict[str, np.ndarray]]
    size: float
    dropped: list[str]
    squares: Float[np.ndarray, "R R"]
    is_a: Bool[np.ndarray, " R"]
    matched: tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]] | None

    @property
    def testable(self) -> bool:
        return bool(min(self.is_a.sum(), (~self.is_a).sum()) >= 2)

    def distance(self, x: np.ndarray, y: np.ndarray) -> float:
        return math.sqrt(float(np.mean((x - y) ** 2))) / (self.size or 1.0)


def _two_groups(
    paths: Float[np.ndarray, "R F"],
    groups: Sequence[str],
    blocks: Sequence[str] | None,
    names: Sequence[str],
) -> Iterator[_Two]:
    """Every two groups, in the order in which they occur, with what each has to be compared."""
    paths, labels = np.asarray(paths, float), np.asarray(groups, dtype=object)
    defined = ~np.isnan(paths).all(axis=0)  # a site that no run has is no site
    usable = np.isfinite(paths[:, defined]).all(axis=1) & bool(defined.any())
    block_of = names if blocks is None else [str(b) for b in blocks]

    def of(group: str) -> tuple[dict[Any, dict[str, np.ndarray]], list[str]]:
        found: dict[Any, dict[str, np.ndarray]] = {}
        without = []
        for i in np.flatnonzero(labels == group).tolist():
            if usable[i]:
                found.setdefault(block_of[i], {})[names[i]] = paths[i, defined]
            else:
                without.append(f"run {names[i]} ({group}): has no path to compare")
        return found, without

    for a, b in itertools.combinations(dict.fromkeys(labels.tolist()), 2):
        (of_a, without_a), (of_b, without_b) = of(a), of(b)
        dropped = [*without_a, *without_b]
        common = [block for block in of_a if block in of_b]
        if common:
            for group, own, other in ((a, of_a, b), (b, of_b, a)):
                alone = [run for block in own if block not in common for run in own[block]]
                dropped += [f"run {run} ({group}): no partner in {other}" for run in alone]
            of_a, of_b = ({block: x[block] for block in common} for x in (of_a, of_b))
        means = [np.mean([*own.values()], axis=0) for x in (of_a, of_b) for own in x.values()]
        every = [path for x in (of_a, of_b) for own in x.values() for path in own.values()]
        size = float(np.sqrt(np.mean(np.square(every)))) if every else math.nan
        num = len(means)
        stacked = np.array(means).reshape(num, int(defined.sum()))
        squares = np.zeros((num, num))
        if stacked.size:
            squares = np.mean((stacked[:, None] - stacked[None]) ** 2, axis=-1)
        places = np.arange(len(common))
        yield _Two(
            str(a), str(b), of_a, of_b, size, dropped, squares / (size**2 or 1.0),
            np.arange(num) < len(of_a), (places, places + len(common)) if common else None,
        )  # fmt: skip


def _pairs(two: _Two, margin: float) -> list[dict[str, Any]]:
    """The distance of every pair of single runs that are compared."""
    blocks = [(block, own, two.runs_b.get(block, {})) for block, own in two.runs_a.items()]
    if two.matched is None:
        blocks = [("", _merged(two.runs_a), _merged(two.runs_b))]
    rows = []
    for block, of_a, of_b in blocks:
        for (run_a, x), (run_b, y) in itertools.product(of_a.items(), of_b.items()):
            distance = two.distance(x, y)
            rows.append(
                {"group_a": two.a, "group_b": two.b, "run_a": run_a, "run_b": run_b}
                | {"block": block, "distance": distance, "within": bool(distance <= margin)}
            )
    return rows


def _merged(by_block: dict[Any, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {run: path for own in by_block.values() for run, path in own.items()}


def _compare(
    two: _Two, pairs: Sequence[Mapping[str, Any]], margin: float, seed: int
) -> dict[str, Any]:
    n_a, n_b = int(two.is_a.sum()), int((~two.is_a).sum())
    within = sum(p["within"] for p in pairs)
    share, found = verdict(within, len(pairs), min(n_a, n_b))
    distances = np.array([p["distance"] for p in pairs])
    outside = [
        f"{p['run_a']} and {p['run_b']} ({p['distance']:.2f})" for p in pairs if not p["within"]
    ]
    middle = [math.nan] * 3
    if len(pairs):
        middle = [float(distances.min()), float(np.median(distances)), float(distances.max())]
    row = dict.fromkeys(COLUMNS, math.nan) | {
        "group_a": two.a, "group_b": two.b, "n_a": n_a, "n_b": n_b,
        "paired": two.matched is not None, "num_pairs": len(pairs), "within": within,
        "distance_min": middle[0], "distance_median": middle[1], "distance_max": middle[2],
        "outside": "; ".join(outside), "dropped": "; ".join(two.dropped),
        "floor_median": _floor(two), "size": two.size, "num_permutations": 0, "margin": margin,
        "verdict": found, "other_verdict": "",
    }  # fmt: skip
    row |= share.columns("share")
    if two.testable:
        null = permuted(two, seed)
        # Counted among the permutations, the data's own labels keep p above 0.
        row["p_value"] = float(np.mean(null >= _observed(two) - 1e-12))
        row["p_smallest"] = float(np.mean(null >= null.max() - 1e-12))
        row["num_permutations"] = len(null)
    return row


def _floor(two: _Two) -> float:
    """Median distance between two runs of one group, of different blocks."""
    found = [
        two.distance(x, y)
        for by_block in (two.runs_a, two.runs_b)
        for own, other in itertools.combinations(by_block.values(), 2)
        for x, y in itertools.product(own.values(), other.values())
    ]
    return float(np.median(found)) if found else math.nan


def _observed(two: _Two) -> float:
    """The squared distance of the groups' mean paths, unbiased: below 0 where seeds differ more."""
    if two.matched is not None:
        return float(_paired_squares(_products(two), np.ones((1, len(two.matched[0]))))[0])
    return float(_unpaired_squares(two.squares, two.is_a[None])[0])


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
