"""The confirmatory study as docs/results.md tells it: its runs, and their paths on ID queries."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import how_many, markdown, spread, table

from grokjax.base.names import CATEGORIES, PATH_AT, STEPS_TO_ANSWER
from grokjax.statistics.intervals import wilson


def share_in_order(runs: pd.DataFrame, level: float, order: str) -> str:
    """How many of some runs have path and answer in an order at a level: share, Wilson interval."""
    share = wilson(int((runs[f"order_{level:g}"] == order).sum()), len(runs))
    return f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}]"


def confirmed_runs() -> str:
    own = table("confirmatory", "outcomes")
    rows = []
    for (group, steps), these in own.groupby(["group", "train.num_steps"], sort=False):
        rows.append(
            [
                group,
                f"{len(these)} of {steps:,}",
                how_many(these.memorised),
                how_many(these["path_0.5"]),
                how_many(these["answer_0.5"]),
                how_many(these["answer_0.95"]),
                share_in_order(these, 0.5, "path first"),
                spread(these.final_iid_accuracy),
                spread(these.final_ood_accuracy),
            ]
        )
    header = (
        "unit", "runs, steps", "memorised (0.95)", "path (0.5, strict)", "answer 0.5",
        "answer 0.95", "path first (0.5)", "held-out ID accuracy", "OOD accuracy",
    )  # fmt: skip
    return markdown(header, rows)


def confirmed_answers() -> str:
    """Of each unit but natural: how early answers come, in which order, and what OOD lacks."""
    own, tests = table("confirmatory", "outcomes"), table("confirmatory", "comparisons")
    tests = tests[tests.group_a == "natural, phi inf"].set_index(["group_b", "quantity", "level"])
    rows = []
    for unit, these in own[own.regime != "natural"].groupby("group", sort=False):
        row = [unit]
        for level in (0.5, 0.95):
            test = tests.loc[(unit, STEPS_TO_ANSWER, level)]
            bound = "" if pd.isna(test.bound) else f"{test.bound} "
            interval = f"{test.estimate:.2f} [{test.low:.2f}, {test.high:.2f}]"
            row += [bound + interval, f"{test.p_holm:.3f}"]
        row += [share_in_order(these, level, "answer first") for level in (0.5, 0.95)]
        lacking = (these.final_iid_accuracy - these.final_ood_accuracy).abs()
        rows.append([*row, f"{(lacking <= 0.05).sum()} of {len(these)}"])
    header = (
        "unit", "steps to answer 0.5, over natural's", "p (Holm)",
        "steps to answer 0.95, over natural's", "p (Holm)", "answer first (0.5)",
        "answer first (0.95)", "OOD within 0.05 of held-out ID accuracy",
    )  # fmt: skip
    return markdown(header, rows)


def confirmed_paths() -> str:
    own = table("confirmatory", "paths_summary")
    rows = [
        [
            f"{row.first} and {row.second}",
            row.reading if row.reading == "lens" else f"patching, {row.reading}",
            f"{row.within} of {row.compared}",
            f"[{row.share_low:.2f}, {row.share_high:.2f}]",
            f"{row.median_difference:.2f}",
            f"{row.median_correlation:.2f}",
        ]
        for row in own.itertuples()
    ]
    header = (
        "of each run", "reading", "within 0.25 at every site", "share, Wilson",
        "largest difference of a site, median", "correlation over sites, median",
    )  # fmt: skip
    return markdown(header, rows)


def confirmed_transfers() -> str:
    """Of each group of finetunings: what is answered of the new compositions, and what is left."""
    own = table("confirmatory", "transfers")
    rows = []
    for (group, checkpoint), these in own.groupby(["source_group", "source_checkpoint"]):
        rows.append(
            [
                f"{group}, {checkpoint}",
                len(these),
                *(spread(these[name]) for name in CATEGORIES),
                f"{these.new_then_old_half_way.mean():.2f}, {these.new_then_old.mean():.2f}",
                *(spread(these[name]) for name in ("kept_inferred", "train_inferred")),
            ]
        )
    header = (
        "source", "n", "`new then old`", "`old then new`", "`new then new`",
        "`new then old` half-way and at the end, means",
        "old compositions that stay in training", "compositions of pretraining",
    )  # fmt: skip
    return markdown(header, rows)


def confirmed_transfer_halves() -> str:
    """Does the second half work, where some site carries the bridge of other old queries?"""
    own = table("confirmatory", "transfers")
    rows = []
    for group, these in own.groupby("source_group"):
        have = these[these.half_score >= PATH_AT]
        parts = [have[f"half_{name}"] for name in ("old_patched", "new_patched")]
        rows.append(
            [group, f"{len(have)} of {len(these)}", *(spread(p) if len(p) else "" for p in parts)]
        )
    header = (
        "source", "runs with such a site (0.5)", "old queries answered with its state put in",
        "the same with the new relation",
    )  # fmt: skip
    return markdown(header, rows)


def confirmed_transfer_tests() -> str:
    rows = [
        [
            f"`{row.asked.replace('_', ' ')}`", f"{row.natural:.2f}", f"{row.control:.2f}",
            f"{row.difference:.2f} ({row.lowest:.2f} to {row.highest:.2f})",
            f"{row.p:.3f}", f"{row.p_holm:.3f}", f"{row.above:.0f} of {row.n}",
        ]
        for row in table("confirmatory", "transfers_tests")
        .rename(columns={"above_0.9": "above"})
        .itertuples()
    ]  # fmt: skip
    header = (
        "asked", "natural at its end, mean", "control, mean", "difference (single seeds)", "p",
        "p (Holm)", "above 0.9",
    )  # fmt: skip
    return markdown(header, rows)


CONFIRMATION = (
    confirmed_runs, confirmed_answers, confirmed_paths, confirmed_transfers,
    confirmed_transfer_tests, confirmed_transfer_halves,
)  # fmt: skip
