"""Draws the committed pictures again, from the tables that lie beside them.

`python tests/support/redraw.py` goes through `experiments/results`: a folder that holds a workdir's
`config.json`, `runs.csv` and `curves.csv` gets its report's pictures, tables and a picture of the
page (with Chromium); a stored table of the lens or of patching gets its heat map. What rests on
nothing that is stored here is left as it is: docs/results.md says which commit has drawn it.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

import pandas as pd
from tiny import ROOT

from grokjax.base.names import OOD_ACCURACY
from grokjax.report import write_report
from grokjax.report.analysis_figures import lens_figure, patching_figure
from grokjax.report.curves_figure import curves_figure
from grokjax.report.swept_figure import map_figure, swept_numbers
from grokjax.sweeps.results import load

RESULTS = ROOT / "experiments" / "results"
PICTURES = ("lag", "survival", "cost", "map", "report_curves")
TABLES = ("outcomes", "times", "order", "costs", "comparisons", "variance")


def redraw(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pictures of one folder of results that its tables suffice for."""
    drawn = []
    if (folder / "curves.csv").exists() and OOD_ACCURACY in pd.read_csv(folder / "curves.csv"):
        drawn += _report(folder)
    elif (folder / "outcomes.csv").exists():
        drawn += _map(folder)
    for table in sorted(folder.glob("lens_*.csv")):
        kind = table.stem.removeprefix("lens_")
        drawn.append(_beside(table, lens_figure(pd.read_csv(table), kind)))
    for table in sorted(folder.glob("patching_*ing.csv")):
        _, split, direction = table.stem.split("_")
        drawn.append(_beside(table, patching_figure(pd.read_csv(table), split, direction)))
    return drawn


def _report(folder: pathlib.Path) -> list[pathlib.Path]:
    found = load(folder)
    drawn = [folder / "curves.png"]
    drawn[0].write_bytes(curves_figure(found.runs, found.curves, "regime").png)
    with tempfile.TemporaryDirectory() as scratch:
        page = write_report(found, scratch)
        for name in PICTURES:
            if (picture := page.parent / "figures" / f"{name}.png").exists():
                drawn.append(shutil.copy(picture, folder))
        for name in TABLES:
            shutil.copy(page.parent / f"{name}.csv", folder)
        if chromium := shutil.which("chromium") or shutil.which("chromium-browser"):
            drawn.append(_photograph(chromium, page, folder / "report.png"))
    return drawn


def _map(folder: pathlib.Path) -> list[pathlib.Path]:
    """Of outcomes of before, at the levels that those were told at."""
    runs, outcomes = (pd.read_csv(folder / f"{name}.csv") for name in ("runs", "outcomes"))
    if len(swept_numbers(runs)) < 2:
        return []
    told = outcomes.rename(columns={"grokked": "answer_0.95", "path": "path_0.5"})
    return [map_figure(runs, told).save(folder / "map.png")]


def _photograph(chromium: str, page: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'profile'}", "--window-size=1200,3200",
        f"--screenshot={path}", f"file://{page}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return path


def _beside(table: pathlib.Path, picture) -> pathlib.Path:
    """The picture alone: its table stays as it is."""
    path = table.with_suffix(".png")
    path.write_bytes(picture.png)
    return path


if __name__ == "__main__":
    folders = [RESULTS / name for name in sys.argv[1:]] or sorted(RESULTS.iterdir())
    for each in folders:
        for made in redraw(each):
            print(pathlib.Path(made).relative_to(ROOT))
