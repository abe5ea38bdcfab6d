"""Tables and pictures of an analysis."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokjax.analysis import onset as movies
from grokjax.analysis import tables
from grokjax.analysis.paths import MARGIN, path_identity, permuted_distances
from grokjax.analysis.store import Analysis
from grokjax.base.errors import UserError
from grokjax.report import analysis_figures as plots
from grokjax.report import comparison_figures as comparisons
from grokjax.report.style import Picture
from grokjax.results import Results

GROKKED_AT = 0.9
_PATHS = {
    "effects on ID queries": lambda a: tables.effect_maps(a.patching, "id")[0],
    "effects on OOD queries": lambda a: tables.effect_maps(a.patching, "ood")[0],
    "bridge by site, ID": lambda a: tables.bridge_profiles(a.lens, "train_inferred"),
}


def group_runs(results: Results, analysis: Analysis, by: str) -> list[str]:
    """A label per analysed run.

    Args:
      results: of the workdir.
      analysis: of it.
      by: a column of runs.csv, or "grokked": whether OOD answers reach 0.9 at the last step.

    Raises:
      UserError: there is no such column.
    """
    check_group_by(results, by)
    run_ids = analysis.lens.run.to_numpy()
    if by == "grokked":
        accuracy = analysis.last().lens.answer_accuracy.sel(type="test_inferred_ood").isel(step=0)
        named = {True: "grokked", False: "not grokked"}
        return ["unknown" if np.isnan(x) else named[x >= GROKKED_AT] for x in accuracy.to_numpy()]
    values = results.runs.set_index("run_id", drop=False)[by]
    return [str(values[run]) for run in run_ids]


def check_group_by(results: Results, by: str) -> None:
    """Refuses what runs cannot be grouped by, before anything is measured."""
    if by != "grokked" and by not in results.runs:
        known = ", ".join(["grokked", *results.runs.columns])
        raise UserError(f"--group-by={by}: no such column; choose of {known}")


def check_margin(margin: float) -> None:
    """Refuses what no distance can be compared with."""
    if not 0 < margin < np.inf:
        raise UserError(f"--margin={margin}: give a number above 0, a share of a path's size")


def report(
    results: Results,
    analysis: Analysis,
    folder: pathlib.Path,
    *,
    group_by: str = "regime",
    margin: float = MARGIN,
) -> str:
    """Writes every table and picture of an analysis, and says in a few lines what was found."""
    check_margin(margin)
    groups = group_runs(results, analysis, group_by)
    made = write_tables(analysis, groups, folder)
    pictures = write_figures(made, folder / "figures")
    identity, more = write_identity(analysis, groups, folder, margin)
    lines = [f"Path identity by {group_by} at step {int(analysis.lens.step[-1]):,}:"]
    lines += [f"  {_sentence(row)}" for row in identity.itertuples()]
    if not len(identity):
        lines.append(f"  only one group, {groups[0]}: nothing to compare")
    lines += [f"figure: {path}" for path in [*pictures, *more]]
    return "\n".join([*lines, f"tables: {folder}"])


def _sentence(row) -> str:
    start = f"{row.paths}, {row.group_a} (n = {row.n_a}) and {row.group_b} (n = {row.n_b}): "
    if np.isnan(row.distance):
        return start + "too few runs"
    return start + (
        f"distance {row.distance:.2f} [{row.distance_low:.2f}, {row.distance_high:.2f}] of the"
        f" path's size, seeds differ by {row.floor:.2f}, p = {row.p_value:.2f}: {row.verdict}"
        f" (margin {row.margin:g})"
    )


def write_tables(
    analysis: Analysis, groups: Sequence[str], folder: pathlib.Path
) -> dict[str, pd.DataFrame]:
    """Everything as tidy CSVs; events only where there are several steps."""
    made = {
        "patching_runs": tables.patching_by_run(analysis.patching),
        "lens_runs": tables.lens_by_run(analysis.lens),
        "patching": tables.patching_by_group(analysis.patching, groups),
        "lens": tables.lens_by_group(analysis.lens, groups),
        "rates": tables.rates_by_group(analysis.lens, groups),
    }
    if analysis.lens.sizes["step"] > 1:
        made |= {
            "causal_steps": movies.causal_steps(analysis.patching),
            "readable_steps": movies.readable_steps(analysis.lens),
            "events": movies.order_of_events(analysis.patching, analysis.lens),
        }
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return made


def write_figures(made: dict[str, pd.DataFrame], folder: pathlib.Path) -> list[pathlib.Path]:
    """Lens, patching and attribution at the last step, and the movies where there are several."""
    patching, lens = (t[t.step == t.step.max()] for t in (made["patching"], made["lens"]))
    pictures: dict[str, Picture] = {}
    for kind in ("test_inferred_ood", "test_inferred_iid", "train_inferred"):
        if (lens[lens.type == kind].num_seeds > 0).any():
            pictures[f"lens_{kind}"] = plots.lens_figure(lens, kind)
    for group in dict.fromkeys(patching.dropna(subset=["effect"]).group):
        for direction in dict.fromkeys(patching.direction):
            name = f"{group}_{direction}"
            streams = plots.patching_figure(patching, group, direction)
            blocks = plots.patching_figure(patching, group, direction, blocks=True)
            pictures |= {f"patching_{name}": streams, f"blocks_{name}": blocks}
        if "events" in made:
            pictures[f"movie_{group}"] = plots.movie_figure(made["patching"], group)
    pictures["attribution"] = comparisons.attribution_figure(patching)
    if "events" in made:
        pictures["order_of_events"] = comparisons.order_figure(made["events"])
    return [picture.save(folder / f"{name}.png") for name, picture in pictures.items()]


def write_identity(
    analysis: Analysis, groups: Sequence[str], folder: pathlib.Path, margin: float = MARGIN
) -> tuple[pd.DataFrame, list[pathlib.Path]]:
    """Path identity of the groups at the last step: `path_identity.csv` and its picture.

    Nothing to draw where fewer than two groups have two runs.
    """
    last = analysis.last()
    found, nulls = {}, {}
    # Runs of one seed share graph, pairs, initialisation and order, whatever their regime.
    blocks = [str(x) for x in last.lens.seeds.to_numpy()]
    for title, paths_of in _PATHS.items():
        paths = paths_of(last)
        found[title] = path_identity(paths, groups, blocks=blocks, margin=margin)
        nulls[title] = permuted_distances(paths, groups, blocks)
    joined = pd.concat([t.assign(paths=title) for title, t in found.items()], ignore_index=True)
    joined.to_csv(folder / "path_identity.csv", index=False)
    found = {title: t for title, t in found.items() if np.isfinite(t.distance).any()}
    if not found:
        return joined, []
    return joined, [
        comparisons.identity_figure(found, nulls).save(folder / "figures" / "path_identity.png")
    ]
