"""The report of an analysis: what the lens reads, what patches carry, when, and on whose path."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from grokjax.analysis import onset, tables
from grokjax.analysis.analyze import AnalysisConfig, analyze, check_run_ids
from grokjax.analysis.pairs import SPLITS
from grokjax.analysis.path_identity import (
    LENS,
    MARGIN,
    PATCHING,
    Identity,
    Paths,
    compare_paths,
)
from grokjax.analysis.store import Analysis, analysis_folder, load_analysis, read_settings
from grokjax.base.errors import UserError
from grokjax.data.task import Task
from grokjax.report import analysis_figures
from grokjax.report.analysed_groups import check_group_by, group_runs
from grokjax.report.html import (
    Column,
    Finding,
    Illustration,
    Page,
    Section,
    Shown,
    around,
    count_of,
    number,
    show,
)
from grokjax.report.path_identity_figure import path_identity_figure
from grokjax.report.questions_section import (
    QUESTIONS,
    questions_section,
    stored_questions,
    with_questions,
)
from grokjax.results import Results, StoredRuns
from grokjax.settings.rows import expand
from grokjax.sweeps.plan import read_plan
from grokjax.sweeps.results import load

_IDENTITY: dict[str, Column] = {
    "paths": "paths",
    "reading": "reading",
    "a": "group_a",
    "b": "group_b",
    "pairs within": count_of("within", "num_pairs"),
    "share": around("share"),
    "distance, least": number("distance_min"),
    "median": number("distance_median"),
    "most": number("distance_max"),
    "floor": number("floor_median"),
    "p": number("p_value", ".2g"),
    "smallest p": number("p_smallest", ".2g"),
    "verdict": "verdict",
    "the other reading's": "other_verdict",
    "beyond": "outside",
    "dropped": "dropped",
}
_KEPT = ("path_identity", "path_pairs", "patching", "lens", "rates")  # beside a training's report


class StoredAnalyses(NamedTuple):
    """What a training's page says of the analyses that its populations hold."""

    findings: Sequence[Finding] = ()
    sections: Sequence[Section] = ()
    tables: Mapping[str, pd.DataFrame] = {}


def stored_analyses(found: StoredRuns) -> StoredAnalyses:
    """Lens, patching and path identity by regime, of each population that was analysed.

    Raises:
      UserError: a stored analysis is damaged.
    """
    analysed = {
        name: results
        for name, results in found.populations().items()
        if read_settings(analysis_folder(results)) is not None
    }
    findings: list[Finding] = []
    sections: list[Section] = []
    tables: dict[str, pd.DataFrame] = {}
    for name, results in analysed.items():
        analysis = load_analysis(results)
        where = f" (population {name})" if len(analysed) > 1 else ""
        made = page(results, analysis, group_runs(results, analysis, "regime"), MARGIN)
        suffix = f"_{name}" if where else ""
        findings += [Finding(text + where, table + suffix) for text, table in made.findings]
        sections += [_renamed(section, where, suffix) for section in made.sections]
        tables |= {name + suffix: made.tables[name] for name in _KEPT}
        asked = stored_questions(analysis_folder(results))
        if len(asked):
            sections.append(_renamed(questions_section(results.task, asked), where, suffix))
            tables[QUESTIONS + suffix] = asked
    return StoredAnalyses(findings, sections, tables)


def _renamed(section: Section, where: str, suffix: str) -> Section:
    return Section(
        section.title + where,
        section.text,
        [shown._replace(name=shown.name + suffix) for shown in section.pictures],
        [shown._replace(name=shown.name + suffix) for shown in section.tables],
    )


def analyze_and_report(
    workdir: str | os.PathLike,
    *,
    runs: Sequence[int] | None,
    steps: Sequence[int] | Literal["all"] | None,
    config: AnalysisConfig,
    out: str | os.PathLike | None,
    group_by: str,
    margin: float,
) -> None:
    """`grokjax analyze`: of a sweep population by population, which share no states to compare.

    Args:
      workdir: of a population or of a sweep.
      runs: ids, of the sweep if it is one.
      steps: of checkpoints, the last by default; or all.
      config: what to measure.
      out: folder; of a sweep it gets a folder for each population.
      group_by, margin: as in `write_analysis`.

    Raises:
      UserError: bad input.
    """
    check_margin(margin)
    found = load(workdir)
    populations = found.populations()
    for results in populations.values():
        check_group_by(results, group_by)
    asked: dict[str, list[int] | None] = dict.fromkeys(populations)
    if runs is not None:
        by_folder = {results.workdir: name for name, results in populations.items()}
        own: dict[str, list[int]] = {}
        check_run_ids(found, runs)
        for run_id in runs:
            results, own_id = found.locate(run_id)
            own.setdefault(by_folder[results.workdir], []).append(own_id)
        asked = dict(own)
    if not asked:
        raise UserError(f"{found.workdir}: nothing has been trained yet")
    for name, run_ids in asked.items():
        results = populations[name]
        folder = pathlib.Path(out) / name if out is not None and name else out
        if name:
            print(f"\npopulation {name}:", flush=True)
        of = results.checkpoint_steps() if steps == "all" else steps
        measured = analyze(results.workdir, runs=run_ids, steps=of, config=config, out=folder)
        to = analysis_folder(results, folder)
        print(write_analysis(results, measured, to, group_by=group_by, margin=margin))


def check_margin(margin: float) -> None:
    """Refuses what no distance can be compared with."""
    if not 0 < margin < np.inf:
        raise UserError(f"--margin={margin}: give a number above 0, a share of a path's size")


def write_analysis(
    results: Results,
    analysis: Analysis,
    folder: pathlib.Path,
    *,
    group_by: str = "regime",
    margin: float = MARGIN,
) -> str:
    """Writes every table and picture of an analysis, and says in a few lines what was found."""
    check_margin(margin)
    groups = group_runs(results, analysis, group_by)
    made = with_questions(page(results, analysis, groups, margin), results, analysis, groups)
    path = made.save(folder)
    lines = [f"Path identity by {group_by} at step {int(analysis.lens.step[-1]):,}:"]
    lines += [f"  {_sentence(two)}" for two in made.tables["path_identity"].itertuples()]
    if not len(made.tables["path_identity"]):
        lines.append(f"  only one group, {groups[0]}: nothing to compare")
    drawn = [shown.name for section in made.sections for shown in section.pictures]
    lines += [f"figure: {folder / 'figures' / name}.png" for name in drawn]
    return "\n".join([*lines, f"report: {path}", f"tables: {folder}"])


def _sentence(two: Any) -> str:
    """One line of a comparison: the verdict, and what it rests on."""
    start = f"{two.paths}, {two.group_a} (n = {two.n_a}) and {two.group_b} (n = {two.n_b}): "
    if not two.num_pairs:
        return start + two.verdict + (f" ({two.dropped})" if two.dropped else "")
    other = f", by the other reading {two.other_verdict}" if two.other_verdict else ""
    return start + (
        f"{two.verdict}, {two.within} of {two.num_pairs} pairs of runs within {two.margin:g} of a"
        f" path's size (median {two.distance_median:.2f}, two seeds of a group"
        f" {two.floor_median:.2f}){other}" + (f"; dropped: {two.dropped}" if two.dropped else "")
    )


def _findings(table: pd.DataFrame) -> list[Finding]:
    """A sentence for each two groups, both readings in it."""
    found = []
    for (a, b), own in table.groupby(["group_a", "group_b"], sort=False):
        parts = [
            f"{two.paths} {two.verdict} ({two.within} of {two.num_pairs} pairs)"
            for two in own.itertuples()
        ]
        found.append(Finding(f"Same path, {a} and {b}? {'; '.join(parts)}.", "path_identity"))
    nothing = "Same path? One group was analysed: there is nothing to compare."
    return found or [Finding(nothing, "path_identity")]


def page(results: Results, analysis: Analysis, groups: Sequence[str], margin: float) -> Page:
    """Everything that a report says of an analysis, its runs grouped by these labels.

    Lens, patching and attribution at the last step; what comes when, where there are several.
    """
    task = results.task
    made = _tables(analysis, groups, task)
    sections = [_lens(made["lens"], task), _patching(made["patching"])]
    if "events" in made:
        sections.append(_onset(made))
    found, section = _identity(results, analysis, groups, margin)
    title = f"{results.config.name}: what do its networks do inside?"
    lead = (
        f"{analysis.lens.sizes['run']} runs in {len(set(groups))} groups, at step"
        f" {int(analysis.lens.step[-1]):,}; everything by run and site is in the tables beside."
    )
    made |= {"path_identity": found.table, "path_pairs": found.pairs}
    said = _findings(found.table)
    return Page(title, said, lead, [section, *sections], made)


def _paths(task: Task, last: Analysis) -> dict[str, Paths]:
    """How paths are read, a row per run: by patching, and where something is hidden by the lens."""
    found = {
        f"effects on {split.upper()} queries": Paths(
            PATCHING, tables.effect_maps(last.patching, split)[0]
        )
        for split in SPLITS
    }
    kinds = (task.site_types[0], task.generalisation) if task.site_types else ()
    for split, kind in zip(SPLITS, kinds, strict=False):
        found[f"{task.path} by site, {split.upper()}"] = Paths(
            LENS, tables.hidden_profiles(last.lens, kind, task)
        )
    return found


def _tables(analysis: Analysis, groups: Sequence[str], task: Task) -> dict[str, pd.DataFrame]:
    """Everything as tidy tables; events only where there are several steps."""
    made = {
        "patching_runs": tables.patching_by_run(analysis.patching),
        "lens_runs": tables.lens_by_run(analysis.lens),
        "patching": tables.patching_by_group(analysis.patching, groups),
        "lens": tables.lens_by_group(analysis.lens, groups, task),
        "rates": tables.rates_by_group(analysis.lens, groups, task),
    }
    if analysis.lens.sizes["step"] > 1:
        made |= {
            "causal_steps": onset.causal_steps(analysis.patching),
            "events": onset.order_of_events(analysis.patching, analysis.lens, task),
        }
    if analysis.lens.sizes["step"] > 1 and task.hidden:
        made["readable_steps"] = onset.readable_steps(analysis.lens, task=task)
    return made


def _lens(table: pd.DataFrame, task: Task) -> Section:
    last = table[table.step == table.step.max()]
    shown = [
        Illustration(
            f"lens_{kind}",
            functools.partial(analysis_figures.lens_figure, last, kind),
            f"Heat maps of {kind} queries: first choice by stage and position, for each group",
            f"{kind} queries",
        )
        for kind in (task.generalisation, task.held_out, *task.trained[::-1])
        if (last[last.type == kind].num_seeds > 0).any()
    ]
    wanted = ", or ".join(f"the {name}" for name in (*(h.name for h in task.hidden), "target"))
    text = f"What each state would say if it were the last: {wanted}."
    return Section("What the lens reads", text, shown)


def _patching(table: pd.DataFrame) -> Section:
    last = table[table.step == table.step.max()]
    shown = []
    for split in dict.fromkeys(last.dropna(subset=["effect"]).group):
        for direction in dict.fromkeys(last.direction):
            for part in ("patching", "blocks"):
                picture = functools.partial(
                    analysis_figures.patching_figure,
                    *(last, split, direction),
                    blocks=part == "blocks",
                )
                what = f"{part} of {split.upper()} queries, {direction}"
                alt = f"Heat maps of effects by site and differing token, {what}"
                shown.append(Illustration(f"{part}_{split}_{direction}", picture, alt, what))
    shown.append(
        Illustration(
            "attribution",
            functools.partial(analysis_figures.attribution_figure, last),
            "Effects that one gradient estimates against exact ones, by split and direction",
            "How good the estimate from one gradient is.",
        )
    )
    text = "The share of the answer that a single state carries from one run into another."
    return Section("What patches carry", text, shown)


def _onset(made: dict[str, pd.DataFrame]) -> Section:
    patching = made["patching"]
    last = patching[patching.step == patching.step.max()]
    shown = [
        Illustration(
            f"movie_{split}",
            functools.partial(analysis_figures.onset_figure, patching, split),
            f"Effects of the strongest sites by training step, {split.upper()} queries",
            f"{split.upper()} queries",
        )
        for split in dict.fromkeys(last.dropna(subset=["effect"]).group)
    ]
    order = functools.partial(analysis_figures.order_figure, made["events"])
    alt = "When the path became readable, when causal, when answers were right, a line per run"
    shown.append(Illustration("order_of_events", order, alt, "Order of events in each run."))
    return Section("What comes when", "At the stored checkpoints that were analysed.", shown)


def _identity(
    results: Results, analysis: Analysis, groups: Sequence[str], margin: float
) -> tuple[Identity, Section]:
    """Path identity of the groups at the last step, and what the page shows of it.

    Nothing to draw where no two groups have a pair of runs.
    """
    last = analysis.last()
    # Runs of one seed share graph, pairs, initialisation and order, whatever their regime.
    blocks = [str(x) for x in last.lens.seeds.to_numpy()]
    kinds = _paths(results.task, last)
    runs = last.lens.run.to_numpy().tolist()
    found = compare_paths(kinds, groups, runs=runs, blocks=blocks, margin=margin)
    shown = []
    if len(found.pairs):
        told = "; ".join(_sentence(two) for two in found.table.itertuples() if two.num_pairs)
        draw = functools.partial(path_identity_figure, found.table, found.pairs)
        shown = [Illustration("path_identity", draw, f"Distances of pairs of runs: {told}", "")]
    text = (
        "Distances between single runs of one seed, against what two seeds of one group differ in:"
        " a minority that goes another way shows."
    )
    if left_out := _regimes_elsewhere(results, set(groups)):
        text += f" Not compared, being of other populations: {', '.join(left_out)}."
    about = (
        f"Within: pairs nearer than {margin:g} of the path's size, with a 95 % Wilson interval."
        " Floor: two seeds of one group, median. Smallest p: that these pairs could have given."
    )
    return found, Section(
        "Do groups answer along the same path?",
        text,
        shown,
        [Shown("path_identity", show(found.table, _IDENTITY), about)],
    )


def _regimes_elsewhere(results: Results, known: set[str]) -> list[str]:
    """Regimes of the same sweep that other populations have: an analysis is of one."""
    try:
        plan = read_plan(results.workdir.parent.parent)
    except UserError:
        return []
    names = [run.data.regime for p in plan.populations for run in expand(p.config)]
    return [name for name in dict.fromkeys(names) if name not in known]
