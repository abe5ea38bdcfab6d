"""The report of a training: what came when, at what cost, with what certainty."""

from __future__ import annotations

import pandas as pd

from grokjax.base.names import BEST, EVENT_AT, GROKKED
from grokjax.report import training_tables
from grokjax.report.cost_figure import cost_figure
from grokjax.report.curves_figure import curves_figure
from grokjax.report.html import (
    Column,
    Illustration,
    Page,
    Section,
    around,
    count_of,
    interval,
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
    "runs": "num_runs",
    "observed": "observed",
    "censored": "censored",
    "diverged": "diverged",
    "P": interval("probability", "low", "high"),
    "mean steps": interval("mean_steps", "mean_low", "mean_high", ",.0f"),
    "p": number("p_value", ".3f"),
}
_KINDS: dict[str, Column] = {
    "group": "group",
    "runs": "num_runs",
    "grok": around("grok"),
    "path": around("path"),
    "true": around("true"),
    "fake": around("fake"),
    "delay": number("delay", ",.0f"),
    "simultaneous": "simultaneous",
}
_COSTS: dict[str, Column] = {
    "group": "group",
    "OOD accuracy": number("ood_accuracy", "g"),
    "reached": count_of("reached", "num_runs"),
    "FLOPs": around("flops", ".2e"),
    "device-seconds": short("seconds"),
    "of evaluation": short("evaluation_seconds"),
    "ratio": around("ratio"),
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
        "times": training_tables.times_table(data),
        "costs": training_tables.cost_table(data),
        "grok_kinds": training_tables.grok_kinds(data),
        "outcomes": data.outcomes,
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
    if len(tables["variance"]):
        shown = tables["variance"].round(2).astype(str)
        caption = "Shares of the variance over runs, a full cross of seeds (method of moments)."
        text = "What data, initialisation and order each bring; the rest is interactions and noise."
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
    grok = times[times.event == GROKKED]
    parts = (f"{g} {p:.2f}" for g, p in zip(grok.group, grok.probability, strict=True))
    alt = "Share of runs that memorised, formed the path, grokked, by step; grokked: "
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
                "P: probability by the end of training. Mean steps: restricted to"
                f" {times.horizon.iloc[0]:,.0f} steps. p: log-rank against the first group.",
            ),
            (
                show(tables["grok_kinds"], _KINDS),
                "Shares of runs with 95 % Wilson intervals. True: path and grokking observed."
                " Path: at 0.5. Fake: grokked with the path score below that throughout. Delay:"
                " grokking after memorising, steps, mean of runs with both.",
            ),
        ],
    )


def _phases(data: TrainingRuns) -> Section:
    picture = phase_diagram(data)
    grok = picture.data[picture.data.kind.str.startswith("P(grok")]["mean"]
    alt = f"Grids of hop-1 by hop-2 ratio; P(grok) from {grok.min():.2f} to {grok.max():.2f}"
    return Section(
        "Fake grokking: the phase diagram",
        "Means of the runs in each cell. Orange: where a logistic regression on both ratios"
        " and their product puts 0.5.",
        [Illustration("phase_diagram", picture, alt, f"n in each cell. {_facts(data)}")],
    )


def _costs(data: TrainingRuns, tables: dict[str, pd.DataFrame]) -> Section:
    costs = tables["costs"]
    own = costs[costs.ood_accuracy == costs.ood_accuracy.min()]
    counts = zip(own.group, own.reached, own.num_runs, strict=True)
    parts = ", ".join(f"{group} {reached} of {n}" for group, reached, n in counts)
    alt = f"OOD accuracy against FLOPs; runs reaching {own.ood_accuracy.iloc[0]:g}: {parts}"
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
                "FLOPs until the OOD accuracy, mean and 95 % Student-t interval of the runs"
                " that reached it; the others are censored. Ratio: to the first group, over"
                " the seeds where both reached it, bootstrap over them.",
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
