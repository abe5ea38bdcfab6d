"""Path identity: do groups of runs answer along the same path, run by run?

A run's path is a vector: its map of mean effects over sites (patching), or its bridge-emergence
profile (lens). Groups are compared by the distances between single runs, in pairs of one seed where
they share seeds: a minority that goes another way shows as pairs outside the margin, where it
would vanish in the mean paths. Pairs that are apart do not make groups different as long as two
seeds of one group are as far apart: that takes a test against the distances within the groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from grokjax.analysis.path_distances import Pair, TwoGroups, exchange_test, two_groups
from grokjax.base.names import ALPHA
from grokjax.statistics.intervals import Interval, span_of, wilson
from grokjax.statistics.permutation import holm

MARGIN = 0.25  # a quarter of the paths' own size
PATCHING, LENS = "patching", "lens"
SAME, SAME_BUT_SOME = "same path", "same path but for some"
DIFFERENT, NOT_SHOWN, UNDECIDED = "different", "not shown to differ", "undecided"
_FEWEST = 4  # pairs of which a share can be told from a half
COLUMNS = (
    "paths", "reading", "group_a", "group_b", "n_a", "n_b", "paired", "num_pairs", "within",
    "share", "share_low", "share_high", "distance_min", "distance_median", "distance_max",
    "outside", "dropped", "floor_min", "floor_median", "floor_max", "floor_a", "floor_b", "size",
    "p_value", "p_smallest", "num_permutations", "p_holm", "family", "margin", "verdict",
    "other_verdict",
)  # fmt: skip
PAIRS = (
    "paths", "reading", "group_a", "group_b", "run_a", "run_b", "block", "distance", "within",
)  # fmt: skip
_TEXTS = (
    "paths", "reading", "group_a", "group_b", "outside", "dropped", "family", "verdict",
    "other_verdict",
)  # fmt: skip
_COUNTS = ("n_a", "n_b", "paired", "num_pairs", "within", "num_permutations")


class Paths(NamedTuple):
    """One kind of path of all runs: how it was read, and a row per run; NaN where it has none."""

    reading: str  # PATCHING or LENS
    values: Float[np.ndarray, "R F"]


class Identity(NamedTuple):
    """A row per kind of path and two groups, and the pairs of runs under it."""

    table: pd.DataFrame
    pairs: pd.DataFrame


def compare_paths(
    kinds: Mapping[str, Paths],
    groups: Sequence[str],
    *,
    runs: Sequence[Any] | None = None,
    blocks: Sequence[str] | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> Identity:
    """Compares groups of runs on several kinds of path, the readings side by side.

    Args:
      kinds: what is compared, by name.
      groups: each run's group.
      runs: each run's name; its place by default.
      blocks, margin, seed: as in `path_identity`.

    Returns:
      Tables with columns COLUMNS and PAIRS. `other_verdict` is that of the other reading for the
      same groups: the mildest claim among its kinds.
    """
    found = [
        path_identity(
            kind.values, groups, runs=runs, blocks=blocks, margin=margin, seed=seed,
            paths_named=name, reading=kind.reading,
        )
        for name, kind in kinds.items()
    ]  # fmt: skip
    table, pairs = (pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))
    table["other_verdict"] = [_other_verdict(table, row) for row in table.itertuples()]
    return Identity(table, pairs)


def _other_verdict(table: pd.DataFrame, row: Any) -> str:
    same = (table.group_a == row.group_a) & (table.group_b == row.group_b)
    others = table.verdict[same & (table.reading != row.reading)].tolist()
    mildest = (UNDECIDED, NOT_SHOWN, DIFFERENT, SAME_BUT_SOME, SAME)
    return next((verdict for verdict in mildest if verdict in others), "")


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
    """Compares every two groups of runs; of more than four, each with the first.

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
      seed: of the labellings, where they are too many to list.
      paths_named, reading: what the rows say of the paths.

    Returns:
      A row per two groups, COLUMNS: pairs within the margin and their share (Wilson), their
      distances, pairs outside and runs dropped by name; the floor: distances of two runs of one
      group and of different blocks (of both groups, and each one's median); the p of the test that
      exchanges labels (`exchange_test`), and Holm's over the rows of this table; a verdict: `same
      path` (all pairs within the margin, and so many that most would be), `same path but for some`
      (most of them, surely), `different` (surely not most, and further apart than seeds are:
      Holm's p at most 0.05), `not shown to differ` (surely not most, but perhaps no further than
      seeds), or `undecided`.
    """
    names = [str(x) for x in (range(len(groups)) if runs is None else runs)]
    named = {"paths": paths_named, "reading": reading}
    rows, pair_rows = [], []
    for two in two_groups(paths, groups, blocks, names):
        pairs = two.pairs()
        pair_rows += [named | _pair_row(two, pair, margin) for pair in pairs]
        rows.append(named | _compared(two, pairs, margin, seed))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["p_holm"] = holm(table.p_value.to_numpy(float))
    table["family"] = f"{paths_named}: {int(table.p_value.notna().sum())}"
    table["verdict"] = [
        verdict(row.within, row.num_pairs, min(row.n_a, row.n_b), row.p_holm)[1]
        for row in table.itertuples()
    ]
    numbers = {c: float for c in COLUMNS if c not in (*_TEXTS, *_COUNTS)}
    return Identity(table.astype(numbers), pd.DataFrame(pair_rows, columns=list(PAIRS)))


def verdict(
    within: int, num_pairs: int, evidence: int, p: float = math.nan
) -> tuple[Interval, str]:
    """Share of the pairs within the margin, and what it says.

    Args:
      within, num_pairs: counted.
      evidence: pairs that are independent of each other.
      p: that the groups are no further apart than two seeds of one of them.
    """
    if not num_pairs:
        return wilson(0, 0), UNDECIDED
    share = wilson(within / num_pairs * evidence, evidence)
    if evidence < _FEWEST:
        return share, UNDECIDED
    if share.low > 0.5:
        return share, SAME if within == num_pairs else SAME_BUT_SOME
    if share.high < 0.5:
        return share, DIFFERENT if p <= ALPHA else NOT_SHOWN
    return share, UNDECIDED


def _pair_row(two: TwoGroups, pair: Pair, margin: float) -> dict[str, Any]:
    within = pair.distance <= margin
    return {"group_a": two.a, "group_b": two.b} | pair._asdict() | {"within": within}


def _compared(two: TwoGroups, pairs: Sequence[Pair], margin: float, seed: int) -> dict[str, Any]:
    """A row without what takes all rows: Holm's p, and the verdicts."""
    n_a, n_b = two.num_replicates
    within = sum(pair.distance <= margin for pair in pairs)
    share, _ = verdict(within, len(pairs), min(n_a, n_b))
    floors = [two.within(of_a) for of_a in (True, False)]
    test = exchange_test(two, seed)
    outside = [f"{p.run_a} and {p.run_b} ({p.distance:.2f})" for p in pairs if p.distance > margin]
    return {
        "group_a": two.a, "group_b": two.b, "n_a": n_a, "n_b": n_b, "paired": two.paired,
        "num_pairs": len(pairs), "within": within, "outside": "; ".join(outside),
        "dropped": "; ".join(two.dropped), "size": two.size, "margin": margin,
        "p_value": test.p, "p_smallest": test.smallest, "num_permutations": test.num_labellings,
        **_spread("distance", [pair.distance for pair in pairs]),
        **_spread("floor", np.concatenate(floors)),
        "floor_a": span_of(floors[0])[1],
        "floor_b": span_of(floors[1])[1],
        "other_verdict": "",
        **share.columns("share"),
    }  # fmt: skip


def _spread(name: str, distances: ArrayLike) -> dict[str, float]:
    """The least, median and largest; NaN of none."""
    return dict(
        zip((f"{name}_min", f"{name}_median", f"{name}_max"), span_of(distances), strict=True)
    )
