"""What finetuning came to, as docs/results.md shows it."""

from __future__ import annotations

from markdown_of_tables import REGIMES, markdown, table

from grokjax.base import names
from grokjax.report.transfer_tables import AT_FLOOR, FLOOR, NOT_SHOWN

CATEGORIES = {name: name.replace("_", " ") for name in names.CATEGORIES}


def transfer() -> str:
    own = table("transfer", "transfer_accuracy")
    asked = {"atomic_new": "new facts", **CATEGORIES, "id_atomic": "old ID facts kept"}
    wide = own.pivot(index=["group", "checkpoint"], columns="asked", values="accuracy")
    order = own[["group", "checkpoint"]].drop_duplicates().itertuples(index=False)
    rows = [[*cell, *(f"{wide.loc[tuple(cell), a]:.2f}" for a in asked)] for cell in order]
    return markdown(("group", "from", *asked.values()), rows)


def transfer_gain() -> str:
    own = table("transfer", "transfer_worth")
    own = own[own.gain.notna() & own.group.isin(REGIMES)]
    rows = [
        [group, *(f"{these.set_index('asked').gain[a]:.2f}" for a in CATEGORIES)]
        for group, these in own.groupby("group", sort=False)
    ]
    return markdown(("group", *CATEGORIES.values()), rows)


def transfer_equivalence() -> str:
    own = table("transfer", "transfer_equivalence")
    own = own[own.checkpoint == "end"]
    rows = []
    for row in own.itertuples():
        reference = row.accuracy - row.difference
        said = AT_FLOOR if max(row.accuracy, reference) < FLOOR else NOT_SHOWN
        asked = CATEGORIES[row.asked]
        rows.append(
            [row.group, asked, f"{row.accuracy:.2f}", f"{reference:.2f}", row.num_pairs, said]
        )
    header = (
        "group, from its end", "asked", "accuracy", "both_hop_full's", "pairs",
        "equivalent within 0.1?",
    )  # fmt: skip
    return markdown(header, rows)


def transfer_halves() -> str:
    own = table("transfer", "transfer_halves")
    own = own[(own.checkpoint == "end") & (own.num_with_site > 0)]
    columns = ("old_effect", "new_effect", "old_patched", "new_patched")
    rows = [
        [
            row.group,
            f"{row.num_with_site} of {row.num_runs}",
            *(f"{getattr(row, c):.2f}" for c in columns),
        ]
        for row in own.itertuples()
    ]
    header = (
        "group", "runs with such a site", "old query's state", "new query's state",
        "second half: old query answered", "second half: new relation answered",
    )  # fmt: skip
    return markdown(header, rows)


def transfer_dose() -> str:
    own = table("transfer", "transfer_dose")
    doses = sorted(own.dose.unique())
    wide = own.pivot(index=["group", "asked"], columns="dose", values="accuracy")
    cells = own[["group", "asked"]].drop_duplicates().itertuples(index=False)
    rows = [
        [group, CATEGORIES[asked], *(f"{wide.loc[(group, asked), d]:.2f}" for d in doses)]
        for group, asked in cells
    ]
    return markdown(("group", "asked", *(f"{d:.0%}".replace("%", " %") for d in doses)), rows)
