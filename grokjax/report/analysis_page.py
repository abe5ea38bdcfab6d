"""The report of an analysis: what the lens reads, what patches carry, when, and on whose path."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from grokjax.analysis.analyze import AnalysisConfig, analyze, check_run_ids, nothing_to_analyze
from grokjax.analysis.path_identity import MARGIN
from grokjax.analysis.store import Analysis, analysis_folder
from grokjax.base.errors import UserError
from grokjax.report.analysed_groups import check_group_by, group_runs
from grokjax.report.html import Page
from grokjax.report.inside_sections import inside
from grokjax.report.path_identity_section import Analysed, PathsCompared, compare
from grokjax.report.questions_section import with_questions
from grokjax.report.stored_analyses import across_populations
from grokjax.results import Results
from grokjax.settings.rows import flat_runs
from grokjax.sweeps.plan import read_plan
from grokjax.sweeps.results import load


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
    """`grokjax analyze`: of a sweep population by population, then all that can be compared.

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
        if len(asked) > 1 and (why := nothing_to_analyze(results, run_ids)):  # others may have
            print(f"not analysed: {why}")
            continue
        of = results.checkpoint_steps() if steps == "all" else steps
        measured = analyze(results.workdir, runs=run_ids, steps=of, config=config, out=folder)
        to = analysis_folder(results, folder)
        print(write_analysis(results, measured, to, group_by=group_by, margin=margin))
    if len(populations) > 1:
        for compared in across_populations(found, margin, out):
            print("\n".join(["\nacross populations:", *(f"  {line}" for line in compared.lines)]))


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
    compared = _compared(results, analysis, groups, margin)
    made = page(results, analysis, groups, compared)
    path = with_questions(made, results, analysis, groups).save(folder)
    lines = [f"Path identity by {group_by} at step {int(analysis.lens.step[-1]):,}:"]
    lines += [f"  {line}" for line in compared.lines]
    if not compared.lines:
        lines.append(f"  only one group, {groups[0]}: nothing to compare")
    drawn = [shown.name for section in made.sections for shown in section.pictures]
    lines += [f"figure: {folder / 'figures' / name}.png" for name in drawn]
    return "\n".join([*lines, f"report: {path}", f"tables: {folder}"])


def _compared(
    results: Results, analysis: Analysis, groups: Sequence[str], margin: float
) -> PathsCompared:
    """Path identity of one analysis, and which regimes of the same sweep are not in it."""
    runs = analysis.lens.run.to_numpy().tolist()
    note = ""
    if elsewhere := _regimes_elsewhere(results, set(groups)):
        note = (
            f"Of other populations, and not here: {', '.join(elsewhere)}; the sweep's report"
            " compares with them where they have been analysed."
        )
    return compare([Analysed("", analysis, groups, runs, results.task)], margin, note=note)


def page(
    results: Results, analysis: Analysis, groups: Sequence[str], compared: PathsCompared
) -> Page:
    """Everything that a report says of an analysis, its runs grouped by these labels.

    Lens, patching and attribution at the last step; what comes when, where there are several.
    """
    seen = inside(analysis, groups, results.task)
    title = f"{results.config.name}: what do its networks do inside?"
    lead = (
        f"{analysis.lens.sizes['run']} runs in {len(set(groups))} groups, at step"
        f" {int(analysis.lens.step[-1]):,}; everything by run and site is in the tables beside."
    )
    said = [*compared.findings, *seen.findings]
    made = {**seen.tables, **compared.tables}
    return Page(title, said, lead, [compared.section, *seen.sections], made)


def _regimes_elsewhere(results: Results, known: set[str]) -> list[str]:
    """Regimes of the same sweep that other populations have: an analysis is of one."""
    try:
        plan = read_plan(results.workdir.parent.parent)
    except UserError:
        return []
    names = [run["data.regime"] for p in plan.populations for run in flat_runs(p.config)]
    return [name for name in dict.fromkeys(names) if name not in known]
