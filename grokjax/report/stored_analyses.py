"""What a training's page says of the analyses that its populations hold."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from grokjax.analysis.path_identity import MARGIN
from grokjax.analysis.store import Analysis, analysis_folder, load_analysis, read_settings
from grokjax.report.analysed_groups import group_runs
from grokjax.report.html import Finding, Section
from grokjax.report.inside_sections import inside
from grokjax.report.path_identity_section import Analysed, PathsCompared, comparable, compare
from grokjax.report.questions_section import QUESTIONS, questions_section, stored_questions
from grokjax.report.training_runs import group_labels
from grokjax.results import Results, StoredRuns

_KEPT = ("hidden_sites", "patching", "lens", "rates")  # tables beside a training's report


class StoredAnalyses(NamedTuple):
    """Sentences, sections and tables of a page."""

    findings: Sequence[Finding] = ()
    sections: Sequence[Section] = ()
    tables: Mapping[str, pd.DataFrame] = {}


def stored_analyses(found: StoredRuns) -> StoredAnalyses:
    """Path identity of all runs that were analysed; lens and patching by regime and population.

    Raises:
      UserError: a stored analysis is damaged.
    """
    findings: list[Finding] = []
    sections: list[Section] = []
    tables: dict[str, pd.DataFrame] = {}
    loaded = _load_all(found)
    for compared in _across(found, loaded, MARGIN):
        findings += compared.findings
        sections.append(compared.section)
        tables |= compared.tables
    several = len(loaded) > 1
    for name, results, analysis in loaded:
        where, suffix = (f" (population {name})", f"_{name}") if several else ("", "")
        own = inside(analysis, group_runs(results, analysis, "regime"), results.task)
        findings += [Finding(text + where, table + suffix) for text, table in own.findings]
        sections += [_renamed(section, where, suffix) for section in own.sections]
        tables |= {kept + suffix: own.tables[kept] for kept in _KEPT if kept in own.tables}
        if len(asked := stored_questions(analysis_folder(results))):
            sections.append(_renamed(questions_section(results.task, asked), where, suffix))
            tables[QUESTIONS + suffix] = asked
    return StoredAnalyses(findings, sections, tables)


def across_populations(
    found: StoredRuns, margin: float, out: str | os.PathLike | None = None
) -> list[PathsCompared]:
    """Path identity over the populations that were analysed, of those that can be compared.

    Groups are those of the training's page: runs that differ in nothing but their seeds.

    Args:
      found: a workdir's results.
      margin: of a pair of runs, a share of a path's size.
      out: folder of the analyses, the workdirs' own by default.

    Raises:
      UserError: a stored analysis is damaged.
    """
    return _across(found, _load_all(found, out), margin)


def _across(
    found: StoredRuns, loaded: Sequence[tuple[str, Results, Analysis]], margin: float
) -> list[PathsCompared]:
    label = dict(zip(found.runs.run_id, group_labels(found.runs), strict=True))
    names = _names(found)
    analysed = []
    for name, results, analysis in loaded:
        runs = [names[name, own] for own in analysis.lens.run.to_numpy().tolist()]
        groups = [label[run] for run in runs]
        analysed.append(Analysed(name, analysis, groups, runs, results.task))
    together = comparable(analysed)
    known = {group for each in analysed for group in each.groups}
    missing = [group for group in dict.fromkeys(label.values()) if group not in known]
    made = []
    for own in together:
        note = ""
        if missing:
            note += f"Not analysed, and not compared: {_shortened(missing)}. "
        if others := [x.population for each in together if each is not own for x in each]:
            note += (
                f"Population {', '.join(others)} has other stages, or was analysed with other"
                " settings: its paths cannot be compared with these."
            )
        suffix = f"_{own[0].population}" if len(together) > 1 else ""
        made.append(compare(own, margin, note=note.strip(), suffix=suffix))
    return made


def _load_all(
    found: StoredRuns, out: str | os.PathLike | None = None
) -> list[tuple[str, Results, Analysis]]:
    """The populations that were analysed, by name."""
    loaded = []
    for name, results in found.populations().items():
        folder = None if out is None else pathlib.Path(out) / name
        if read_settings(analysis_folder(results, folder)) is not None:
            loaded.append((name, results, load_analysis(results, folder)))
    return loaded


def _names(found: StoredRuns) -> dict[tuple[str, int], int]:
    """The run's id in the table of all runs, by population and id there."""
    runs = found.runs
    if "population" not in runs:
        return {("", run_id): run_id for run_id in runs.run_id.tolist()}
    places = zip(runs.population.astype(str), runs.population_run_id, strict=True)
    return dict(zip(places, runs.run_id.tolist(), strict=True))


def _shortened(names: Sequence[str], most: int = 6) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def _renamed(section: Section, where: str, suffix: str) -> Section:
    return Section(
        section.title + where,
        section.text,
        [shown._replace(name=shown.name + suffix) for shown in section.pictures],
        [shown._replace(name=shown.name + suffix) for shown in section.tables],
    )
