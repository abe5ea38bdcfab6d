"""What was counted of kills, hang-ups, several processes and Slurm, as docs/ shows it."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import markdown, span, table

_CUT_OFF = {"saving": "a save", "sealing": "a manifest's writing", "removing": "an old step"}


def hostile_counts() -> str:
    """By kind: trials, in how many of them the event came before the end, and of which commit."""
    rows = []
    for kind, own in table("operations", "hostile_trials").groupby("kind", sort=True):
        came = int((own.events > 0).sum())
        rows.append(
            [f"`{kind}`", len(own), came, int(own.events.sum()), ", ".join(own.commit.unique())]
        )
    header = ("kind", "trials, all as undisturbed in the end", "of which hit", "events", "commit")
    return markdown(header, rows)


def sequences() -> str:
    own = table("operations", "sequences")
    counts = own.groupby("what").measured.sum().sort_values(ascending=False)
    acts = counts.drop("sequences")
    told = ", ".join(f"{what} {count}" for what, count in acts.items())
    return (
        f"{counts['sequences']} sequences of {acts.sum()} acts on {', '.join(own.commit.unique())},"
        f" none of which broke one: {told}.\n"
    )


def kills() -> str:
    own = table("operations", "kill_trials")
    first = own.during.str.split(" ").str[0]
    rows = [[what, int((first == word).sum())] for word, what in _CUT_OFF.items()]
    rows.append(["nothing of these: training or starting", int((~first.isin(_CUT_OFF)).sum())])
    whole = own.groupby("training").equal_at_the_end.all()
    rows += [
        ["steps listed after the kills, all verified and restored", own.restored.sum()],
        ["steps made again after a kill, of which 10 are one save's", span(own.lost)],
        [
            "trainings that ended with the state hash, tables and TensorBoard scalars of an"
            " undisturbed one",
            f"{whole.sum()} of {len(whole)}",
        ],
    ]
    header = ("what the kill cut off, and what followed", f"{len(own)} kills, {_commits(own)}")
    return markdown(header, rows)


def divisions() -> str:
    own = table("operations", "divisions")
    rows = [
        [
            *(row.processes, row.devices_each, row.batch_devices, row.threads, row.runs_per_device),
            "bit for bit" if row.state_identical else f"no, {row.state_sha256[:8]}",
            f"{row.largest_difference:.1e}" if row.largest_difference else "0",
        ]
        for row in own.itertuples()
    ]
    header = (
        "processes", "devices of each", "devices of a batch", "threads XLA compiles for",
        "runs per device", f"state as the first row's, {_commits(own)}", "largest difference",
    )  # fmt: skip
    return markdown(header, rows)


def slurm() -> str:
    return _measured("slurm")


def several_processes() -> str:
    return _measured("multihost")


def _measured(name: str) -> str:
    own = table("operations", name)
    rows = [[f"`{row.test}`", row.what, row.measured, row.limit] for row in own.itertuples()]
    return markdown(("test", "what", f"measured, {_commits(own)}", "limit"), rows)


def _commits(own: pd.DataFrame) -> str:
    return ", ".join(own.commit.unique())


OPERATIONS = (hostile_counts, sequences, kills, divisions, slurm, several_processes)
