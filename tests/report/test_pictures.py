"""Pictures: what is drawn of few and of many runs, in the hard shapes, on a screen and on paper."""

import dataclasses
import itertools
import math

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from fabricated import Course, by_ratios, by_regime, fabricate, ratios, regimes
from fitting import laid_out, texts_outside, texts_that_overlap
from matplotlib.collections import PolyCollection

from grokjax.analysis.path_identity import LENS, PATCHING, Paths, compare_paths
from grokjax.cli import main
from grokjax.data.graph import REGIMES
from grokjax.report import swept_figure, training_page
from grokjax.report.curves_figure import curves_figure
from grokjax.report.lag_figure import lag_figure
from grokjax.report.own_metrics import metrics_section, metrics_table
from grokjax.report.panels import Panels, lines
from grokjax.report.path_identity_figure import path_identity_figure
from grokjax.report.style import PAPER, looking, styles
from grokjax.report.training_runs import read_training
from grokjax.settings import grid, product, seeds
from grokjax.sweeps.results import load

FIVE = tuple(REGIMES)


def drawn(num_runs, ends=None):
    """Axis and artists of so many runs' curves, run i from 0 to 10 + i."""
    ends = ends or [4] * num_runs
    runs = pd.concat(
        pd.DataFrame({"run_id": i, "step": range(end + 1), "x": np.arange(end + 1.0) + i})
        for i, end in enumerate(ends)
    )
    (axis,) = Panels(1, 1, 3, 3)
    lines(axis, runs, "x", unit=1.0, label="x", color="black")
    bands = [c for c in axis.collections if isinstance(c, PolyCollection)]
    return axis.get_lines(), bands


@pytest.mark.parametrize(
    ("num_runs", "thin", "bands"), [(1, 0, 0), (2, 2, 0), (9, 9, 0), (10, 0, 1), (100, 0, 2)]
)
def test_few_runs_are_lines_and_many_are_bands(num_runs, thin, bands):
    found, filled = drawn(num_runs)
    assert len(found) == thin + 1 and len(filled) == bands
    *_, median = found
    assert median.get_label() == "x"
    np.testing.assert_allclose(median.get_ydata(), np.arange(5) + (num_runs - 1) / 2)


def test_a_median_goes_as_far_as_all_runs_do():
    found, _ = drawn(3, ends=[2, 4, 6])
    *thin, median = found
    assert [len(line.get_xdata()) for line in thin] == [3, 5, 7]
    assert np.isfinite(median.get_ydata()).tolist() == [True] * 3 + [False] * 4


def test_a_regime_looks_the_same_on_every_page():
    all_of_them = styles(FIVE)
    for some in itertools.permutations(FIVE, 2):
        assert styles(some) == {name: all_of_them[name] for name in some}
    others = styles(["x", "natural", "y"])
    assert others["natural"] == all_of_them["natural"]
    for key in ("color", "linestyle", "marker"):  # told apart without colours, too
        assert len({str(style[key]) for style in all_of_them.values()}) == 5
    assert len({tuple(map(str, s.values())) for s in styles(map(str, range(36))).values()}) == 36


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The hard shapes: five regimes, nine cells, many runs a group, one swept number, three."""
    folder = tmp_path_factory.mktemp("shapes")
    rates, decays = (grid(f"optimizer.{n}", (0.1, 0.3)) for n in ("learning_rate", "weight_decay"))
    three = list(product(rates, decays, grid("data.phi", (2.0, 3.0)), seeds(2)))

    def simple(settings, rng):
        return Course(2000, 3000, 4000 + 500 * settings["seeds.data"])

    made = {
        "five": (regimes(3), by_regime),
        "nine": (ratios(2), by_ratios),
        "many": (regimes(100, FIVE), by_regime),
        "one_number": (list(product(grid("data.phi", (1.0, 2.0, 3.0)), seeds(3))), simple),
        "three_numbers": (three, simple),
    }
    paths = {n: fabricate(folder / n / n, rows, story) for n, (rows, story) in made.items()}
    return {name: read_training(load(path)) for name, path in paths.items()}


@pytest.mark.parametrize("shape", ["five", "nine", "many", "one_number", "three_numbers"])
def test_every_picture_of_a_report_can_be_read(shapes, shape):
    """No text is cut off, and no title runs into its neighbour: on a screen and on paper."""
    page = training_page.page(shapes[shape])
    shown = [picture for section in page.sections for picture in section.pictures]
    names = {picture.name for picture in shown}
    assert {"report_curves", "lag", "survival", "cost"} <= names
    for picture in shown:
        figure = laid_out(picture.draw().figure)
        assert not texts_outside(figure), picture.name
        assert not texts_that_overlap(figure), picture.name
        assert figure.get_figwidth() <= 16
    with looking(PAPER):
        for picture in shown:
            figure = laid_out(picture.draw().figure)
            assert any(math.isclose(figure.get_figwidth(), wide) for wide in PAPER.widths)
            assert not texts_that_overlap(figure) or shape in ("nine", "three_numbers")


def test_curves_of_500_runs_have_no_line_per_run(shapes):
    data = shapes["many"]
    figure = curves_figure(data.runs, data.curves, "group").figure
    assert len(data.runs) == 500
    assert max(len(axis.get_lines()) for axis in figure.axes) <= 6
    assert all("n = 100" in axis.get_title() for axis in figure.axes[:3])


def test_curves_that_are_compared_have_one_scale(shapes):
    figure = curves_figure(shapes["five"].runs, shapes["five"].curves, "group").figure
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 10  # answers and path of five regimes
    assert len({axis.get_xlim() for axis in shown}) == len({axis.get_ylim() for axis in shown}) == 1
    labels = {line.get_label() for axis in shown for line in axis.get_lines()}
    assert {"held-out ID accuracy", "OOD bridge at its site", "anywhere, by chance"} <= labels


def test_own_metrics_are_in_words_and_of_one_scale(shapes):
    """Of each metric: its probe types are compared, and far values are written out."""
    data = shapes["five"]
    rng = np.random.default_rng(0)
    kinds = ("id_atomic", "test_inferred_ood")
    values = {
        f"{kind}/{name}": offset + i + 1e-4 * rng.normal(size=len(data.curves))
        for name, offset in (("answer_rank", 2.0), ("answer_log_probability", -200.0))
        for i, kind in enumerate(kinds)
    }
    config = data.config.copy_and_resolve_references()
    config.evaluate.metrics = "answer_rank, answer_log_probability"
    data = dataclasses.replace(data, curves=data.curves.assign(**values), config=config)
    section = metrics_section(data, metrics_table(data), data.groups[:2])
    figure = section.pictures[0].draw().figure
    figure.draw_without_rendering()
    shown = [axis for axis in figure.axes if axis.get_visible()]
    titles = [axis.get_title().replace("\n", " ") for axis in shown]
    assert titles[:2] == ["answer rank, ID facts", "answer rank, OOD compositions"]
    limits = [axis.get_ylim() for axis in shown]
    assert limits[0] == limits[1] != limits[2] == limits[3]
    assert not any(axis.yaxis.get_offset_text().get_text() for axis in shown)
    empty = metrics_table(dataclasses.replace(data, runs=data.runs.iloc[:0]))
    assert not len(empty) and list(empty) == list(metrics_table(data))


def test_distances_of_paths_have_one_scale_that_cuts_off_nothing():
    """A kind of path whose pairs are far apart stands beside one whose pairs are near."""
    rng = np.random.default_rng(0)
    near = 1 + 0.05 * rng.normal(size=(8, 20))
    kinds = {"near": Paths(PATCHING, near), "far": Paths(LENS, rng.normal(size=(8, 20)))}
    found = compare_paths(kinds, ["a"] * 4 + ["b"] * 4, blocks=[*"0123"] * 2)
    figure = path_identity_figure(found.table, found.pairs).figure
    shown = [axis for axis in figure.axes if axis.get_visible()]
    (limits,) = {axis.get_xlim() for axis in shown}
    assert limits[0] < 0 and limits[1] > found.pairs.distance.max() > 1 > limits[1] / 4
    assert limits[1] > found.table.floor_max.max()
    assert found.table.margin.iloc[0] < limits[1]


def test_lags_are_points_and_arrows(shapes):
    outcomes = shapes["five"].outcomes
    figure = lag_figure(outcomes, ["natural", "both_hop_full"]).figure
    axis = figure.axes[0]
    points = [line for line in axis.get_lines() if line.get_marker() in ("o", "^", "s")]
    arrows = [line for line in axis.get_lines() if line.get_marker() in ("<", ">")]
    natural = outcomes[outcomes.group.isin(["natural", "both_hop_full"])]
    assert sum(len(line.get_xdata()) for line in points) == np.isfinite(natural["lag_0.5"]).sum()
    # both_hop_full answers without a path: each of its runs is a bound on the left.
    assert sum(len(a.get_xdata()) for a in arrows if a.get_marker() == "<") == 3
    assert all((a.get_xdata() < 0).all() for a in arrows if a.get_marker() == "<")


def test_swept_numbers_and_what_goes_with_them():
    runs = pd.DataFrame(
        {
            "regime": "natural", "seeds.data": [0, 1] * 4, "data.phi": [1.0, 2.0, 3.0, 4.0] * 2,
            "optimizer.learning_rate": [1e-3] * 4 + [1e-2] * 4,
            "optimizer.warmup_steps": [10] * 4 + [20] * 4,  # goes with the rate
            "model.hidden_size": 16, "optimizer.orthograd": [True, False] * 4,
        }
    )  # fmt: skip
    numbers = swept_figure.swept_numbers(runs)
    assert sorted(numbers) == ["data.phi", "optimizer.learning_rate"]
    assert set(swept_figure.facets(runs, numbers)) == {"orthograd on", "orthograd off"}


def test_a_map_of_any_two_numbers(shapes):
    data = shapes["nine"]
    table = swept_figure.map_figure(data.runs, data.outcomes).data
    cell = table.set_index(["quantity", "data.hop1_ratio", "data.hop2_ratio"])
    assert set(table.n) == {2} and len(table) == 4 * 9
    answered = cell.loc[("answers at 0.95", 1.0, 1.0)]
    assert (answered["count"], answered.value) == (2, 1.0)
    assert answered.low == pytest.approx(0.342, abs=1e-3) and answered.interval == "wilson"
    accuracy = cell.loc[("OOD accuracy at the end", 0.0, 0.0)]
    runs = data.outcomes[data.outcomes.group == data.outcomes.group.iloc[0]].final_ood_accuracy
    assert (accuracy.low, accuracy.high) == (runs.min(), runs.max())
    three = shapes["three_numbers"]
    facets = swept_figure.map_figure(three.runs, three.outcomes).data.facet
    assert facets.nunique() == 2 and len(facets) == 4 * 8
    one = shapes["one_number"]
    assert len(swept_figure.strip_figure(one.runs, one.outcomes).data) == 4 * 3


def test_paper_gets_pdf_and_png_of_a_column_or_a_page(tmp_path, capsys):
    path = fabricate(tmp_path / "w", regimes(2, ("natural", "both_hop_full")), by_regime)
    assert main(["report", str(path), "--figures=paper"]) == 0
    folder = path / "figures" / "paper"
    names = {file.stem for file in folder.glob("*.pdf")}
    assert {"report_curves", "lag", "survival", "cost"} <= names
    for name in names:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        width = matplotlib.image.imread(folder / f"{name}.png").shape[1] / 300
        assert any(math.isclose(width, wide, abs_tol=0.02) for wide in PAPER.widths)
    capsys.readouterr()
    assert main(["report", str(path), "--figures=poster"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
