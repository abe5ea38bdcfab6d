"""Groups of runs with known truth: how often the report's statistics are wrong of them.

    python tests/support/simulated_groups.py [--trials=N] [--out=FILE.csv]

Each row is one question asked of many simulated experiments: what was declared of the answer, and
how often it was so. `experiments/results/statistics/error_rates.csv` is such a table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from grokjax.analysis.path_identity import DIFFERENT, SAME, path_identity
from grokjax.report.transfer_tables import EQUIVALENT, compared
from grokjax.statistics.intervals import mean_interval, ratio_interval, wilson
from grokjax.statistics.permutation import holm, log_rank_scores, permutation_test
from grokjax.statistics.survival import CENSORED, COMPETING, EVENT, restricted_times

COLUMNS = ["question", "truth", "n", "trials", "rate", "low", "high", "at_least", "at_most"]
N = 8
SEEDS = [*range(N), *range(N)]
IS_A = np.arange(2 * N) < N
END = 40.0


def bimodal(rng, share, n=N):
    """Accuracies of runs that answer, a share of them, and of those that do not."""
    answers = rng.random(n) < share
    return np.where(answers, rng.uniform(0.95, 1.0, n), rng.uniform(0.0, 0.05, n))


def censored(rng, scale, n=N, seed_effect=None):
    """Times and ends of runs of one length; one in twelve diverges before."""
    time = rng.weibull(2.0, n) * scale * (1.0 if seed_effect is None else seed_effect)
    diverges = rng.random(n) < 1 / 12
    at = rng.uniform(0, END, n)
    cause = np.where(time <= END, EVENT, CENSORED)
    cause = np.where(diverges & (at < time), COMPETING, cause)
    return np.where(cause == COMPETING, at, np.minimum(time, END)), cause


def log_rank(rng, scale_a, scale_b, paired):
    effect = rng.lognormal(0, 0.5, N) if paired else None
    (time_a, cause_a), (time_b, cause_b) = (
        censored(rng, s, seed_effect=effect) for s in (scale_a, scale_b)
    )
    scores = log_rank_scores(np.append(time_a, time_b), np.append(cause_a, cause_b))
    return permutation_test(scores, IS_A, SEEDS if paired else range(2 * N)).p


def bimodal_p(rng, share_a, share_b):
    values = np.append(bimodal(rng, share_a), bimodal(rng, share_b))
    return permutation_test(values, IS_A, SEEDS).p


def mean_covered(rng, share):
    """Whether a mean's interval holds the truth; None where runs are alike and none is given."""
    found = mean_interval(bimodal(rng, share).round())
    return None if math.isnan(found.low) else found.low <= share <= found.high


def share_covered(rng, share):
    found = wilson(int((rng.random(N) < share).sum()), N)
    return found.low <= share <= found.high


def ratio_covered(rng):
    """Of restricted means of pairs; the truth is that of a hundred thousand runs."""
    effect = rng.lognormal(0, 0.5, N)
    known = [restricted_times(*censored(rng, s, seed_effect=effect), END) for s in (30.0, 10.0)]
    found = ratio_interval(known[1], known[0], paired=True)
    return found.low <= _true_ratio() <= found.high


def _true_ratio(cache: list[float] = []) -> float:  # noqa: B006
    if not cache:
        rng = np.random.default_rng(1)
        effect = rng.lognormal(0, 0.5, 200_000)
        means = [
            restricted_times(*censored(rng, s, len(effect), effect), END).mean()
            for s in (30.0, 10.0)
        ]
        cache.append(means[1] / means[0])
    return cache[0]


def paths(rng, others, noise=0.05):
    """Pairs of runs of one seed on one path; the first `others` of b go another way."""
    base = np.zeros((N, 40))
    base[:, :10] = rng.normal(1.0, 0.3, (N, 10))
    again = base.copy()
    again[:others] = np.roll(again[:others], 10, axis=1)
    both = np.concatenate([base, again]) + noise * rng.normal(size=(2 * N, 40))
    (row,) = path_identity(
        both, ["a"] * N + ["b"] * N, blocks=list(map(str, SEEDS))
    ).table.itertuples()
    return row


def scattered(rng, shift):
    """Every run goes its own way, as far from its pair as from another seed; b's are moved."""
    both = rng.normal(1.0, 0.5, (2 * N, 40))
    both[N:, :10] += shift
    (row,) = path_identity(
        both, ["a"] * N + ["b"] * N, blocks=list(map(str, SEEDS))
    ).table.itertuples()
    return row.verdict == DIFFERENT


def family(rng):
    """Whether any of six comparisons without an effect is called one."""
    return bool((holm([log_rank(rng, 20.0, 20.0, True) for _ in range(6)]) <= 0.05).any())


def equivalent(rng, shift):
    reference = rng.uniform(0.5, 0.7, N)
    other = reference + shift + rng.normal(0, 0.05, N)
    return compared(other, reference, 0.1)["verdict"] == EQUIVALENT


Question = tuple[str, str, Callable[[np.random.Generator], bool | None], float, float]


def questions() -> Iterator[Question]:
    """(question, truth, one trial, lowest and highest rate that is declared)."""
    p = "called different (p at most 0.05)"
    for paired in (False, True):
        how = "paired by seed" if paired else "unpaired"
        yield f"times, {how}: {p}", "no effect", (
            lambda rng, paired=paired: log_rank(rng, 20.0, 20.0, paired) <= 0.05
        ), 0.0, 0.05  # fmt: skip
        yield f"times, {how}: {p}", "a third of the time", (
            lambda rng, paired=paired: log_rank(rng, 30.0, 10.0, paired) <= 0.05
        ), 0.7, 1.0  # fmt: skip
    yield f"bimodal accuracies: {p}", "no effect, half answer", (
        lambda rng: bimodal_p(rng, 0.5, 0.5) <= 0.05
    ), 0.0, 0.05  # fmt: skip
    yield f"bimodal accuracies: {p}", "one in eight against all", (
        lambda rng: bimodal_p(rng, 0.125, 1.0) <= 0.05
    ), 0.8, 1.0  # fmt: skip
    yield "any of a family of six called different (Holm)", "no effect", family, 0.0, 0.05
    for share in (0.125, 0.5):
        yield "share of runs: Wilson's interval holds it", f"{share:g} answer", (
            lambda rng, share=share: share_covered(rng, share)
        ), 0.92, 1.0  # fmt: skip
        yield "mean of 0 and 1: bootstrap, where given, holds it", f"{share:g} answer", (
            lambda rng, share=share: mean_covered(rng, share)
        ), 0.85, 1.0  # fmt: skip
    yield "ratio of restricted means: bootstrap holds it", "censored, a third", (
        ratio_covered
    ), 0.85, 1.0  # fmt: skip
    yield "path identity: called the same path", "the same path", (
        lambda rng: paths(rng, 0).verdict == SAME
    ), 0.95, 1.0  # fmt: skip
    yield "path identity: called the same path", "one in eight goes another way", (
        lambda rng: paths(rng, 1).verdict == SAME
    ), 0.0, 0.0  # fmt: skip
    yield "path identity: the pair outside is named", "one in eight goes another way", (
        lambda rng: paths(rng, 1).outside.startswith("0 and 8")
    ), 1.0, 1.0  # fmt: skip
    yield "transfer: called equivalent within 0.1", "no difference", (
        lambda rng: equivalent(rng, 0.0)
    ), 0.8, 1.0  # fmt: skip
    yield "transfer: called equivalent within 0.1", "differs by 0.1", (
        lambda rng: equivalent(rng, 0.1)
    ), 0.0, 0.05  # fmt: skip
    called = "path identity: called different"
    yield called, "seeds as far apart as groups", lambda rng: scattered(rng, 0.0), 0.0, 0.05
    yield called, "groups apart, and seeds too", lambda rng: scattered(rng, 1.0), 0.8, 1.0


def error_rates(trials: int, seed: int = 0) -> pd.DataFrame:
    """A row per question; `low` and `high` are Wilson's for the trials that had an answer."""
    rows = []
    for place, (question, truth, trial, at_least, at_most) in enumerate(questions()):
        rng = np.random.default_rng([seed, place])
        found = [x for x in (trial(rng) for _ in range(trials)) if x is not None]
        rate = wilson(sum(map(bool, found)), len(found))
        rows.append(
            (question, truth, N, len(found), rate.mean, rate.low, rate.high, at_least, at_most)
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", default="experiments/results/statistics/error_rates.csv")
    args = parser.parse_args()
    table = error_rates(args.trials)
    table.to_csv(args.out, index=False, lineterminator="\n", float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
