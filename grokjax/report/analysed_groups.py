"""Into which groups the runs of an analysis fall."""

from __future__ import annotations

from grokjax.analysis.store import Analysis
from grokjax.base.errors import UserError
from grokjax.base.names import ANSWER, EVENT_AT, GROKKED, OBSERVED
from grokjax.report.wording import in_words, value_in_words
from grokjax.results import Results
from grokjax.settings.declarations import SETTINGS
from grokjax.statistics.events import event_table


def group_runs(results: Results, analysis: Analysis, by: str) -> list[str]:
    """A label per analysed run.

    Args:
      results: of the workdir.
      analysis: of it.
      by: a column of runs.csv, or "grokked": whether a run has answered unseen queries at
        `EVENT_AT`, as `event_table` has it, by the last step that is analysed.

    Raises:
      UserError: there is no such column.
    """
    check_group_by(results, by)
    run_ids = analysis.lens.run.to_numpy()
    if by == GROKKED:
        events = event_table(results.runs, results.curves, (EVENT_AT,), task=results.task)
        answers = events[(events.event == ANSWER) & (events.status == OBSERVED)]
        grokked = set(answers.run_id[answers.step <= int(analysis.lens.step[-1])])
        last = analysis.last().lens.answer_accuracy.isel(step=0)
        known = set(last.run[last.notnull().any("type")].values.tolist())
        named = {True: "grokked", False: "not grokked"}
        return [named[run in grokked] if run in known else "unknown" for run in run_ids.tolist()]
    values = results.runs.set_index("run_id", drop=False)[by]
    setting = f"{in_words(by)} " if by in SETTINGS else ""
    return [f"{setting}{value_in_words(values[run])}" for run in run_ids]


def check_group_by(results: Results, by: str) -> None:
    """Refuses what runs cannot be grouped by, before anything is measured."""
    if by != GROKKED and by not in results.runs:
        known = ", ".join([GROKKED, *results.runs.columns])
        raise UserError(f"--group-by={by}: no such column; choose of {known}")
