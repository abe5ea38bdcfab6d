"""Some questions by name: what a model says, and where it names the bridge."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from grokjax.analysis.questions import questions_table
from grokjax.analysis.store import Analysis
from grokjax.report.html import Page, Section, Shown
from grokjax.results import Results

_MOST_GROUPS = 6


def with_questions(page: Page, results: Results, analysis: Analysis, groups: Sequence[str]) -> Page:
    """An analysis' page with unseen queries of the first run of each group.

    Runs those models once more: for who analyses, not for who reads what was stored.
    """
    table = _table(results, analysis, groups)
    if not len(table):
        return page
    task = results.task
    text = f"{task.unseen[0].upper()}{task.unseen[1:]} by name: what the model says"
    hidden = " and the ".join(h.name for h in task.hidden)
    text += f", and where the lens names the {hidden} first." if hidden else "."
    shown = Shown("questions", table, "The first run of each group.")
    section = Section("Some questions", text, (), [shown])
    tables = dict(page.tables) | {"questions": table}
    return page._replace(sections=[*page.sections, section], tables=tables)


def _table(results: Results, analysis: Analysis, groups: Sequence[str]) -> pd.DataFrame:
    runs = analysis.lens.run.to_numpy().tolist()
    step = int(analysis.lens.step[-1])
    first = dict(zip(groups[::-1], runs[::-1], strict=True))
    tables = []
    for group, run in sorted(first.items(), key=lambda item: item[1])[:_MOST_GROUPS]:
        weights = results.weights(run, step)
        table = questions_table(results.model, weights, results.dataset(run))
        if len(table):
            table.insert(0, "group", group)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
