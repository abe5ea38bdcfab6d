"""What docs/accelerators.md tells of measurements: a precision's effect, and the CPU's speed."""

from __future__ import annotations

from markdown_of_tables import markdown, spread, table


def precision() -> str:
    own = table("accelerators", "precision")
    rows = [
        [regime, products, *(spread(of[name]) for name in ("held-out ID accuracy", "OOD accuracy"))]
        for (regime, products), of in own.groupby(["regime", "products"], sort=False)
    ]
    return markdown(("regime, 4 seeds", "products", "held-out ID accuracy", "OOD accuracy"), rows)


def cpu_pairs() -> str:
    own = table("accelerators", "cpu_pairs")
    own["told"] = [
        f"{of.median:.2f} ({of.lowest:.2f} to {of.highest:.2f}), {of.rounds} rounds"
        for of in own.itertuples()
    ]
    rows = [[line, *these.told] for line, these in own.groupby("line", sort=False)]
    width = max(map(len, rows))
    rows = [row + ["-"] * (width - len(row)) for row in rows]
    return markdown(("line of `grokjax bench --quick`", "first run", "second run"), rows)


ACCELERATORS = (precision, cpu_pairs)
