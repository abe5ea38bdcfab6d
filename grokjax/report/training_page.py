"""The report of a training: what came when, at what cost, with what certainty."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokjax.base.names import (
    ANSWER,
    BEST,
    CONSECUTIVE,
    EVENT_AT,
    MEMORISED,
    ORDER_LEVELS,
    PATH,
)
from grokjax.report import training_columns as columns
from grokjax.report import training_comparisons, training_tables
from grokjax.report.cost_figure import cost_figure, timed
from grokjax.report.curves_figure import curves_figure
from grokjax.report.findings import Tables, findings
from grokjax.report.html import (
    Illustration,
    Page,
    Section,
    Shown,
    show,
)
from grokjax.report.lag_figure import lag_figure
from grokjax.report.own_metrics import metrics_section, metrics_table
from grokjax.report.published import published_pretraining
from grokjax.report.stored_analyses import StoredAnalyses
from grokjax.report.style import span
from grokjax.report.survival_figure import survival_figure
from grokjax.report.swept_figure import map_figure, strip_figure, swept_numbers
from grokjax.report.training_runs import MOST_GROUPS, TrainingRuns


def page(data: TrainingRuns, analyses: StoredAnalyses | None = None) -> Page:
    """Everything that a report says of a training, and of what was analysed of it."""
    tables = {
        "outcomes": data.outcomes,
        "times": training_tables.times_table(data),
        "order": training_tables.order_shares(data),
        "costs": training_comparisons.cost_table(data),
        "comparisons": training_comparisons.comparison_table(data),
        "variance": training_tables.seed_variance(data),
        "machine": data.machine,
        "own_metrics": metrics_table(data),
    }
    analyses = analyses or StoredAnalyses()
    title = f"{data.name}: is grokking worth its compute?"
    said = [*findings(data, tables), *analyses.findings]
    sections = [*_sections(data, tables), *analyses.sections, *_machine(tables)]
    return Page(title, said, _lead(data), sections, dict(tables) | dict(analyses.tables))


def _lead(data: TrainingRuns) -> str:
    by_state = data.runs.status.value_counts()
    states = ", ".join(f"{n} {state}" for state, n in by_state.items())
    unseen = ", ".join(filter(None, [data.task.unseen, data.task.about_unseen]))
    return (
        f"{len(data.runs)} runs in {len(data.groups)} groups, up to step {data.step:,} ({states})."
        f" Accuracy is of {unseen}.{_told_path(data)}"
        f" Each event is there at a level in {CONSECUTIVE} evaluations running. Times are"
        " censored where a training ended first, and a diverged run is a competing end, not a slow"
        " one."
    )


def _told_path(data: TrainingRuns) -> str:
    task, where = data.task, data.config.evaluate.path_position
    if not task.hidden:
        return ""
    what = " and ".join(f"the {h.name}" for h in task.hidden)
    site = f"the {where}'s place"
    if where == BEST:
        site = (
            f"the position and stage of each run that read it best on {task.chosen_on} at its end"
        )
    return f" The path is {what} read through the logit lens at {site}."


def shown_groups(groups: Sequence[str], most: int = MOST_GROUPS) -> list[str]:
    """The groups that figures draw: all, or so many at even distances in their order."""
    if len(groups) <= most:
        return list(groups)
    return [groups[round(i)] for i in np.linspace(0, len(groups) - 1, most)]


def _sections(data: TrainingRuns, tables: Tables) -> list[Section]:
    groups = shown_groups(list(dict.fromkeys(tables["outcomes"].group)))
    if not groups:
        return [Section("The runs", "None has a curve yet.", (), [_runs_table(data, tables)])]
    numbers = swept_numbers(data.runs)
    sections = [_curves(data, groups)]
    sections += [_order(data, tables, groups)] if data.task.hidden else []
    sections.append(_times(data, tables, groups))
    if numbers:
        sections.append(_swept(data, tables, numbers))
    sections += [_costs(data, tables, groups), _compared(tables), _variance(tables)]
    if len(tables["own_metrics"]):
        sections.append(metrics_section(data, tables["own_metrics"], groups))
    runs = "A row a run; an empty time has not come by the run's end."
    return [*sections, Section("The runs", runs, (), [_runs_table(data, tables)])]


def _curves(data: TrainingRuns, groups: Sequence[str]) -> Section:
    paper = published_pretraining(data.config)
    draw = functools.partial(
        curves_figure, data.runs, data.curves, "group", paper=paper, groups=groups, task=data.task
    )
    below = f"Answers above, {data.task.path} below, against training step, a pair of panels"
    alone = "Answers against training step, a panel"
    alt = f"{below if data.task.hidden else alone} for each of {', '.join(groups)}"
    what = "above; what can be read of its path, below" if data.task.hidden else "by step"
    text = f"What a group answers, {what}. A run that left early keeps its last value."
    caption = f"{_group_sizes(data)}. {data.origin}{_left_out(data, groups)}"
    return Section("What happens when", text, [Illustration("report_curves", draw, alt, caption)])


def _order(data: TrainingRuns, tables: Tables, groups: Sequence[str]) -> Section:
    draw = functools.partial(lag_figure, tables["outcomes"], groups)
    own = tables["order"]
    own = own[(own.level == ORDER_LEVELS[0]) & (own.reading == "strict") & (own["count"] > 0)]
    told = (
        f"{g} {order} {k} of {n}"
        for g, order, k, n in zip(own.group, own.order, own["count"], own.n, strict=True)
    )
    alt = "Answer less path of every run, a row per group: " + ", ".join(told)
    text = (
        "Path and answer at one level. Right of zero: the path came first. What the study calls"
        " fake grokking is answer first."
    )
    caption = f"{_group_sizes(data)}{_left_out(data, groups)}"
    shown = show(tables["order"][tables["order"]["count"] > 0], columns.ORDER)
    about = (
        f"Strict: the {data.task.path} at the run's site; any: anywhere, the study's reading."
        " Shares with 95 % Wilson intervals; lags, in steps, of so many runs as have both events."
    )
    return Section(
        "Path or answer first",
        text,
        [Illustration("lag", draw, alt, caption)],
        [Shown("order", shown, about)],
    )


def _times(data: TrainingRuns, tables: Tables, groups: Sequence[str]) -> Section:
    times = tables["times"]
    answer = times[(times.event == ANSWER) & (times.level == EVENT_AT)]
    parts = (f"{g} {p:.2f}" for g, p in zip(answer.group, answer.probability, strict=True))
    alt = "Share of runs that memorised, formed the path, answered, by step; answered: "
    draw = functools.partial(survival_figure, data, groups)
    horizon = f" to step {times.horizon.iloc[0]:,.0f}" if len(times) else ""
    about = (
        "Share by the end: Aalen-Johansen with a 95 % log-log interval, of shares 0 and 1 Wilson's."
        f" Median step: of that curve. Restricted mean:{horizon}, which all runs have trained to;"
        f" {columns.brackets(times.interval)} Earliest and latest are of the runs that had it."
        f" {columns.NO_BRACKETS} Other levels, and the path anywhere: in the file."
    )
    caption = f"{_group_sizes(data)}{_left_out(data, groups)}{_crowded(groups, 'times')}"
    return Section(
        "Time to memorise, to the path, to the answer"
        if data.task.hidden
        else "Time to memorise, to the answer",
        "At two levels, for path and answer alike." if data.task.hidden else "At two levels.",
        [Illustration("survival", draw, alt + ", ".join(parts), caption)],
        [Shown("times", show(_told(times), columns.TIMES), about)],
    )


def _told(times: pd.DataFrame) -> pd.DataFrame:
    """The rows that a page shows: path and answer at both levels, memorised at the higher one."""
    at_levels = times.event.isin((PATH, ANSWER)) & times.level.isin(ORDER_LEVELS)
    return times[at_levels | ((times.event == MEMORISED) & (times.level == EVENT_AT))]


def _swept(data: TrainingRuns, tables: Tables, numbers: list[str]) -> Section:
    outcomes = tables["outcomes"]
    figure = map_figure if len(numbers) > 1 else strip_figure
    draw = functools.partial(figure, data.runs, outcomes, data.task)
    accuracy = outcomes.final_ood_accuracy
    alt = (
        f"{data.task.short} accuracy and shares of runs by {' and '.join(numbers[:2])}; accuracy"
        f" from {accuracy.min():.2f} to {accuracy.max():.2f}"
    )
    text = "Each cell's runs differ in nothing but their seeds."
    more = f" Also swept: {', '.join(numbers[2:])}." if len(numbers) > 2 else ""
    name = "map" if len(numbers) > 1 else "strip"
    title = "The map" if len(numbers) > 1 else "Along the swept number"
    return Section(title, text, [Illustration(name, draw, alt, f"{data.origin}{more}")])


def _costs(data: TrainingRuns, tables: Tables, groups: Sequence[str]) -> Section:
    costs = tables["costs"]
    own = costs[(costs.unit == "FLOP") & (costs.level == ORDER_LEVELS[0])]
    counts = zip(own.group, own.reached, own.n, strict=True)
    told = ", ".join(f"{group} {reached} of {n}" for group, reached, n in counts)
    paid = "FLOPs and device-seconds" if timed(data) else "FLOPs"
    seconds = (
        " Device-seconds are without compilation, shared by the runs of a program; evaluation is"
        " apart."
        if timed(data)
        else ""
    )
    alt = f"Share of runs that answer, against {paid}; {told}"
    caption = f"{_group_sizes(data)}{_left_out(data, groups)}{_crowded(groups, 'costs')}"
    return Section(
        "Is it worthwhile?",
        "FLOPs are analytic, of matrix products: cycles without gradient count forward only."
        " Evaluation is not in them"
        f" (one evaluation: {data.runs.evaluation_flops.mean():.1e} FLOP a run).{seconds}",
        [Illustration("cost", functools.partial(cost_figure, data, groups), alt, caption)],
        [
            Shown(
                "costs",
                show(costs, columns.headed(columns.COSTS, data.task)),
                f"Cost until the {data.task.short} accuracy. A ratio is of restricted means to the"
                f" first group's. {columns.BOUNDS} {_around_costs(costs)}",
            )
        ],
    )


def _around_costs(costs: pd.DataFrame) -> str:
    return (
        f"Median: log-log. Restricted mean, ratio: {columns.brackets(costs.interval)}"
        f" {columns.NO_BRACKETS}"
    )


def _compared(tables: Tables) -> Section:
    table = tables["comparisons"]
    about = (
        "Permutations of labels, all of them where they are few. Smallest p: that these data could"
        " have given. Holm: over the rows of one family, what the experiment declared to compare"
        f" with its first group (`report.family`), or everything else. {columns.BOUNDS}"
        f" Estimate: {columns.brackets(table.interval)}"
    )
    return Section(
        "What differs",
        "A difference is b less a: above 0, b has more. A ratio is b over a: below 1, b is sooner."
        " A p above its smallest attainable value may still mean nothing but too few seeds.",
        (),
        [Shown("comparisons", show(table, columns.COMPARED), about)],
    )


def _variance(tables: Tables) -> Section:
    table, title = tables["variance"], "Which seed matters"
    told_apart = table.groupby(["group", "quantity"]).source.transform("size") > 1
    if not (told_apart & table.share.notna()).any():
        why = "; ".join(dict.fromkeys(table.swept)) or "no run is left"
        return Section(title, f"It cannot be told here. Swept: {why}.")
    about = "Shares of the variance over runs, with 95 % intervals; rest: interactions and noise."
    return Section(
        title,
        "What data, initialisation and order each bring, as far as they were swept apart.",
        (),
        [Shown("variance", show(table, columns.VARIANCE), about)],
    )


def _machine(tables: Tables) -> list[Section]:
    table = tables["machine"]
    if not table.reindex(columns=["training_seconds", "compile_seconds"]).notna().any(axis=None):
        return []
    about = (
        "What each population took, to a session's last checkpoint: device-seconds of training and"
        " of evaluation (this one's from some that were timed), seconds of compilation, memory of"
        " the process on a CPU and of one device elsewhere."
    )
    return [
        Section("What it took", "", (), [Shown("machine", show(table, columns.MACHINE), about)])
    ]


def _runs_table(data: TrainingRuns, tables: Tables) -> Shown:
    about = "Times in steps."
    if data.task.hidden:
        about += (
            f" Path score: the {data.task.path} at the run's site, its chance level beside it;"
            " anywhere: the study's any-rate and its chance level."
        )
    headed = columns.headed(columns.OUTCOMES, data.task)
    unknown = columns.unmeasured(tables["outcomes"], headed)
    if unknown:
        about += f" Not measured: {'; '.join(unknown)}."
    headed = {heading: column for heading, column in headed.items() if heading not in unknown}
    return Shown("outcomes", show(tables["outcomes"], headed), about)


def _group_sizes(data: TrainingRuns) -> str:
    return f"{span(data.runs.groupby('group').size())} runs a group"


def _crowded(groups: Sequence[str], table: str) -> str:
    """Where lines are too many to be told apart, the numbers are."""
    return f". {len(groups)} lines: read single groups in {table}.csv" if len(groups) > 6 else ""


def _left_out(data: TrainingRuns, groups: Sequence[str]) -> str:
    left = len(data.groups) - len(groups)
    return f". {len(groups)} of {len(data.groups)} groups, at even distances" if left else ""
