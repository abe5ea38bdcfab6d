"""The report of an analysis: what the lens reads, what patches carry, when, and on whose path."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from grokjax.analysis import onset, tables
from grokjax.analysis.analyze import AnalysisConfig, analyze
from grokjax.analysis.path_identity import MARGIN, path_identity, permuted_distances
from grokjax.analysis.questions import questions_table
from grokjax.analysis.store import Analysis, analysis_folder
from grokjax.base.errors import UserError
from grokjax.base.names import (
    EVENT_AT,
    GROKKED,
    TEST_INFERRED_IID,
    TEST_INFERRED_OOD,
    TRAIN_INFERRED,
)
from grokjax.report import analysis_figures
from grokjax.report.html import Column, Illustration, Page, Section, interval, number, show
from grokjax.report.path_identity_figure import path_identity_figure
from grokjax.results import Results
from grokjax.sweeps.results import load

_PATHS = {
    "effects on ID queries": lambda a: tables.effect_maps(a.patching, "id")[0],
    "effects on OOD queries": lambda a: tables.effect_maps(a.patching, "ood")[0],
    "bridge by site, ID": lambda a: tables.bridge_profiles(a.lens, TRAIN_INFERRED),
}
_IDENTITY: dict[str, Column] = {
    "paths": "paths",
    "a": "group_a",
    "b": "group_b",
    "seeds of a": "n_a",
    "seeds of b": "n_b",
    "distance": interval("distance", "distance_low", "distance_high"),
    "floor": number("floor"),
    "p": number("p_value", ".3f"),
    "verdict": "verdict",
}


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


def group_runs(results: Results, analysis: Analysis, by: str) -> list[str]:
    """A label per analysed run.

    Args:
      results: of the workdir.
      analysis: of it.
      by: a column of runs.csv, or "grokked": whether OOD answers reach `EVENT_AT` at the last step.

    Raises:
      UserError: there is no such column.
    """
    check_group_by(results, by)
    run_ids = analysis.lens.run.to_numpy()
    if by == GROKKED:
        accuracy = analysis.last().lens.answer_accuracy.sel(type=TEST_INFERRED_OOD).isel(step=0)
        named = {True: "grokked", False: "not grokked"}
        return ["unknown" if np.isnan(x) else named[x >= EVENT_AT] for x in accuracy.to_numpy()]
    values = results.runs.set_index("run_id", drop=False)[by]
    return [str(values[run]) for run in run_ids]


def check_group_by(results: Results, by: str) -> None:
    """Refuses what runs cannot be grouped by, before anything is measured."""
    if by != GROKKED and by not in results.runs:
        known = ", ".join([GROKKED, *results.runs.columns])
        raise UserError(f"--group-by={by}: no such column; choose of {known}")


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
    made = page(results, analysis, groups, margin)
    path = made.save(folder)
    lines = [f"Path identity by {group_by} at step {int(analysis.lens.step[-1]):,}:"]
    lines += [f"  {_sentence(two)}" for two in made.tables["path_identity"].itertuples()]
    if not len(made.tables["path_identity"]):
        lines.append(f"  only one group, {groups[0]}: nothing to compare")
    drawn = [shown.name for section in made.sections for shown in section.pictures]
    lines += [f"figure: {folder / 'figures' / name}.png" for name in drawn]
    return "\n".join([*lines, f"report: {path}", f"tables: {folder}"])


def _sentence(two) -> str:
    start = f"{two.paths}, {two.group_a} (n = {two.n_a}) and {two.group_b} (n = {two.n_b}): "
    if np.isnan(two.distance):
        return start + "too few runs"
    return start + (
        f"distance {two.distance:.2f} [{two.distance_low:.2f}, {two.distance_high:.2f}] of the"
        f" path's size, seeds differ by {two.floor:.2f}, p = {two.p_value:.2f}: {two.verdict}"
        f" (margin {two.margin:g})"
    )


def page(results: Results, analysis: Analysis, groups: Sequence[str], margin: float) -> Page:
    """Everything that a report says of an analysis, its runs grouped by these labels.

    Lens, patching and attribution at the last step; what comes when, where there are several.
    """
    made = _tables(analysis, groups)
    sections = [_lens(made["lens"]), _patching(made["patching"])]
    if "events" in made:
        sections.append(_onset(made))
    made["questions"] = _questions(results, analysis, groups)
    if len(made["questions"]):
        caption = "Of the first run of each group; a path is read where the lens names the bridge."
        text = (
            "OOD compositions, by name: what the model says, and where it names the bridge first."
        )
        sections.append(Section("Some questions", text, (), [(made["questions"], caption)]))
    identity, section = _identity(analysis, groups, margin)
    title = f"{results.config.name}: what do its networks do inside?"
    lead = (
        f"{analysis.lens.sizes['run']} runs in {len(set(groups))} groups, at step"
        f" {int(analysis.lens.step[-1]):,}; everything by run and site is in the tables beside."
    )
    return Page(title, lead, [*sections, section], made | {"path_identity": identity})


def _tables(analysis: Analysis, groups: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Everything as tidy tables; events only where there are several steps."""
    made = {
        "patching_runs": tables.patching_by_run(analysis.patching),
        "lens_runs": tables.lens_by_run(analysis.lens),
        "patching": tables.patching_by_group(analysis.patching, groups),
        "lens": tables.lens_by_group(analysis.lens, groups),
        "rates": tables.rates_by_group(analysis.lens, groups),
    }
    if analysis.lens.sizes["step"] > 1:
        made |= {
            "causal_steps": onset.causal_steps(analysis.patching),
            "readable_steps": onset.readable_steps(analysis.lens),
            "events": onset.order_of_events(analysis.patching, analysis.lens),
        }
    return made


def _questions(
    results: Results, analysis: Analysis, groups: Sequence[str], most: int = 6
) -> pd.DataFrame:
    """Some OOD compositions of the first run of each group."""
    runs = analysis.lens.run.to_numpy().tolist()
    first = {group: run for group, run in zip(groups[::-1], runs[::-1], strict=True)}
    step = int(analysis.lens.step[-1])
    tables = [
        questions_table(results.model, results.weights(run, step), results.dataset(run)).assign(
            group=group
        )
        for group, run in sorted(first.items(), key=lambda item: item[1])[:most]
    ]
    found = pd.concat(tables, ignore_index=True)
    return found[["group", *found.columns.drop("group")]]


def _lens(table: pd.DataFrame) -> Section:
    last = table[table.step == table.step.max()]
    shown = [
        Illustration(
            f"lens_{kind}",
            analysis_figures.lens_figure(last, kind),
            f"Heat maps of {kind} queries: first choice by stage and position, for each group",
            f"{kind} queries",
        )
        for kind in (TEST_INFERRED_OOD, TEST_INFERRED_IID, TRAIN_INFERRED)
        if (last[last.type == kind].num_seeds > 0).any()
    ]
    text = "What each state would say if it were the last: the bridge, or the target."
    return Section("What the lens reads", text, shown)


def _patching(table: pd.DataFrame) -> Section:
    last = table[table.step == table.step.max()]
    shown = []
    for split in dict.fromkeys(last.dropna(subset=["effect"]).group):
        for direction in dict.fromkeys(last.direction):
            for part in ("patching", "blocks"):
                picture = analysis_figures.patching_figure(
                    last, split, direction, blocks=part == "blocks"
                )
                what = f"{part} of {split.upper()} queries, {direction}"
                alt = f"Heat maps of effects by site and differing token, {what}"
                shown.append(Illustration(f"{part}_{split}_{direction}", picture, alt, what))
    shown.append(
        Illustration(
            "attribution",
            analysis_figures.attribution_figure(last),
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
            analysis_figures.onset_figure(patching, split),
            f"Effects of the strongest sites by training step, {split.upper()} queries",
            f"{split.upper()} queries",
        )
        for split in dict.fromkeys(last.dropna(subset=["effect"]).group)
    ]
    order = analysis_figures.order_figure(made["events"])
    alt = "When the path became readable, when causal, when answers were right, a line per run"
    shown.append(Illustration("order_of_events", order, alt, "Order of events in each run."))
    return Section("What comes when", "At the stored checkpoints that were analysed.", shown)


def _identity(
    analysis: Analysis, groups: Sequence[str], margin: float
) -> tuple[pd.DataFrame, Section]:
    """Path identity of the groups at the last step.

    Nothing to draw where fewer than two groups have two runs.
    """
    last = analysis.last()
    found, nulls = {}, {}
    # Runs of one seed share graph, pairs, initialisation and order, whatever their regime.
    blocks = [str(x) for x in last.lens.seeds.to_numpy()]
    for title, paths_of in _PATHS.items():
        paths = paths_of(last)
        found[title] = path_identity(paths, groups, blocks=blocks, margin=margin)
        nulls[title] = permuted_distances(paths, groups, blocks)
    joined = pd.concat([t.assign(paths=title) for title, t in found.items()], ignore_index=True)
    drawn = {title: t for title, t in found.items() if np.isfinite(t.distance).any()}
    shown = []
    if drawn:
        picture = path_identity_figure(drawn, nulls)
        alt = "Distances between groups' paths, with floors and nulls under permuted labels"
        shown = [Illustration("path_identity", picture, alt, "Distances, floors and nulls.")]
    return joined, Section(
        "Do groups answer along the same path?",
        "Distance between mean paths, against what two seeds of one group differ in.",
        shown,
        [(show(joined, _IDENTITY), f"Equivalent: the upper bound is below {margin:g}.")],
    )
