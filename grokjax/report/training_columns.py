"""The columns of a training page's tables: what each is headed, and how its cells are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from grokjax.base.names import ORDER_LEVELS
from grokjax.data.task import Task
from grokjax.report.html import Column, around, count_of, interval, number, short
from grokjax.report.training_comparisons import NO_BOUND
from grokjax.statistics.intervals import BOOTSTRAP, BOOTSTRAP_FROM, RANGE

_ORDERED = {
    f"{name} {level:g}": column
    for level in ORDER_LEVELS
    for name, column in (
        ("path", number(f"path_{level:g}", ",.0f")),
        ("answer", number(f"answer_{level:g}", ",.0f")),
        ("order", f"order_label_{level:g}"),
    )
}
OUTCOMES: dict[str, Column] = {
    "run": "run_id",
    "hash": "run_hash",
    "group": "group",
    "data seed": "seeds.data",
    "status": "status",
    "end": number("end_step", ",.0f"),
    "memorised": number("memorised", ",.0f"),
    **_ORDERED,
    "{unseen}": number("final_ood_accuracy"),
    "{familiar}": number("final_iid_accuracy"),
    "path score": number("path_score"),
    "at its site, by chance": number("strict_chance"),
    "anywhere": number("any_path_score"),
    "anywhere, by chance": number("any_chance"),
    "FLOPs": number("flops", ".1e"),
}
_OF_PATH = (
    *(heading for heading in _ORDERED if not heading.startswith("answer")),
    *("path score", "at its site, by chance", "anywhere", "anywhere, by chance"),
)
_MEASURED = ("path score", "at its site, by chance", "anywhere", "anywhere, by chance", "FLOPs")
BOUNDS = (
    "At least, at most: runs that ended too soon make a ratio a bound. No bound: both groups have"
    " such runs, and the true ratio may lie on either side."
)
NO_BRACKETS = "Without brackets: so few runs, or runs so alike, give no interval."
TIMES: dict[str, Column] = {
    "group": "group",
    "event": "event",
    "level": number("level", "g"),
    "had it": count_of("observed", "n"),
    "censored": "censored",
    "diverged": "diverged",
    "share by the end": around("probability"),
    "median step": around("median", ",.0f"),
    "earliest": number("earliest", ",.0f"),
    "latest": number("latest", ",.0f"),
    "restricted mean": around("restricted_mean", ",.0f"),
}
ORDER: dict[str, Column] = {
    "group": "group",
    "reading": "reading",
    "level": number("level", "g"),
    "order": "order",
    "runs": count_of("count", "n"),
    "share": around("share"),
    "lags of": "lag_n",
    "lag, lowest": number("lag_min", ",.0f"),
    "median": number("lag_median", ",.0f"),
    "highest": number("lag_max", ",.0f"),
}
COSTS: dict[str, Column] = {
    "group": "group",
    "unit": "unit",
    "{unseen} accuracy": number("level", "g"),
    "reached": count_of("reached", "n"),
    "median": around("median", ".2e"),
    "restricted mean": around("restricted_mean", ".2e"),
    "to the first group": lambda t: _bounded(t, "ratio"),
    "pairs": number("num_pairs", ".0f"),
}
COMPARED: dict[str, Column] = {
    "quantity": "quantity",
    "level": number("level", "g"),
    "a": "group_a",
    "b": "group_b",
    "measure": "measure",
    "estimate": lambda t: _bounded(t.rename(columns={"bound": "estimate_bound", "low":
        "estimate_low", "high": "estimate_high"}), "estimate", ".3g"),
    "n": lambda t: [f"{a}, {b}" for a, b in zip(t.n_a, t.n_b, strict=True)],
    "method": "method",
    "p": number("p", ".2g"),
    "smallest p": number("p_smallest", ".2g"),
    "p, Holm": number("p_holm", ".2g"),
    "over the family": lambda t: [f"{family}, {n:.0f} row{'s' * (n != 1)}" for family, n in
        zip(t.family, t.family_size, strict=True)],
}  # fmt: skip
VARIANCE: dict[str, Column] = {
    "group": "group",
    "quantity": "quantity",
    "source": "source",
    "levels": "num_levels",
    "runs": "n",
    "share": around("share"),
    "swept": "swept",
}
MACHINE: dict[str, Column] = {
    "population": "population",
    "runs": "num_runs",
    "steps": short("steps"),
    "devices": short("num_devices"),
    "training": short("training_seconds"),
    "evaluation": short("evaluation_seconds"),
    "compile": short("compile_seconds"),
    "GiB": short("peak_bytes", 2**30),
}


def headed(columns: Mapping[str, Column], task: Task) -> dict[str, Column]:
    """Columns with a task's words in their headings, without those of what it has not."""
    words = {"unseen": task.short, "familiar": task.short_familiar}
    paths = () if task.hidden else _OF_PATH
    left_out = (*paths, *(() if task.held_out else ("{familiar}",)))
    return {h.format(**words): column for h, column in columns.items() if h not in left_out}


def unmeasured(table: pd.DataFrame, headed: Mapping[str, Column]) -> list[str]:
    """Headings of what no run of a table was measured by: not of times, which may not come."""
    shown = {
        h: column(table) for h, column in headed.items() if h in _MEASURED and callable(column)
    }
    return [heading for heading, texts in shown.items() if set(texts) <= {"-"}]


def brackets(kinds: Iterable[str]) -> str:
    """What stands in brackets, by the kinds of interval in a table's column `interval`."""
    found = {kind for kind in kinds if isinstance(kind, str)}
    of_few = "the lowest and highest run (or pair)"
    if {BOOTSTRAP, RANGE} <= found:
        few = f"of fewer {of_few}"
        return f"in brackets a 95 % bootstrap interval from {BOOTSTRAP_FROM} runs on, {few}."
    if BOOTSTRAP in found:
        return "in brackets a 95 % bootstrap interval."
    if RANGE in found:
        return f"in brackets {of_few}: no interval under {BOOTSTRAP_FROM} runs."
    return "no brackets."


def _bounded(table: pd.DataFrame, name: str, form: str = ".2f") -> list[str]:
    """An estimate with its interval, after the word that makes it a bound."""
    texts = interval(name, f"{name}_low", f"{name}_high", form)(table)
    words = [word if isinstance(word, str) else "" for word in table[f"{name}_bound"]]
    return [
        word if word == NO_BOUND else f"{word} {text}".strip()
        for word, text in zip(words, texts, strict=True)
    ]
