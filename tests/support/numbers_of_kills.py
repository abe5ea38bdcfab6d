"""What kills, divisions and a Slurm came to, as docs/results.md shows it."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import markdown, table

_CUT_OFF = {
    "saving": "a save",
    "sealing": "a manifest's writing",
    "removing": "the removal of an old step",
    "": "nothing of these: training or starting",
}


def kills() -> str:
    own = table("operations", "kill_trials")
    what = own.during.str.split().str[0].where(lambda word: word.isin(_CUT_OFF), "")
    counts = what.value_counts()
    rows = [[text, str(counts.get(word, 0))] for word, text in _CUT_OFF.items()]
    return markdown(("what the kill cut off", "kills"), rows)


def after_kills() -> str:
    own = table("operations", "kill_trials")
    trainings = own.groupby("training").equal_at_the_end.all()
    lost = sum(_went_back(these.newest) for _, these in own.groupby("training"))
    rows = [
        ["steps listed after the kills, all verified and restored", str(own.restored.sum())],
        ["listed steps lost", str(lost)],
        ["steps made again after a kill", f"at most {own.lost.max()}, one save's"],
        [
            "trainings that ended with the state hash, tables and TensorBoard scalars of an"
            " undisturbed one",
            f"{trainings.sum()} of {len(trainings)}",
        ],
    ]
    return markdown(("what followed", ""), rows).replace("|  |", "| |", 1)


def _went_back(newest: pd.Series) -> int:
    """How often a later kill found an older newest step."""
    return int((newest.diff() < 0).sum())


def divisions() -> str:
    own = table("operations", "divisions")
    rows = [
        [
            *(
                str(getattr(row, name))
                for name in ("processes", "devices_each", "batch_devices", "threads")
            ),
            str(row.runs_per_device),
            "bit for bit" if row.state_identical else f"no, {row.state_sha256[:8]}",
            f"{row.largest_difference:.1e}" if row.largest_difference else "0",
        ]
        for row in own.itertuples()
    ]
    header = (
        "processes", "devices of each", "devices of a batch", "threads XLA compiles for",
        "runs per device", "state as the first row's", "largest difference",
    )  # fmt: skip
    return markdown(header, rows)


def slurm() -> str:
    own = table("operations", "slurm")
    rows = [
        [f"`{row.test}`", row.what, f"{row.measured:g}", str(row.limit)] for row in own.itertuples()
    ]
    return markdown(("test", "what", "measured", "limit"), rows)
