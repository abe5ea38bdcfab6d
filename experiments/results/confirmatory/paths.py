"""Finding 1: is the path on ID queries the same at saturation, when the path comes, and at the end?

    for at in "2500,40000" "16000 --runs=2,6" "23000 --runs=1,5" "34000 --runs=3,4"; do
        grokjax analyze runs/confirmatory/populations/000 --no-null --steps=$at
    done
    grokjax analyze runs/confirmatory/populations/001 --no-null --steps=20000
    cd runs/confirmatory/populations
    python ../../../experiments/results/confirmatory/paths.py 000 001

Of each run three analysed steps: the first from memorisation on, the first at which the path has
come (0.5, strict), the last. A run's path is the effects on ID queries at all sites but `Init`,
denoising and noising each by itself, or the bridge's lens profile. Two stages of a run are the same
path where no site differs by more than 0.25. The planned control reads each last network on the
queries of the next seed's graph. Beside it stand two seeds, each at its end and on its own graph,
and the same seed's end in other regimes: the populations after the first.

Writes `paths.csv`, a row per run, reading and two stages; `paths_summary.csv`, with Wilson's
interval of the share within the margin; and `paths.png`.
"""

import itertools
import pathlib
import sys

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import grokjax
from grokjax.analysis import draw_pairs, load_analysis, patch_effects
from grokjax.analysis.analyze import cells_of
from grokjax.analysis.patching import DIRECTIONS
from grokjax.base.names import MEMORISED
from grokjax.report.style import COLOURS, MARKERS
from grokjax.statistics.intervals import wilson

FOLDER = pathlib.Path(__file__).parent
MARGIN = 0.25
READINGS = (*DIRECTIONS, "lens")
STAGES = ("saturation", "path", "end")
WITHIN = (("saturation", "path"), ("path", "end"), ("saturation", "end"))
CONTROLS = (("end", "another seed"), ("end", "another graph"))


def effects(patching, direction):
    """A run's effects on ID queries at all sites but `Init`, [F]."""
    chosen = patching.sel(direction=direction)
    cells = np.flatnonzero((patching.group == "id").to_numpy())
    sites = np.flatnonzero((patching.place != "Init").to_numpy())
    return chosen.effect.isel(cell=cells, site=sites).transpose("cell", "site").to_numpy().ravel()


def profile(lens, task):
    """Shares of ID queries whose first choice is the bridge, by site but `Init`, [F]."""
    own = lens.sel(type=task.site_types[0], token=task.hidden[0].name, subset="apart")
    return own.top1.isel(stage=slice(1, None)).to_numpy().ravel()


def readings(analysis, task, run_id, step):
    """A run's path at a step, by reading."""
    patching = analysis.patching.sel(run=run_id, step=step)
    found = {direction: effects(patching, direction) for direction in DIRECTIONS}
    return found | {"lens": profile(analysis.lens.sel(run=run_id, step=step), task)}


def steps_of(outcome, steps):
    """The three stages' analysed steps; a path that has not come has none."""
    found = {"end": steps[-1]}
    for stage, event in (("saturation", MEMORISED), ("path", "path_0.5")):
        after = [step for step in steps if step >= outcome[event]]  # none after NaN
        if after:
            found[stage] = after[0]
    return found


def controls(results, analysis):
    """Each last network on the queries of the next run's graph: effects by run and direction."""
    num_pairs = int(analysis.settings["num_pairs"])
    found = {}
    for run_id in range(len(results.runs)):
        other = results.dataset((run_id + 1) % len(results.runs))
        pairs = [
            draw_pairs(other, slot, split, num_pairs, int(analysis.settings["seed"]))
            for slot, split in cells_of(results.task)
            if split == "id"
        ]
        measured = patch_effects(results.model, results.weights(run_id), pairs)
        for direction in DIRECTIONS:
            found[run_id, direction] = effects(measured, direction)
    return found


def row(run, reading, first, second, steps, one, other):
    """One comparison; `within` is empty where one of the two has no effect to compare."""
    there = np.isfinite(one) & np.isfinite(other)
    apart = float(np.max(np.abs(one - other)[there])) if there.any() else np.nan
    alike = float(np.corrcoef(one[there], other[there])[0, 1]) if there.any() else np.nan
    return {
        "run_hash": run.run_hash, "seeds.data": run["seeds.data"], "reading": reading,
        "first": first, "second": second, "first_step": steps[0], "second_step": steps[1],
        "num_sites": int(there.sum()), "largest_difference": apart,
        "correlation": alike,
        "within": apart <= MARGIN if there.any() else "",
    }  # fmt: skip


def ends_elsewhere(workdir, outcomes):
    """A population's unit, and its runs' paths at the end by data seed, each with its step."""
    results = grokjax.load(workdir)
    analysis, step = load_analysis(results), int(results.curves.step.max())
    unit = outcomes.group.loc[results.runs.run_hash.iloc[0]]
    return unit, {
        run["seeds.data"]: (step, readings(analysis, results.task, run.run_id, step))
        for _, run in results.runs.iterrows()
    }


def main(workdir: str, *others: str) -> None:
    results = grokjax.load(workdir)
    analysis = load_analysis(results)
    outcomes = pd.read_csv(FOLDER / "outcomes.csv", dtype={"run_hash": str}).set_index("run_hash")
    elsewhere = dict(ends_elsewhere(other, outcomes) for other in others)
    exchanged = controls(results, analysis)
    num_runs, steps, read = len(results.runs), [], []
    for run_id, run_hash in enumerate(results.runs.run_hash):
        is_there = analysis.lens.top1.sel(run=run_id).notnull().any([*analysis.lens.top1.dims[2:]])
        at = steps_of(outcomes.loc[run_hash], is_there.step.values[is_there].tolist())
        steps.append(at)
        read.append({stage: readings(analysis, results.task, run_id, at[stage]) for stage in at})
    rows = []
    for run_id in range(num_runs):
        run, at, own = results.runs.iloc[run_id], steps[run_id], read[run_id]
        other, ends = read[(run_id + 1) % num_runs]["end"], (at["end"], at["end"])
        for first, second in itertools.combinations([s for s in STAGES if s in at], 2):
            for name in READINGS:
                both = own[first][name], own[second][name]
                rows.append(row(run, name, first, second, (at[first], at[second]), *both))
        for name in READINGS:
            rows.append(row(run, name, "end", "another seed", ends, own["end"][name], other[name]))
        for name in DIRECTIONS:
            control = exchanged[run_id, name]
            rows.append(row(run, name, "end", "another graph", ends, own["end"][name], control))
        for unit, of_seed in elsewhere.items():
            step, theirs = of_seed[run["seeds.data"]]
            for name in READINGS:
                pair = own["end"][name], theirs[name]
                rows.append(row(run, name, "end", unit, (at["end"], step), *pair))
    table = pd.DataFrame(rows)
    table.round(4).to_csv(FOLDER / "paths.csv", index=False, lineterminator="\n")
    summary = []
    compared = (*WITHIN, *(("end", unit) for unit in elsewhere), *CONTROLS)
    for (first, second), reading in itertools.product(compared, READINGS):
        is_own = (table["first"] == first) & (table["second"] == second)
        own = table[is_own & (table.reading == reading)]
        if not len(own):
            continue
        told = own[own.within != ""]
        num_within = int(told.within.astype(int).sum())
        share = wilson(num_within, len(told))
        summary.append(
            {
                "first": first,
                "second": second,
                "reading": reading,
                "runs": len(own),
                "compared": len(told),
                "within": num_within,
                **share.columns("share"),
                "median_difference": told.largest_difference.median(),
                "median_correlation": told.correlation.median(),
            }
        )
    summary = pd.DataFrame(summary).round(3)
    summary.to_csv(FOLDER / "paths_summary.csv", index=False, lineterminator="\n")
    print(summary.to_string(index=False))
    draw(table, compared).savefig(FOLDER / "paths.png", dpi=150)


def draw(table, compared):
    """Largest difference of any site, a point per run: columns are what is compared."""
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    axis = figure.add_subplot()
    for i, (name, colour, marker) in enumerate(zip(READINGS, COLOURS, MARKERS, strict=False)):
        label = name if name == "lens" else f"patching, {name}"
        for place, (first, second) in enumerate(compared):
            is_own = (table["first"] == first) & (table["second"] == second)
            own = table[is_own & (table.reading == name)].largest_difference.dropna()
            x = place + 0.2 * (i - 1) + np.linspace(-0.06, 0.06, len(own))
            axis.plot(x, own, marker, color=colour, ms=5, alpha=0.8, label=label)
            label = None
    axis.axhline(MARGIN, color="#999999", ls="--", lw=1)
    axis.text(len(compared) - 0.5, MARGIN, " margin", va="center", color="#666666", fontsize=9)
    counts = table[table.reading == DIRECTIONS[0]].groupby(["first", "second"])
    num = counts.largest_difference.count()
    names = [f"{a} and\n{b.replace(', ', chr(10))}\nn = {num[a, b]}" for a, b in compared]
    axis.set(xticks=range(len(compared)), xticklabels=names, xlim=(-0.5, len(compared) - 0.5))
    axis.set(ylabel="largest difference of a site", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
