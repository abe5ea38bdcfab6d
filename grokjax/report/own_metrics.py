"""What a report shows of metrics besides ours: those that `evaluate.metrics` names."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from grokjax.report.html import Column, Illustration, Section, Shown, number, show
from grokjax.report.panels import STEPS, Panels, lines
from grokjax.report.style import Picture, in_style, styles
from grokjax.report.training_runs import TrainingRuns
from grokjax.report.wording import PROBES
from grokjax.settings.own_functions import own_name, values_of
from grokjax.workdir.tables import bands, held_curves, usable_runs

_COLUMNS = ["metric", "group", "type", "num_runs", "mean", "low", "high"]
_SHOWN: dict[str, Column] = {
    "metric": "metric",
    "group": "group",
    "queries": lambda table: [PROBES.get(kind, kind) for kind in table.type],
    "runs": "num_runs",
    "mean": number("mean", ".3g"),
    "lowest": number("low", ".3g"),
    "highest": number("high", ".3g"),
}


def own_metrics(data: TrainingRuns) -> list[str]:
    """Their names, as columns of the curves end."""
    return [own_name(part) for part in values_of(data.config.evaluate.metrics)]


def metrics_table(data: TrainingRuns) -> pd.DataFrame:
    """At each run's last evaluation: mean and range over the runs of a group, by probe type."""
    last = data.curves.sort_values("step").groupby("run_id").tail(1)
    last = usable_runs(data.runs)[["run_id", "group"]].merge(last, on="run_id")
    rows = []
    for metric in own_metrics(data):
        for kind in data.task.type_names:
            column = f"{kind}/{metric}"
            if column not in last:
                continue
            for group, own in last.dropna(subset=[column]).groupby("group", sort=False)[column]:
                values = {"mean": own.mean(), "low": own.min(), "high": own.max()}
                row = {"metric": metric, "group": group, "type": kind, "num_runs": own.count()}
                rows.append(row | values)
    return pd.DataFrame(rows, columns=_COLUMNS)


def metrics_section(data: TrainingRuns, table: pd.DataFrame, groups: Sequence[str]) -> Section:
    """Figure and table of them, of the groups that figures draw."""
    alt = f"{', '.join(own_metrics(data))} against training step, a panel for each probe type"
    caption = "Thick: median of a group; thin, or band: its runs. EMA weights."
    about = "At each run's last evaluation, over the runs of a group."
    return Section(
        "Metrics of this experiment",
        "As evaluate.metrics names them: means over the queries of a probe type.",
        [Illustration("own_metrics", functools.partial(_figure, data, groups), alt, caption)],
        [Shown("own_metrics", show(table, _SHOWN), about)],
    )


@in_style
def _figure(data: TrainingRuns, groups: Sequence[str]) -> Picture:
    columns = [
        (kind, metric, f"{kind}/{metric}")
        for metric in own_metrics(data)
        for kind in data.task.type_names
        if f"{kind}/{metric}" in data.curves and data.curves[f"{kind}/{metric}"].notna().any()
    ]
    runs = data.runs[data.runs.group.isin(groups)]
    panels = Panels.wrapped(len(columns), 3.9, 2.6, sharex=True)
    style = styles(groups)
    held = {column: held_curves(runs, data.curves, column, "group") for *_, column in columns}
    for axis, (kind, metric, column) in zip(panels, columns, strict=True):
        for group in groups:
            own = held[column][held[column].group == group]
            lines(axis, own, column, label=group, **style[group] | {"marker": ""})
        panels.title(axis, f"{metric.replace('_', ' ')}, {PROBES.get(kind, kind)}")
        axis.ticklabel_format(axis="y", useOffset=False)
    _one_scale(panels, [metric for _, metric, _ in columns])
    panels.label(STEPS, "mean over queries")
    panels.legend()
    drawn = [
        bands(runs, data.curves, column, "group").assign(metric=metric, type=kind)
        for kind, metric, column in columns
    ]
    return panels.picture(pd.concat(drawn))


def _one_scale(panels: Panels, metrics: Sequence[str]) -> None:
    """What is compared, a metric of several probe types, has one scale."""
    by_metric: dict[str, list[Axes]] = {}
    for axis, metric in zip(panels, metrics, strict=True):
        by_metric.setdefault(metric, []).append(axis)
    for axes in by_metric.values():
        limits = [axis.get_ylim() for axis in axes]
        for axis in axes:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
