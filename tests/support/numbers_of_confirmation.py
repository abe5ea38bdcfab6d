"""The confirmatory study as docs/results.md tells it: its runs, and their paths on ID queries."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import how_many, markdown, spread, table

from grokjax.base.names import STEPS_TO_ANSWER
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


CONFIRMATION = (confirmed_runs, confirmed_answers, confirmed_paths)
