"""Some questions by name: what a model says, and where it names the bridge."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pandas as pd

from grokjax.analysis.questions import questions_table
from grokjax.analysis.store import Analysis
from grokjax.base.errors import UserError
from grokjax.data.task import Task
from grokjax.report.html import Page, Section, Shown
from grokjax.results import Results

QUESTIONS = "questions"  # the table's name
_MOST_GROUPS = 6


def with_questions(page: Page, results: Results, analysis: Analysis, groups: Sequence[str]) -> Page:
    """An analysis' page with unseen queries of the first run of each group.

    Runs those models once more: for who analyses, not for who reads what was stored.
    """
    table = _table(results, analysis, groups)
    if not len(table):
        return page
    section = questions_section(results.task, table)
    tables = dict(page.tables) | {QUESTIONS: table}
    return page._replace(sections=[*page.sections, section], tables=tables)


def questions_section(task: Task, table: pd.DataFrame) -> Section:
    """What a page shows of them."""
    text = f"{task.unseen[0].upper()}{task.unseen[1:]} by name: what the model says"
    hidden = " and the ".join(h.name for h in task.hidden)
    text += f", and where the lens names the {hidden} first." if hidden else "."
    shown = Shown(QUESTIONS, table, "The first run of each group.")
    return Section("Some questions", text, (), [shown])


def stored_questions(folder: pathlib.Path) -> pd.DataFrame:
    """The table that an analysis has left in its folder; empty where it has not.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / f"{QUESTIONS}.csv"
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); analyse again") from None


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
