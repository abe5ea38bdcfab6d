"""The report of a training: what came when, at what cost, with what certainty."""

from __future__ import annotations

import pandas as pd

from grokjax.base.names import ANSWER, BEST, EVENT_AT
from grokjax.report import training_comparisons, training_tables
from grokjax.report.cost_figure import cost_figure
from grokjax.report.curves_figure import curves_figure
from grokjax.report.html import (
    Column,
    Illustration,
    Page,
    Section,
    around,
    count_of,
    number,
    short,
    show,
)
from grokjax.report.own_metrics import metrics_section, metrics_table
from grokjax.report.phase_diagram import has_phases, phase_diagram
from grokjax.report.published import published_pretraining
from grokjax.report.style import span
from grokjax.report.survival_figure import survival_figure
from grokjax.report.training_runs import MOST_GROUPS, TrainingRuns

_TIMES: dict[str, Column] = {
    "group": "group",
    "event": "event",
    "level": number("level", "g"),
    "runs": "n",
    "observed": "observed",
    "censored": "censored",
    "diverged": "diverged",
    "P": around("probability"),
    "median step": around("median", ",.0f"),
    "earliest": short("earliest"),
    "latest": short("latest"),
}
_ORDER: dict[str, Column] = {
    "group": "group",
    "path": "reading",
    "level": number("level", "g"),
    "order": "order",
    "runs": count_of("count", "n"),
    "share": around("share"),
    "lag": number("lag_median", ",.0f"),
}
_COSTS: dict[str, Column] = {
    "group": "group",
    "unit": "unit",
    "OOD accuracy": number("level", "g"),
    "reached": count_of("reached", "n"),
    "median": around("median", ".2e"),
    "ratio": around("ratio"),
    "bound": "ratio_bound",
    "pairs": "num_pairs",
}
_MACHINE: dict[str, Column] = {
    "population": "population",
    "runs": "num_runs",
    "steps": short("steps"),
    "devices": short("num_devices"),
    "training": short("training_seconds"),
    "evaluation": short("evaluation_seconds"),
    "compile": short("compile_seconds"),
    "GiB": short("peak_bytes", 2**30),
}


def page(data: TrainingRuns) -> Page:
    """Everything that a report says of a training."""
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
    title = f"{data.name}: is grokking worth its compute?"
    return Page(title, _lead(data), _sections(data, tables), tables)


def _lead(data: TrainingRuns) -> str:
    by_state = data.runs.status.value_counts()
    states = ", ".join(f"{n} {state}" for state, n in by_state.items())
    return (
        f"{len(data.runs)} runs in {len(data.groups)} groups, up to step {data.step:,} ({states})."
        " Accuracy is of OOD compositions, two facts that were never composed in training unless a"
        " regime says so; the path is the bridge entity read through the logit lens at"
        f" {_path_site(data)}. Times are censored where a training ended first, and a diverged run"
        " is a competing end, not a slow one."
    )


def _path_site(data: TrainingRuns) -> str:
    where = data.config.evaluate.path_position
    if where == BEST:
        return "the position that reads it best on ID compositions"
    return f"the {where}'s place"


def _sections(data: TrainingRuns, tables: dict[str, pd.DataFrame]) -> list[Section]:
    sections = [_curves(data), _times(data, tables)]
    if has_phases(data):
        sections.append(_phases(data))
    sections.append(_costs(data, tables))
    if len(tables["own_metrics"]):
        sections.append(metrics_section(data, tables["own_metrics"]))
    shown = tables["variance"].round(2).astype(str)
    caption = "Shares of the variance over runs (method of moments), 95 % bootstrap over levels."
    text = "What each seed that was swept brings; the rest is interactions and noise."
    sections.append(Section("Which seed matters", text, (), [(shown, caption)]))
    return sections


def _curves(data: TrainingRuns) -> Section:
    paper = published_pretraining(data.config)
    picture = curves_figure(data.runs, data.curves, "group", paper=paper, most=MOST_GROUPS)
    groups = ", ".join(data.groups)
    alt = f"Accuracy and bridge rate against training step, a panel for each of {groups}"
    return Section(
        "What happens when",
        "Median over the runs of a group, with their full range (from 10 runs on: 10th to 90th"
        " percentile); a run that left early keeps its last value. EMA weights.",
        [Illustration("report_curves", picture, alt, f"n = {_group_sizes(data)}. {_facts(data)}")],
    )


def _times(data: TrainingRuns, tables: dict[str, pd.DataFrame]) -> Section:
    times = tables["times"]
    times = times[times.level == EVENT_AT]
    grok = times[times.event == ANSWER]
    parts = (f"{g} {p:.2f}" for g, p in zip(grok.group, grok.probability, strict=True))
    alt = "Share of runs that memorised, formed the path, answered, by step; answered: "
    caption = f"n = {_group_sizes(data)}. {_facts(data)}"
    return Section(
        "Time to memorise, to the path, to grokking",
        f"Each at {EVENT_AT:g} in three evaluations running. Aalen-Johansen estimates with"
        " 95 % log-log intervals (up to five groups; for nobody and everybody Wilson's, in the"
        " table); a tick is a run whose training ended before.",
        [Illustration("survival", survival_figure(data), alt + ", ".join(parts), caption)],
        [
            (
                show(times, _TIMES),
                "P: probability by the end of training. Median: of that curve, inf where it"
                " does not get to a half.",
            ),
            (
                show(tables["order"][tables["order"]["count"] > 0], _ORDER),
                "In which order path and answer came, both at one level: shares of runs with 95 %"
                " Wilson intervals. Lag: answer less path, median of the runs with both.",
            ),
        ],
    )


def _phases(data: TrainingRuns) -> Section:
    picture = phase_diagram(data)
    grok = picture.data[picture.data.kind.str.startswith("P(answer at")]["mean"]
    alt = f"Grids of hop-1 by hop-2 ratio; P(answer) from {grok.min():.2f} to {grok.max():.2f}"
    return Section(
        "Fake grokking: the phase diagram",
        "Means of the runs in each cell. Orange: where a logistic regression on both ratios"
        " and their product puts 0.5.",
        [Illustration("phase_diagram", picture, alt, f"n in each cell. {_facts(data)}")],
    )


def _costs(data: TrainingRuns, tables: dict[str, pd.DataFrame]) -> Section:
    costs = tables["costs"]
    own = costs[(costs.level == costs.level.min()) & (costs.unit == "FLOP")]
    counts = zip(own.group, own.reached, own.n, strict=True)
    parts = ", ".join(f"{group} {reached} of {n}" for group, reached, n in counts)
    alt = f"OOD accuracy against FLOPs; runs reaching {costs.level.min():g}: {parts}"
    caption = f"Median and band as above. {_facts(data)}"
    return Section(
        "Is it worthwhile?",
        "FLOPs are analytic, of matrix products: cycles without gradient count forward only."
        " Evaluation is not in them"
        f" (one evaluation: {data.runs.evaluation_flops.mean():.1e} FLOP a run). Device-seconds"
        " are without compilation, shared by the runs of a program; evaluation is apart.",
        [Illustration("cost_benefit", cost_figure(data), alt, caption)],
        [
            (
                show(costs, _COSTS),
                "Cost of the OOD accuracy: medians of survival curves, inf where half of the runs"
                " have not got there. Ratio: of restricted means, to the first group; a bound"
                " where runs ended before.",
            ),
            (
                show(data.machine, _MACHINE),
                "What each population took, to a session's last checkpoint: device-seconds"
                " of training and of evaluation (this one's from some that were timed), seconds"
                " of compilation, memory of the process on a CPU and of one device elsewhere.",
            ),
        ],
    )


def _group_sizes(data: TrainingRuns) -> str:
    return f"{span(data.runs.groupby('group').size())} runs a group"


def _facts(data: TrainingRuns) -> str:
    seeds = data.runs["seeds.data"].nunique() if "seeds.data" in data.runs else 1
    return f"{seeds} seeds; {data.origin}"
