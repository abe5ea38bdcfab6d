"""The report of a workdir: what came when, at what cost, with what certainty."""

from __future__ import annotations

import math
import os
import pathlib

import pandas as pd

from grokjax.base.files import refuse_links, write_atomically
from grokjax.base.names import BEST
from grokjax.report import training_figures as pictures
from grokjax.report import training_tables as tables
from grokjax.report import transfer_page
from grokjax.report.html import Section, interval, render, shortly
from grokjax.report.study import THRESHOLD, Study, published_curves, study
from grokjax.report.style import span
from grokjax.report.transfer_tables import read_transfers
from grokjax.results import StoredRuns

REPORT = "report.html"


def write_report(found: StoredRuns, out: str | os.PathLike | None = None) -> pathlib.Path:
    """Writes `report.html`, its pictures as PNG with their data, and its tables as CSV.

    Args:
      found: what `grokjax.load` gave, trained in full or in part.
      out: folder, the workdir by default.

    Returns:
      The page's path.

    Raises:
      UserError: nothing has been trained.
    """
    folder = pathlib.Path(out) if out is not None else found.workdir
    refuse_links(folder, "figures", "*.csv", REPORT)
    if finetuning := found.finetuning:
        title = f"{found.config.name}: what does a grokked model do with new facts?"
        transfers = read_transfers(finetuning)
        lead, (sections, drawn, made) = (
            transfer_page.lead(transfers),
            transfer_page.sections(transfers),
        )
    else:
        data = study(found)
        title = f"{data.name}: is grokking worth its compute?"
        lead = _lead(data)
        sections, drawn, made = _sections(data)
    for name, picture in drawn.items():
        picture.save(folder / "figures" / f"{name}.png")
    for name, table in made.items():
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / f"{name}.csv", index=False)
    write_atomically(folder / REPORT, render(title, lead, sections))
    return folder / REPORT


def _lead(data: Study) -> str:
    by_state = data.runs.status.value_counts()
    states = ", ".join(f"{n} {state}" for state, n in by_state.items())
    return (
        f"{len(data.runs)} runs in {len(data.groups)} groups, up to step {data.step:,} ({states})."
        " Accuracy is of OOD compositions, two facts that were never composed in training unless a"
        " regime says so; the path is the bridge entity read through the logit lens at"
        f" {_path_site(data)}. Times are censored where a training ended first, and a diverged run"
        " is a competing end, not a slow one."
    )


def _path_site(data: Study) -> str:
    where = data.config.evaluate.path_position
    if where == BEST:
        return "the position that reads it best on ID compositions"
    return f"the {where}'s place"


def _sections(data: Study):
    times, cost, kinds = (
        make(data) for make in (tables.times_table, tables.cost_table, tables.grok_kinds)
    )
    drawn = {
        "report_curves": pictures.curves_picture(data, published_curves(data.config, "pretrain")),
        "survival": pictures.survival_picture(data),
        "cost_benefit": pictures.benefit_picture(data),
    }
    facts = _facts(data)
    n = span(data.runs.groupby("group").size())
    sections = [
        Section(
            "What happens when",
            "Median over the runs of a group, with their full range (from 10 runs on: 10th to 90th"
            " percentile); a run that left early keeps its last value. EMA weights.",
            [(drawn["report_curves"], _alt_curves(data), f"n = {n} runs a group. {facts}")],
        ),
        Section(
            "Time to memorise, to the path, to grokking",
            f"Each at {THRESHOLD:g} in three evaluations running. Aalen-Johansen estimates with"
            " 95 % log-log intervals (up to five groups; for nobody and everybody Wilson's, in the"
            " table); a tick is a run whose training ended before.",
            [(drawn["survival"], _alt_survival(times), f"n = {n} runs a group. {facts}")],
            [
                (
                    _shown_times(times),
                    "P: probability by the end of training. Mean steps: restricted to"
                    f" {times.horizon.iloc[0]:,.0f} steps. p: log-rank against the first group.",
                ),
                (
                    _shown_kinds(kinds),
                    "Shares of runs with 95 % Wilson intervals. True: path and grokking observed."
                    " Path: at 0.5. Fake: grokked with the path score below that throughout. Delay:"
                    " grokking after memorising, steps, mean of runs with both.",
                ),
            ],
        ),
    ]
    if pictures.has_phases(data):
        drawn["phase_diagram"] = pictures.phase_picture(data)
        phases = drawn["phase_diagram"].data
        sections.append(
            Section(
                "Fake grokking: the phase diagram",
                "Means of the runs in each cell. Orange: where a logistic regression on both ratios"
                " and their product puts 0.5.",
                [(drawn["phase_diagram"], _alt_phases(phases), f"n in each cell. {facts}")],
            )
        )
    sections.append(
        Section(
            "Is it worthwhile?",
            "FLOPs are analytic, of matrix products: cycles without gradient count forward only."
            " Evaluation is not in them"
            f" (one evaluation: {data.runs.evaluation_flops.mean():.1e} FLOP a run). Device-seconds"
            " are without compilation, shared by the runs of a program; evaluation is apart.",
            [(drawn["cost_benefit"], _alt_benefit(cost), f"Median and band as above. {facts}")],
            [
                (
                    _shown_costs(cost),
                    "FLOPs until the OOD accuracy, mean and 95 % Student-t interval of the runs"
                    " that reached it; the others are censored. Ratio: to the first group, over"
                    " the seeds where both reached it, bootstrap over them.",
                ),
                (
                    _shown_machine(data.machine),
                    "What each population took, to a session's last checkpoint: device-seconds"
                    " of training and of evaluation (this one's from some that were timed), seconds"
                    " of compilation, memory of the process on a CPU and of one device elsewhere.",
                ),
            ],
        )
    )
    variance = tables.seed_variance(data)
    if len(variance):
        shown = variance.round(2).astype(str)
        caption = "Shares of the variance over runs, a full cross of seeds (method of moments)."
        text = "What data, initialisation and order each bring; the rest is interactions and noise."
        sections.append(Section("Which seed matters", text, (), [(shown, caption)]))
    made = {
        "times": times,
        "costs": cost,
        "grok_kinds": kinds,
        "outcomes": data.outcomes,
        "variance": variance,
        "machine": data.machine,
    }
    return sections, drawn, made


def _facts(data: Study) -> str:
    seeds = data.runs["seeds.data"].nunique() if "seeds.data" in data.runs else 1
    return f"{seeds} seeds; {data.origin}"


def _shown_times(times: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": times.group,
            "event": times.event,
            "runs": times.num_runs,
            "observed": times.observed,
            "censored": times.censored,
            "diverged": times.diverged,
            "P": [interval(x) for x in times[["probability", "low", "high"]].to_numpy()],
            "mean steps": [
                interval(x, form=",.0f")
                for x in times[["mean_steps", "mean_low", "mean_high"]].to_numpy()
            ],
            "p": ["-" if math.isnan(p) else f"{p:.3f}" for p in times.p_value],
        }
    )


def _shown_kinds(kinds: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"group": kinds.group, "runs": kinds.num_runs})
    for name in ("grok", "path", "true", "fake"):
        columns = [name, f"{name}_low", f"{name}_high"]
        shown[name] = [interval(x) for x in kinds[columns].to_numpy()]
    shown["delay"] = ["-" if math.isnan(d) else f"{d:,.0f}" for d in kinds.delay]
    shown["simultaneous"] = kinds.simultaneous
    return shown


def _shown_costs(cost: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": cost.group,
            "OOD accuracy": [f"{x:g}" for x in cost.ood_accuracy],
            "reached": [f"{r} of {n}" for r, n in zip(cost.reached, cost.num_runs, strict=True)],
            "FLOPs": [
                interval(x, form=".2e")
                for x in cost[["flops", "flops_low", "flops_high"]].to_numpy()
            ],
            "device-seconds": shortly(cost.seconds),
            "of evaluation": shortly(cost.evaluation_seconds),
            "ratio": [interval(x) for x in cost[["ratio", "ratio_low", "ratio_high"]].to_numpy()],
            "pairs": cost.num_pairs,
        }
    )


def _shown_machine(machine: pd.DataFrame) -> pd.DataFrame:
    shown = machine[["population", "num_runs"]].set_axis(["population", "runs"], axis=1)
    for name in ("steps", "num_devices", "training", "evaluation", "compile"):
        column = name if name in machine else f"{name}_seconds"
        shown[name.replace("num_", "")] = shortly(machine[column])
    shown["GiB"] = shortly(machine.peak_bytes / 2**30)
    return shown


def _alt_curves(data: Study) -> str:
    groups = ", ".join(data.groups)
    return f"Accuracy and bridge rate against training step, a panel for each of {groups}"


def _alt_survival(times: pd.DataFrame) -> str:
    grok = times[times.event == "grokked"]
    parts = (f"{g} {p:.2f}" for g, p in zip(grok.group, grok.probability, strict=True))
    text = "Share of runs that memorised, formed the path, grokked, by step; grokked: "
    return text + ", ".join(parts)


def _alt_phases(cells: pd.DataFrame) -> str:
    grok = cells[cells.kind.str.startswith("P(grok")]["mean"]
    return f"Grids of hop-1 by hop-2 ratio; P(grok) from {grok.min():.2f} to {grok.max():.2f}"


def _alt_benefit(cost: pd.DataFrame) -> str:
    own = cost[cost.ood_accuracy == cost.ood_accuracy.min()]
    counts = zip(own.group, own.reached, own.num_runs, strict=True)
    parts = ", ".join(f"{group} {reached} of {n}" for group, reached, n in counts)
    return f"OOD accuracy against FLOPs; runs reaching {own.ood_accuracy.iloc[0]:g}: {parts}"
