"""What more compute buys: OOD accuracy against the FLOPs spent."""

from __future__ import annotations

from grokjax.base.names import OOD_ACCURACY
from grokjax.report.panels import Panels, band
from grokjax.report.style import Picture, in_style, line
from grokjax.report.training_runs import MOST_GROUPS, TrainingRuns
from grokjax.workdir.tables import bands


@in_style
def cost_figure(data: TrainingRuns) -> Picture:
    """A line and a band per group, against a run's training FLOPs."""
    flops_per_step = data.runs.groupby("group").flops_per_step.first()
    table = bands(data.runs, data.curves, OOD_ACCURACY, "group")
    table["flops"] = table.step * table.group.map(flops_per_step)
    panels = Panels(1, 1, 7.1, 3.8)
    (axis,) = panels
    for i, group in enumerate(data.groups[:MOST_GROUPS]):
        own = table[(table.group == group) & (table.flops > 0)]
        band(axis, own.flops, own, label=group, **line(i))
    axis.set_xscale("log")
    panels.shares()
    panels.label("training FLOPs of one run", "OOD answer accuracy")
    panels.legend()
    return panels.picture(table)
