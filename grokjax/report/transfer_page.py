"""The report of a finetuning: what transfers to new facts, at what cost, and which half fails."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from grokjax.base.names import BRIDGE_SITE_AT, CATEGORIES
from grokjax.report import transfer_figures as pictures
from grokjax.report.html import Section, interval
from grokjax.report.study import origin_of, published_curves
from grokjax.report.style import Picture
from grokjax.report.transfer_tables import (
    EARLY,
    MARGIN,
    Transfers,
    accuracy_table,
    break_even_table,
    equivalence_table,
    time_table,
    worth_table,
)
from grokjax.results import Results
from grokjax.statistics.events import student_interval
from grokjax.transfer.halves import HALVES

_HALF_COLUMNS = (
    "score", "old_effect", "new_effect", "new_less_old", "accuracy", "old_patched", "new_patched",
)  # fmt: skip
Drawn = dict[str, Picture]
Tables = dict[str, pd.DataFrame]


def lead(data: Transfers) -> str:
    """What the page is about."""
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


def sections(data: Transfers) -> tuple[list[Section], Drawn, Tables]:
    """The page's parts, its pictures and its tables by name."""
    tables = {
        "transfer_accuracy": accuracy_table(data),
        "transfer_times": time_table(data),
        "transfer_worth": worth_table(data),
        "transfer_break_even": break_even_table(data),
        "transfer_equivalence": equivalence_table(data),
    }
    drawn = {
        "transfer": pictures.grid_picture(data, _paper_curves(data.results)),
        "transfer_worth": pictures.worth_picture(data),
    }
    origin = origin_of(data.results.workdir, str(data.results.runs.run_hash.iloc[0]))
    facts = f"{pictures.caption(data)}; {origin}"
    parts = [
        Section(
            "What transfers",
            "Finetuned on new facts and some old data, asked for compositions that were never"
            " trained on: of a new fact and then an old one, of an old one and then a new one, of"
            " two new ones. Median over the runs of a group, with their full range; each group from"
            f" the end of its pretraining, {EARLY} from its saturation. EMA weights.",
            [(drawn["transfer"], _alt_grid(tables["transfer_accuracy"]), facts)],
            [
                (
                    _shown_accuracy(tables["transfer_accuracy"]),
                    "Accuracy after finetuning: mean of the runs, 95 % Student-t. id_atomic,"
                    " train_inferred: old facts and compositions; kept_atomic and kept_inferred are"
                    " those in the finetuning data.",
                ),
                (
                    _shown_bridges(tables["transfer_accuracy"]),
                    "Bridge found after finetuning, means of the runs: at any stage and position;"
                    " the same by chance; at the one stage and position where the answer is read.",
                ),
            ],
        ),
        Section(
            "When",
            "Finetuning steps until an accuracy, in three evaluations running.",
            (),
            [
                (
                    _shown_times(tables["transfer_times"]),
                    "Runs that got there, and mean steps, restricted to the finetuning's length,"
                    " with 95 % intervals; runs that ended first are censored.",
                )
            ],
        ),
        Section(
            "Is it worthwhile?",
            "All FLOPs that a run has cost, pretraining and finetuning, against what it answers.",
            [(drawn["transfer_worth"], _alt_worth(tables["transfer_worth"]), facts)],
            [
                (
                    _shown_worth(tables["transfer_worth"]),
                    "Gain: over the earliest checkpoint of the same runs, paired by seed, 95 %"
                    " Student-t.",
                ),
                (
                    _shown_break_even(tables["transfer_break_even"]),
                    "How many finetunings pay for the longer pretraining: extra pretraining FLOPs"
                    " over the FLOPs that each finetuning saves until the accuracy, median of the"
                    " seeds where it saves any.",
                ),
            ],
        ),
        Section(
            "Who transfers as both_hop_full does?",
            "Difference to both_hop_full at its end, paired by seed; equivalent if its 90 %"
            f" interval lies within {MARGIN:g}. Two groups that answer next to nothing are"
            " equivalent as well.",
            (),
            [(_shown_equivalence(tables["transfer_equivalence"]), "Two one-sided tests.")],
        ),
    ]
    halves = read_halves(data)
    if len(halves):
        tables["transfer_halves"] = halves
        parts.append(_halves_section(halves))
    if pictures.has_doses(data):
        drawn["transfer_dose"] = pictures.dose_picture(data)
        alt = "Accuracy of held-out compositions against the share trained on"
        text = "Compositions with new facts in the finetuning data, and the accuracy of the others."
        parts.insert(1, Section("At which dose", text, [(drawn["transfer_dose"], alt, facts)]))
    return parts, drawn, tables


def read_halves(data: Transfers) -> pd.DataFrame:
    """Per group: mean and interval of what `halves.csv` holds; empty without it.

    Over the runs in which some site holds the bridge (num_with_site of num_runs).
    """
    path = data.results.workdir / HALVES
    if not path.exists() or not path.read_text().strip():
        return pd.DataFrame()
    by_run = pd.read_csv(path).set_index("run_id")
    by_run["new_less_old"] = by_run.new_effect - by_run.old_effect
    rows = []
    for cell, own in data.cells():
        these = by_run.loc[[r for r in own.run_id if r in by_run.index]]
        if not len(these):
            continue
        held = these[these.score >= BRIDGE_SITE_AT]
        row: dict[str, Any] = cell | {"num_runs": len(these), "num_with_site": len(held)}
        row["num_pairs"] = held.num_pairs.mean()
        for name in _HALF_COLUMNS:
            mean = student_interval(held[name].dropna().to_numpy())
            row |= {name: mean.mean, f"{name}_low": mean.low, f"{name}_high": mean.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _halves_section(halves: pd.DataFrame) -> Section:
    shown = halves[["group", "checkpoint", "variant"]].fillna("").copy()
    shown["runs with a site"] = [
        f"{held} of {n}" for held, n in zip(halves.num_with_site, halves.num_runs, strict=True)
    ]
    for name in _HALF_COLUMNS:
        columns = halves[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        shown[name.replace("_", " ")] = [interval(x) for x in columns]
    return Section(
        "Which half of the circuit fails (old then new)",
        "One site of each run, chosen on old queries: the one that carries head and relation 1 and"
        f" not relation 2 (score; runs without a site of at least {BRIDGE_SITE_AT:g} are left out)."
        " Its state in a new query is put into an old query with another head: new effect, against"
        " the old effect of an old query's state (1: the whole difference in the answer's logits)."
        " If both agree, the first half works on new queries. Then the old query's state is put"
        " into the other one, which should answer as the old one does (old patched), and into the"
        " same with the new second relation, which should answer the new fact (new patched). If"
        " the first is high and the second low, the second half is what fails.",
        (),
        [
            (
                shown,
                f"Mean and 95 % Student-t interval; {halves.num_pairs.mean():.0f} triples a run.",
            )
        ],
    )


def _paper_curves(results: Results) -> dict[str, Any] | None:
    """The published finetuning curves, where the setting is the paper's."""
    t = results.config.transfer
    theirs = (t.num_new_facts, t.num_kept, t.new_share, t.folder) == (2000, 8000, 0.0, "")
    if results.config.data.folder or not theirs:
        return None
    return published_curves(results.config, "finetune")


def _named(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["group", "checkpoint", "variant", "asked"]
    shown = table[[c for c in columns if c in table]].copy()
    return shown.drop(columns="variant") if not shown.variant.any() else shown


def _wide(table: pd.DataFrame, shown: pd.Series, column: pd.Series) -> pd.DataFrame:
    """A row per group, checkpoint and number of runs; a column for each of `column`."""
    named = _named(table).drop(columns="asked").assign(runs=table.num_runs)
    long = named.assign(column=column, shown=shown)
    wide = long.pivot(index=[*named], columns="column", values="shown")
    order = list(dict.fromkeys(map(tuple, named.to_numpy().tolist())))
    return wide.loc[order, list(dict.fromkeys(column))].reset_index()


def _intervals(table: pd.DataFrame, columns: list[str], form: str = ".2f") -> pd.Series:
    return pd.Series([interval(x, form) for x in table[columns].to_numpy()], table.index)


def _shown_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    return _wide(table, _intervals(table, ["accuracy", "low", "high"]), table.asked)


def _shown_bridges(table: pd.DataFrame) -> pd.DataFrame:
    own = table[table.asked.isin((*CATEGORIES, "train_inferred"))]
    columns = zip(own.bridge_found, own.bridge_chance, own.bridge_found_strict, strict=True)
    shown = pd.Series([f"{a:.2f}, {c:.2f}, {s:.2f}" for a, c, s in columns], own.index)
    return _wide(own, shown, own.asked)


def _shown_times(table: pd.DataFrame) -> pd.DataFrame:
    steps = _intervals(table, ["mean_steps", "low", "high"], ",.0f")
    counts = table.reached.astype(str) + " of " + table.num_runs.astype(str) + ": "
    return _wide(table, counts + steps, table.asked + table.level.map(" at {:g}".format))


def _shown_worth(table: pd.DataFrame) -> pd.DataFrame:
    shown = _named(table)
    shown["pretraining"] = [f"{x:.2e}" for x in table.pretraining_flops]
    shown["finetuning"] = [f"{x:.2e}" for x in table.finetuning_flops]
    shown["accuracy"] = [interval(x) for x in table[["accuracy", "low", "high"]].to_numpy()]
    shown["gain"] = [interval(x) for x in table[["gain", "gain_low", "gain_high"]].to_numpy()]
    shown["pairs"] = table.num_pairs
    return shown


def _shown_break_even(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table):
        return table
    shown = table.drop(columns=["break_even", *([] if table.variant.any() else ["variant"])])
    shown["level"] = [f"{x:g}" for x in table.level]
    shown["break even"] = ["-" if math.isnan(x) else f"{x:,.1f}" for x in table.break_even]
    return shown.rename(columns=lambda name: name.replace("_", " "))


def _shown_equivalence(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table):
        return table
    shown = _named(table)
    shown["accuracy"] = [_number(x) for x in table.accuracy]
    shown["pairs"] = table.num_pairs
    shown["difference"] = [interval(x) for x in table[["difference", "low", "high"]].to_numpy()]
    shown["p"] = [_number(x, ".3f") for x in table.p]
    shown["equivalent"] = table.equivalent.map({True: "yes", False: "no"})
    return shown


def _number(x: float, form: str = ".2f") -> str:
    return "-" if math.isnan(x) else f"{x:{form}}"


def _alt_grid(table: pd.DataFrame) -> str:
    own = table[
        table.asked.isin(CATEGORIES) & ((table.checkpoint == "end") | (table.group == EARLY))
    ]
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
