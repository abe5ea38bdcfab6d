"""The report of a finetuning: what transfers to new facts, at what cost, and which half fails."""

from __future__ import annotations

import functools
import math
from typing import Any

import pandas as pd

from grokjax.base.names import ATOMIC_NEW, CATEGORIES, END, PATH_AT, TRAIN_INFERRED
from grokjax.report.html import (
    Column,
    Finding,
    Illustration,
    Page,
    Section,
    Shown,
    around,
    count_of,
    interval,
    number,
    show,
    show_wide,
)
from grokjax.report.published import published_finetuning
from grokjax.report.style import span
from grokjax.report.training_runs import origin_of
from grokjax.report.transfer_figures import (
    NAMES,
    dose_figure,
    has_doses,
    transfer_figure,
    worth_figure,
)
from grokjax.report.transfer_runs import EARLY, TransferRuns
from grokjax.report.transfer_tables import (
    FLOOR,
    MARGIN,
    REFERENCE,
    accuracy_table,
    break_even_table,
    equivalence_table,
    time_table,
    worth_table,
)
from grokjax.statistics.intervals import mean_interval
from grokjax.transfer.halves import HALVES

_HALF_COLUMNS = (
    "score", "old_effect", "same_effect", "new_effect", "new_less_same", "accuracy",
    "old_patched", "new_patched",
)  # fmt: skip
HALVES_TABLE = (
    "group", "checkpoint", "variant", "num_runs", "num_with_site", "num_pairs",
    *(f"{name}{bound}" for name in _HALF_COLUMNS for bound in ("", "_low", "_high")),
)  # fmt: skip

_CELL: dict[str, Column] = {"group": "group", "checkpoint": "checkpoint", "variant": "variant"}
_RUNS = _CELL | {"runs": "num_runs"}
_ASKED = _CELL | {"asked": "asked"}
_WORTH = _ASKED | {
    "pretraining": number("pretraining_flops", ".2e"),
    "finetuning": number("finetuning_flops", ".2e"),
    "accuracy": interval("accuracy", "low", "high"),
    "gain": around("gain"),
    "pairs": "num_pairs",
}
_BREAK_EVEN: dict[str, Column] = {
    "group": "group",
    "variant": "variant",
    "asked": "asked",
    "level": number("level", "g"),
    "early": "early",
    "late": "late",
    "num pairs": "num_pairs",
    "only late": "only_late",
    "only early": "only_early",
    "neither": "neither",
    "pays": "pays",
    "break even": number("break_even", ",.1f"),
}
_EQUIVALENCE = _ASKED | {
    "accuracy": number("accuracy"),
    "pairs": "num_pairs",
    "difference": interval("difference", "low", "high"),
    "p": number("p_equivalent", ".3f"),
    "verdict": "verdict",
}
_HALVES = (
    _CELL
    | {"runs with a site": count_of("num_with_site", "num_runs")}
    | {name.replace("_", " "): around(name) for name in _HALF_COLUMNS}
)


def _bridges(table: pd.DataFrame) -> list[str]:
    columns = zip(table.bridge_found, table.bridge_chance, table.bridge_found_strict, strict=True)
    return [f"{found:.2f}, {chance:.2f}, {strict:.2f}" for found, chance, strict in columns]


def _at_level(table: pd.DataFrame) -> pd.Series:
    return table.asked + table.level.map(" at {:g}".format)


def _times(table: pd.DataFrame) -> list[str]:
    counts = count_of("reached", "num_runs")(table)
    steps = interval("mean_steps", "low", "high", ",.0f")(table)
    return [f"{count}: {mean}" for count, mean in zip(counts, steps, strict=True)]


def page(data: TransferRuns) -> Page:
    """Everything that a report says of a finetuning."""
    tables = {
        "transfer_accuracy": accuracy_table(data),
        "transfer_times": time_table(data),
        "transfer_worth": worth_table(data),
        "transfer_break_even": break_even_table(data),
        "transfer_equivalence": equivalence_table(data),
    }
    tables["transfer_halves"] = read_halves(data)
    title = f"{data.results.config.name}: what does a grokked model do with new facts?"
    sections = _sections(data, tables) if len(data.members) else []
    return Page(title, _findings(tables), _lead(data), sections, tables)


def _findings(tables: dict[str, pd.DataFrame]) -> list[Finding]:
    """What is learned, what follows from it, what longer pretraining brings, who transfers alike.

    From each group's end, or its dearest checkpoint; of variants the first.
    """
    accuracy = tables["transfer_accuracy"]
    if not len(accuracy):
        nothing = "No run is left that has not diverged: nothing can be said of transfer."
        return [Finding(nothing, "transfer_accuracy")]
    own = accuracy[accuracy.variant == accuracy.variant.iloc[0]]
    last = own.groupby("group", sort=False).checkpoint.transform(
        lambda names: END if END in set(names) else names.iloc[-1]
    )
    own = own[own.checkpoint == last]
    found = []
    for asked in (ATOMIC_NEW, *CATEGORIES):
        here = own[own.asked == asked]
        parts = [
            f"{row.group} {row.accuracy_median:.2f} ({row.accuracy_min:.2f} to"
            f" {row.accuracy_max:.2f}, n = {row.num_runs})"
            for row in here.itertuples()
        ]
        what = "New facts" if asked == ATOMIC_NEW else NAMES[asked].capitalize()
        if parts:
            text = f"{what} answered after finetuning, median and range: {'; '.join(parts)}."
            found.append(Finding(text, "transfer_accuracy"))
    equivalence = tables["transfer_equivalence"]
    if len(equivalence):
        told = ", ".join(
            f"{n} {verdict}" for verdict, n in equivalence.verdict.value_counts().items()
        )
        text = f"Transfer as {REFERENCE} at its end, over {len(equivalence)} comparisons: {told}."
        found.append(Finding(text, "transfer_equivalence"))
    else:
        text = f"Who transfers as {REFERENCE} cannot be said: it is not among the groups."
        found.append(Finding(text, "transfer_equivalence"))
    return found


def _lead(data: TransferRuns) -> str:
    t, runs = data.results.config.transfer, data.results.runs
    old = f"{t.num_kept:,} ID facts and the compositions of two of them"
    if t.retention == "closure":
        old = f"{t.num_kept:,} old items, facts with all compositions of theirs"
    if t.folder:
        return f"{len(runs)} runs, finetuned on {t.folder}."
    return (
        f"{len(runs)} runs, finetuned for {data.results.config.train.num_steps:,} steps on"
        f" {t.num_new_facts:,} new facts and {old}; {t.weights} weights, optimiser"
        f" {t.optimizer_state}. Checkpoints: saturation, path and grokked are the first stored ones"
        " after the event, before is the last one before saturation, end the last."
    )


def _sections(data: TransferRuns, tables: dict[str, pd.DataFrame]) -> list[Section]:
    origin = origin_of(data.results.workdir, str(data.results.runs.run_hash.iloc[0]))
    facts = f"{caption(data)}; {origin}"
    times = tables["transfer_times"]
    parts = [_transfers(data, tables["transfer_accuracy"], facts)]
    if has_doses(data):
        alt = "Accuracy of held-out compositions against the share trained on"
        text = "Compositions with new facts in the finetuning data, and the accuracy of the others."
        picture = Illustration("transfer_dose", functools.partial(dose_figure, data), alt, facts)
        parts.append(Section("At which dose", text, [picture]))
    parts += [
        Section(
            "When",
            "Finetuning steps until an accuracy, in three evaluations running.",
            (),
            [
                Shown(
                    "transfer_times",
                    show_wide(times, _RUNS, _at_level, _times),
                    "Runs that got there, and mean steps, restricted to the finetuning's length,"
                    " with bounds; runs that ended first are censored.",
                )
            ],
        ),
        Section(
            "Is it worthwhile?",
            "All FLOPs that a run has cost, pretraining and finetuning, against what it answers.",
            [
                Illustration(
                    "transfer_worth",
                    functools.partial(worth_figure, data),
                    _alt_worth(tables["transfer_worth"]),
                    facts,
                )
            ],
            [
                Shown(
                    "transfer_worth",
                    show(tables["transfer_worth"], _WORTH),
                    "Gain: over the earliest checkpoint of the same runs, paired by seed; bounds of"
                    " fewer than 8 runs are their lowest and highest.",
                ),
                Shown(
                    "transfer_break_even",
                    show(tables["transfer_break_even"], _BREAK_EVEN),
                    "How many finetunings pay for the longer pretraining: extra pretraining FLOPs"
                    " over the FLOPs that each finetuning saves until the accuracy, median of the"
                    " seeds where it saves any.",
                ),
            ],
        ),
        Section(
            "Who transfers as both_hop_full does?",
            "Difference to both_hop_full at its end, paired by seed, against a margin of"
            f" {MARGIN:g}. Floor: neither answers {FLOOR:g}, so that the margin says nothing.",
            (),
            [
                Shown(
                    "transfer_equivalence",
                    show(tables["transfer_equivalence"], _EQUIVALENCE),
                    "Two one-sided sign flips.",
                )
            ],
        ),
    ]
    if len(tables["transfer_halves"]):
        parts.append(_halves_section(tables["transfer_halves"]))
    return parts


def _transfers(data: TransferRuns, table: pd.DataFrame, facts: str) -> Section:
    paper = published_finetuning(data.results.config)
    picture = functools.partial(transfer_figure, data, paper)
    composed = table[table.asked.isin((*CATEGORIES, TRAIN_INFERRED))]
    return Section(
        "What transfers",
        "Finetuned on new facts and some old data, asked for compositions that were never"
        " trained on: of a new fact and then an old one, of an old one and then a new one, of"
        " two new ones. Each group from"
        f" the end of its pretraining, {EARLY} from its saturation. EMA weights.",
        [Illustration("transfer", picture, _alt_transfer(table), facts)],
        [
            Shown(
                "transfer_accuracy",
                show_wide(table, _RUNS, "asked", interval("accuracy", "low", "high")),
                "Accuracy after finetuning: mean of the runs, lowest and highest of fewer than 8."
                " id_atomic, train_inferred: old facts and compositions; kept_atomic and"
                " kept_inferred are those in the finetuning data.",
            ),
            Shown(
                "transfer_accuracy",
                show_wide(composed, _RUNS, "asked", _bridges),
                "Bridge found after finetuning, means of the runs: at any stage and position;"
                " the same by chance; at the one stage and position where the answer is read.",
            ),
        ],
    )


def read_halves(data: TransferRuns) -> pd.DataFrame:
    """Per group: mean and interval of what `halves.csv` holds; empty without it.

    Over the runs in which some site holds the bridge (num_with_site of num_runs).
    """
    path = data.results.workdir / HALVES
    if not path.exists() or not path.read_text().strip():
        return pd.DataFrame(columns=HALVES_TABLE)
    by_run = pd.read_csv(path).set_index("run_id")
    if "same_effect" not in by_run:  # measured before there was a baseline
        by_run["same_effect"] = math.nan
    by_run["new_less_same"] = by_run.new_effect - by_run.same_effect
    rows = []
    for cell, own in data.cells():
        these = by_run.loc[[r for r in own.run_id if r in by_run.index]]
        if not len(these):
            continue
        held = these[these.score >= PATH_AT]
        row: dict[str, Any] = cell | {"num_runs": len(these), "num_with_site": len(held)}
        row["num_pairs"] = held.num_pairs.mean()
        for name in _HALF_COLUMNS:
            row |= mean_interval(held[name].dropna().to_numpy()).columns(name)
        rows.append(row)
    return pd.DataFrame(rows, columns=HALVES_TABLE)


def _halves_section(halves: pd.DataFrame) -> Section:
    return Section(
        "Which half of the circuit fails (old then new)",
        "One site of each run, chosen on old queries: the one that carries head and relation 1 and"
        f" not relation 2 (score; runs without a site of at least {PATH_AT:g} are left out)."
        " Its state in a new query is put into an old query with another head: new effect, against"
        " the old effect of an old query's state (1: the whole difference in the answer's logits)"
        " and the same effect, of another old query that shares head and relation 1. A new query"
        " shares them too, and the site hardly depends on relation 2: that new and same agree is"
        " nearly true by construction, and no evidence that a half works. Then the old query's"
        " state is put"
        " into the other one, which should answer as the old one does (old patched), and into the"
        " same with the new second relation, which should answer the new fact (new patched). If"
        " the first is high and the second low, the second half is what fails.",
        (),
        [
            Shown(
                "transfer_halves",
                show(halves.fillna({"variant": ""}), _HALVES),
                "Mean, lowest and highest of fewer than 8 runs;"
                f" {halves.num_pairs.mean():.0f} triples a run.",
            )
        ],
    )


def caption(data: TransferRuns) -> str:
    """How many seeds and queries a picture rests on."""
    n = data.members.groupby(["group", "checkpoint", "variant"]).size()
    runs = data.results.runs
    queries = ", ".join(f"{NAMES[a]} {span(runs[f'num_{a}'])}" for a in CATEGORIES)
    return f"n = {span(n)} runs a group; queries of a run: {queries}"


def _alt_transfer(table: pd.DataFrame) -> str:
    own = table[table.asked.isin(CATEGORIES) & ((table.checkpoint == END) | (table.group == EARLY))]
    parts = zip(own.group, own.asked, own.accuracy, strict=True)
    told = ", ".join(f"{group} {asked.replace('_', ' ')} {a:.2f}" for group, asked, a in parts)
    return f"Curves per group and category against finetuning step; final accuracies: {told}"


def _alt_worth(table: pd.DataFrame) -> str:
    if table.accuracy.isna().all():
        return "Accuracy against pretraining and finetuning FLOPs"
    best = table.loc[table.accuracy.idxmax()]
    return (
        "Accuracy against pretraining and finetuning FLOPs; the highest:"
        f" {best.group} from {best.checkpoint}, {best.asked.replace('_', ' ')}, {best.accuracy:.2f}"
    )
