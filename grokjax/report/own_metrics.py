"""What a report shows of metrics besides ours: those that `evaluate.metrics` names."""

from __future__ import annotations

import pandas as pd

from grokjax.base.names import PROBE_TYPES
from grokjax.report.html import Column, Illustration, Section, number, show
from grokjax.report.panels import STEPS, Panels, band
from grokjax.report.style import Picture, in_style, line
from grokjax.report.training_runs import MOST_GROUPS, TrainingRuns
from grokjax.settings.own_functions import own_name, values_of
from grokjax.workdir.tables import bands, usable_runs

_SHOWN: dict[str, Column] = {
    "metric": "metric",
    "group": "group",
    "queries": "type",
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
        for kind in PROBE_TYPES:
            column = f"{kind}/{metric}"
            if column not in last:
                continue
            for group, own in last.dropna(subset=[column]).groupby("group", sort=False)[column]:
                values = {"mean": own.mean(), "low": own.min(), "high": own.max()}
                row = {"metric": metric, "group": group, "type": kind, "num_runs": own.count()}
                rows.append(row | values)
    return pd.DataFrame(rows)


def metrics_section(data: TrainingRuns, table: pd.DataFrame) -> Section:
    """Figure and table of them."""
    picture = _figure(data)
    alt = f"{', '.join(own_metrics(data))} against training step, a panel for each probe type"
    caption = "Line: median over the runs of a group; band: their range. EMA weights."
    return Section(
        "Metrics of this experiment",
        "As evaluate.metrics names them: means over the queries of a probe type.",
        [Illustration("own_metrics", picture, alt, caption)],
        [(show(table, _SHOWN), "At each run's last evaluation, over the runs of a group.")],
    )


@in_style
def _figure(data: TrainingRuns) -> Picture:
    columns = [
        (kind, metric, f"{kind}/{metric}")
        for metric in own_metrics(data)
        for kind in PROBE_TYPES
        if f"{kind}/{metric}" in data.curves
    ]
    table = pd.concat(
        bands(data.runs, data.curves, column, "group").assign(metric=metric, type=kind)
        for kind, metric, column in columns
    )
    panels = Panels.wrapped(len(columns), 3.9, 2.6)
    for axis, (kind, metric, _) in zip(panels, columns, strict=True):
        for i, group in enumerate(data.groups[:MOST_GROUPS]):
            own = table[(table.metric == metric) & (table.type == kind) & (table.group == group)]
            band(axis, own.step / 1000, own, label=group, **line(i))
        axis.set_title(f"{metric}, {kind}")
    panels.label(STEPS, "")
    panels.legend()
    return panels.picture(table)
