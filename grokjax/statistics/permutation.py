"""Whether two groups of runs differ: permuted labels, within strata, every one where they are few.

A test is a sum of scores over the runs of one group. Labels are permuted among the runs of one
stratum (a data seed): its runs share a graph, and are compared with each other alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from grokjax.base.draws import random_stream
from grokjax.statistics.survival import COMPETING, EVENT

MOST_LABELLINGS = 200_000  # that are listed; of more, a sample is drawn
_NUM_SAMPLES = 20_000
_MOST_PAIRS = 6  # of groups, all of which are compared
_SMALL = 1e-9  # sums of the same scores differ by this much at most


def compared_groups(groups: Iterable[str]) -> list[tuple[str, str]]:
    """Every two groups, in their order; of more than four, each against the first alone."""
    pairs = list(itertools.combinations(dict.fromkeys(groups), 2))
    first = pairs[0][0] if pairs else ""
    return pairs if len(pairs) <= _MOST_PAIRS else [pair for pair in pairs if pair[0] == first]


class Permutation(NamedTuple):
    """A two-sided test. `smallest` is the p that these runs could have given at best."""

    p: float
    smallest: float
    num_labellings: int
    method: str
    num_pairs: int  # strata with one run of each group
    used: Bool[np.ndarray, " N"]  # runs of strata that have both groups


def log_rank_scores(time: ArrayLike, cause: ArrayLike) -> Float[np.ndarray, " N"]:
    """Each run's share in the log-rank statistic: had the event, less what was expected of it.

    A diverged run stays at risk to the end, as one that can no longer have the event (Gray 1988).

    Args:
      time: of the event, or where the run ended.
      cause: CENSORED, EVENT or COMPETING, as for `aalen_johansen`.
    """
    cause = np.asarray(cause)
    time = np.where(cause == COMPETING, np.inf, np.asarray(time, float))
    had = cause == EVENT
    scores = had.astype(float)
    for t in np.unique(time[had]):
        at_risk = time >= t
        scores[at_risk] -= (had & (time == t)).sum() / at_risk.sum()
    return scores


def permutation_test(
    scores: ArrayLike, is_a: ArrayLike, strata: Sequence[Hashable], *, seed: int = 0
) -> Permutation:
    """Tests the sum of group a's scores against all labellings within strata.

    Strata that lack a group are left out; where none has both, all runs are one stratum.

    Args:
      scores: of each run.
      is_a: which of the two groups it is of.
      strata: of each run.
      seed: of the sample, where the labellings are too many to list.

    Returns:
      p of a sum at least as far from its mean, the observed labels counted among the others. NaN
      where a group is empty.
    """
    scores, is_a = np.asarray(scores, float), np.asarray(is_a, bool)
    places: dict[Hashable, list[int]] = {}
    for i, name in enumerate(strata):
        places.setdefault(name, []).append(i)
    both = [p for p in places.values() if 0 < is_a[p].sum() < len(p)]
    method = "stratified by data seed"
    if not both:
        both, method = [list(range(len(scores)))], "unstratified"
    used = np.zeros(len(scores), bool)
    used[list(itertools.chain(*both))] = True
    if not 0 < is_a[used].sum() < used.sum():
        return Permutation(math.nan, math.nan, 0, method, 0, used)
    parts = [(scores[p] - scores[p].mean(), int(is_a[p].sum())) for p in both]
    observed = sum(float(s[is_a[p]].sum()) for (s, _), p in zip(parts, both, strict=True))
    pairs = sum(len(p) == 2 for p in both) if method != "unstratified" else 0
    if pairs == len(both):
        method = "paired by data seed"
    num = math.prod(math.comb(len(s), n) for s, n in parts)
    if num <= MOST_LABELLINGS:
        sums, how = _all_sums(parts), "exact"
    else:
        sums, how = _sampled_sums(parts, seed), "sampled"
        sums[0] = observed
    distance = np.abs(sums)
    scale = max(float(distance.max()), 1.0)
    p = float(np.mean(distance >= abs(observed) - _SMALL * scale))
    smallest = float(np.mean(distance >= distance.max() - _SMALL * scale))
    return Permutation(p, smallest, len(sums), f"{method}, {how}", pairs, used)


def _all_sums(parts: Sequence[tuple[np.ndarray, int]]) -> Float[np.ndarray, " P"]:
    """The sum under every labelling: of each stratum's own, in all combinations."""
    sums = np.zeros(1)
    for scores, size in parts:
        chosen = _chosen(len(scores), size)
        sums = (sums[:, None] + scores[chosen].sum(axis=1)[None]).ravel()
    return sums


@functools.lru_cache(maxsize=32)
def _chosen(num: int, size: int) -> Int[np.ndarray, "C size"]:
    """All choices of so many of so many."""
    return np.array(list(itertools.combinations(range(num), size)))


def _sampled_sums(parts: Sequence[tuple[np.ndarray, int]], seed: int) -> Float[np.ndarray, " P"]:
    rng = random_stream(seed, "permutations")
    sums = np.zeros(_NUM_SAMPLES)
    for scores, size in parts:
        order: Int[np.ndarray, "P n"] = rng.permuted(
            np.tile(np.arange(len(scores)), (_NUM_SAMPLES, 1)), axis=1
        )
        sums += scores[order[:, :size]].sum(axis=1)
    return sums


def sign_flip_p(differences: ArrayLike, at_least: float) -> float:
    """One-sided p of pairs' differences whose centre is at most `at_least`: signs are flipped.

    Exact up to 16 pairs, where it takes them to lie alike on both sides of their centre.
    """
    x = np.asarray(differences, float) - at_least
    n = len(x)
    if not n:
        return math.nan
    if n <= 16:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        signs = random_stream(0, "signs").choice([1, -1], size=(_NUM_SAMPLES, n))
        signs[0] = 1
    sums = signs @ x
    return float(np.mean(sums >= x.sum() - _SMALL * max(np.abs(x).sum(), 1.0)))


def holm(p: ArrayLike) -> Float[np.ndarray, " N"]:
    """Holm's adjusted p of a family; a NaN is no member of it."""
    p = np.asarray(p, float)
    adjusted = np.full(len(p), math.nan)
    order = np.flatnonzero(np.isfinite(p))[np.argsort(p[np.isfinite(p)], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
