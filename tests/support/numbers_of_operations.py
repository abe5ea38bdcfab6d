"""What kills, divisions, a Slurm and acts in any order came to, as docs/ shows it."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import markdown, table


def _commits(own: pd.DataFrame) -> str:
    """What a table's rows were counted on."""
    return ", ".join(own.commit.unique())


def hostile_counts() -> str:
    """By kind: trials, in how many of them the event came before the end, and of which commit."""
    rows = []
    for kind, own in table("operations", "hostile_trials").groupby("kind", sort=True):
        came = int((own.events > 0).sum())
        rows.append([f"`{kind}`", len(own), came, int(own.events.sum()), _commits(own)])
    header = ("kind", "trials, all as undisturbed in the end", "of which hit", "events", "commit")
    return markdown(header, rows)


def sequences() -> str:
    own = table("operations", "sequences")
    counts = own.groupby("what").measured.sum().sort_values(ascending=False)
    acts = counts.drop("sequences")
    told = ", ".join(f"{what} {count}" for what, count in acts.items())
    return (
        f"{counts['sequences']} sequences of {acts.sum()} acts on {_commits(own)},"
        f" none of which broke one: {told}.\n"
    )


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
    header = ("what the kill cut off", f"kills on {_commits(own)}")
    return markdown(header, rows)


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
            row.commit,
        ]
        for row in own.itertuples()
    ]
    header = (
        "processes", "devices of each", "devices of a batch", "threads XLA compiles for",
        "runs per device", "state as the first row's", "largest difference", "commit",
    )  # fmt: skip
    return markdown(header, rows)


def slurm() -> str:
    return _measured("slurm")


def multihost() -> str:
    return _measured("multihost")


def _measured(name: str) -> str:
    """What tests have noted (`measured` in tests/conftest.py)."""
    rows = [
        [f"`{row.test}`", row.what, f"{row.measured:g}", str(row.limit), row.commit]
        for row in table("operations", name).itertuples()
    ]
    return markdown(("test", "what", "measured", "limit", "commit"), rows)


OPERATIONS = (kills, after_kills, divisions, multihost, slurm, hostile_counts, sequences)
