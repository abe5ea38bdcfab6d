"""What was counted of whole commands and of acts in any order, as docs/operations.md shows it."""

from __future__ import annotations

from markdown_of_tables import markdown, table


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


OPERATIONS = (hostile_counts, sequences)
