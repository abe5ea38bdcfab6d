"""The report: its numbers on curves with known answers, its page in a browser."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.report import phase_diagram, training_tables
from grokjax.report.curves_figure import curves_figure
from grokjax.report.html import Page, Section, render
from grokjax.report.published import published_pretraining
from grokjax.report.survival_figure import survival_figure
from grokjax.report.training_runs import TrainingRuns, read_training
from grokjax.settings import default_config, product, seeds

STEPS = np.arange(0, 1001, 100)


def rises(at):
    return (at <= STEPS).astype(float)


def make_runs(rows):
    """Runs of (group, seed, status, memorises at, path at, groks at); inf is never."""
    runs, curves = [], []
    for run_id, (group, seed, status, memorised, path, grokked) in enumerate(rows):
        runs.append(
            {
                "run_id": run_id, "run_hash": f"{run_id}", "regime": group, "group": group,
                "seeds.data": seed, "status": status, "step": 1000 if status == "done" else 450,
                "flops_per_step": 10.0, "evaluation_flops": 5.0, "seconds_per_step": 0.01,
                "evaluation_seconds_per_step": 0.002,
            }
        )  # fmt: skip
        curves.append(
            pd.DataFrame(
                {
                    "run_id": run_id,
                    "step": STEPS,
                    "training_accuracy": rises(memorised),
                    "test_inferred_ood/bridge_found_strict": rises(path),
                    "test_inferred_ood/bridge_found": rises(path),
                    "test_inferred_ood/bridge_chance": 0.1,
                    "test_inferred_ood/answer_accuracy": rises(grokked),
                }
            )
        )
    origin = "hash h; d, jax j, commit c. Repeat: grokjax"
    nowhere, unknown = pathlib.Path("nowhere"), pd.DataFrame()
    return TrainingRuns(
        "x", nowhere, pd.DataFrame(runs), pd.concat(curves), default_config(), origin, unknown
    )


NEVER = math.inf
RUNS = make_runs([
    ("natural", 0, "done", 200, 500, 800),
    ("natural", 1, "done", 200, 600, NEVER),
    ("natural", 2, "diverged", NEVER, NEVER, NEVER),
    ("both", 0, "done", 200, 200, 400),
    ("both", 1, "done", 200, 300, 200),
    ("second", 0, "done", 200, NEVER, 600),
])  # fmt: skip


def test_times_count_whom_they_rest_on():
    table = training_tables.times_table(RUNS).set_index(["group", "event"])
    grok = table.loc[("natural", "grokked")]
    assert grok[["num_runs", "observed", "censored", "diverged"]].tolist() == [3, 1, 1, 1]
    # The diverged run ends at 450, before the only event: it competes, and cannot have it.
    assert grok.probability == pytest.approx(2 / 3 * 1 / 2)
    both = table.loc[("both", "grokked")]
    assert both.probability == 1.0 and both.mean_steps == pytest.approx(300)
    assert 0.3 < both.low < 0.4  # two of two runs, by Wilson
    # One group's training is shorter, but all of it got there: the others' means go on.
    short = dataclasses.replace(RUNS, curves=RUNS.curves[
        ~RUNS.curves.run_id.isin([3, 4]) | (RUNS.curves.step <= 600)
    ])  # fmt: skip
    again = training_tables.times_table(short).set_index(["group", "event"])
    assert again.loc[("natural", "grokked")].mean_steps == grok.mean_steps
    assert again.loc[("both", "grokked")].mean_steps == both.mean_steps
    assert math.isnan(grok.p_value) and 0 < both.p_value < 0.2


def test_a_survival_curve_ends_where_nobody_is_left_who_could():
    short = dataclasses.replace(RUNS, curves=RUNS.curves[
        ~RUNS.curves.run_id.isin([3, 4, 5]) | (RUNS.curves.step <= 600)
    ])  # fmt: skip
    drawn = survival_figure(short).data
    ends = drawn[drawn.event == "grokked"].groupby("group").time.max()
    assert ends.to_dict() == {"natural": 1000, "both": 1000, "second": 600}


def test_costs_are_of_those_who_got_there_paired_by_seed():
    table = training_tables.cost_table(RUNS, (0.95,)).set_index("group")
    assert table.reached.to_dict() == {"natural": 1, "both": 2, "second": 1}
    assert table.flops["natural"] == 8000 and table.flops["both"] == pytest.approx(3000)
    assert table.seconds["both"] == pytest.approx(3.0)
    assert table.evaluation_seconds["both"] == pytest.approx(0.6)
    assert table.ratio["both"] == pytest.approx(0.5) and table.num_pairs["both"] == 1  # seed 0
    assert math.isnan(table.ratio["natural"])


def test_crossed_seeds_share_the_variance():
    """Order decides when a run memorises, and nothing else does."""
    rows = [
        ("a", data, "done", 200 + 300 * order, 500, 600) for data in (0, 1) for order in (0, 1, 2)
    ]
    crossed = make_runs(rows)
    crossed.runs["seeds.order"] = [0, 1, 2] * 2
    table = training_tables.seed_variance(crossed).set_index("quantity")
    assert table.loc["memorised", "seeds.order"] == pytest.approx(1.0)
    assert table.loc["memorised", "seeds.data"] == 0.0 and table.num_runs.tolist() == [6, 6]
    together = make_runs(rows)
    together.runs["seeds.data"] = together.runs["seeds.order"] = range(6)
    assert not len(training_tables.seed_variance(together))


def test_the_published_run_is_drawn_where_the_setting_is_its_own():
    """And only there."""
    for changes, expected in (({}, True), ({"phi": 9.0}, False)):
        config = default_config()
        config.data.update(changes)
        data = dataclasses.replace(RUNS, config=config)
        paper = published_pretraining(data.config)
        assert (paper is not None) == expected
        figure = curves_figure(data.runs, data.curves, "group", paper=paper).figure
        labels = [line.get_label() for line in figure.axes[0].get_lines()]
        assert ("published run, training accuracy" in labels) == expected


def test_kinds_of_grokking():
    table = training_tables.grok_kinds(RUNS).set_index("group")
    assert table.true.to_dict() == pytest.approx({"natural": 1 / 3, "both": 1.0, "second": 0.0})
    assert table.fake.to_dict() == {"natural": 0.0, "both": 0.0, "second": 1.0}
    assert table.delay["natural"] == 600 and table.delay["both"] == pytest.approx(100)
    outcomes = RUNS.outcomes
    assert outcomes.flops_to_grok.tolist()[0] == 8000 and len(outcomes) == 6


def test_a_boundary_lies_between_what_happens_and_what_does_not():
    x = np.array([(a, b) for a in (0, 0.5, 1) for b in (0, 0.5, 1)] * 4, float)
    weights = phase_diagram.fit_boundary(x, (x.sum(axis=1) > 1.2).astype(float))
    p = 1 / (1 + np.exp(-phase_diagram._design(np.array([[0, 0], [0.5, 0.5], [1, 1]])) @ weights))
    assert p[0] < 0.1 and p[2] > 0.9 and p[0] < p[1] < p[2]
    assert phase_diagram.fit_boundary(x, np.ones(len(x))) is None


def test_phase_diagram_cells():
    rows = [
        (f"{a}/{b}", seed, "done", 200, 300 if a else NEVER, 400 if a and b else NEVER)
        for a in (0, 1)
        for b in (0, 1)
        for seed in (0, 1)
    ]
    data = make_runs(rows)
    assert not phase_diagram.has_phases(data)
    data.runs["data.hop1_ratio"] = [float(r[0].split("/")[0]) for r in rows]
    data.runs["data.hop2_ratio"] = [float(r[0].split("/")[1]) for r in rows]
    assert phase_diagram.has_phases(data)
    cells = phase_diagram.phase_diagram(data).data
    grok = cells[cells.kind == "P(grok at 0.95)"].pivot(
        index="data.hop1_ratio", columns="data.hop2_ratio", values="mean"
    )
    assert grok.to_numpy().tolist() == [[0, 0], [0, 1]]
    assert set(cells["size"]) == {2}
    mean = cells[cells.kind == "mean OOD accuracy at the end"]["mean"]
    assert mean.tolist() == [0, 0, 0, 1]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    config = tiny_config(train__num_steps=20, checkpoint__every=10)
    ratios = [
        {"data.hop1_ratio": a, "data.hop2_ratio": b, "data.hop1_k": 2, "data.hop2_k": 2}
        for a in (0.0, 1.0)
        for b in (0.0, 1.0)
    ]
    return grokjax.run_sweep(
        config, list(product(ratios, seeds(2))), tmp_path_factory.mktemp("swept") / "w"
    )


def test_the_page_holds_all_and_needs_nobody(swept, capsys):
    assert main(["report", str(swept.workdir)]) == 0
    page = (swept.workdir / "report.html").read_text()
    assert str(swept.workdir / "report.html") in capsys.readouterr().out
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,', page)
    assert len(images) == 4 and all(len(alt) > 20 for alt in images)
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    for expected in ("phase diagram", "Is it worthwhile?", "hop1_ratio 1", "jax 0."):
        assert expected in page
    for name in ("times", "costs", "grok_kinds", "outcomes", "machine"):
        assert len(pd.read_csv(swept.workdir / f"{name}.csv"))
    for picture in ("survival", "phase_diagram", "cost_benefit", "report_curves"):
        path = swept.workdir / "figures" / f"{picture}.png"
        assert matplotlib.image.imread(path).std() > 0.02 and path.with_suffix(".csv").exists()


def test_one_population_has_a_report_too(swept, tmp_path, capsys):
    folder = swept.workdir / "populations" / "000"
    assert main(["report", str(folder), f"--out={tmp_path / 'r'}"]) == 0
    assert (tmp_path / "r" / "report.html").exists() and not (folder / "report.html").exists()
    data = read_training(grokjax.load(folder))
    assert len(data.groups) == 4 and data.runs.seconds_per_step.notna().all()
    (took,) = data.machine.itertuples()
    assert min(took.training_seconds, took.evaluation_seconds, took.compile_seconds) > 0
    (session,) = json.loads((folder / "timing.json").read_text())
    device_seconds = (session["seconds"] - session["compile_seconds"]) * session["num_devices"]
    assert took.training_seconds + took.evaluation_seconds == pytest.approx(device_seconds)
    assert took.peak_bytes > 2**20
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_untrained_sweep_says_so(swept, tmp_path):
    (tmp_path / "plan.json").write_text((swept.workdir / "plan.json").read_text())
    with pytest.raises(UserError, match="nothing has been trained"):
        read_training(grokjax.load(tmp_path))


def test_text_is_escaped():
    page = render(
        Page(
            "<b>",
            "a & b",
            [Section("<i>", "x < y", (), [(pd.DataFrame({"<u>": ["<s>"]}), "")])],
            {},
        )
    )
    assert "<b>" not in page and "&lt;s&gt;" in page and "a &amp; b" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_shows_it(swept, tmp_path, width):
    """At a desk's and a phone's width, offline: text and every picture are painted."""
    main(["report", str(swept.workdir), f"--out={tmp_path}"])
    shot = tmp_path / "shot.png"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},3000", f"--screenshot={shot}", f"file://{tmp_path / 'report.html'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = matplotlib.image.imread(shot)[..., :3]
    assert pixels.shape[1] == pytest.approx(max(width, 500), abs=100)
    # Something is painted in every tenth of the page's upper 2,000 pixels.
    assert all(part.std() > 0.02 for part in np.array_split(pixels[:2000], 10))
