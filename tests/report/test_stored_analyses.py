"""Analyses that were stored, on a training's page: path identity over populations too."""

import contextlib
import dataclasses
import io
import shutil

import pandas as pd
import pytest
from conftest import tiny_config

import grokjax
from grokjax.analysis import load_analysis
from grokjax.cli import main
from grokjax.data.composition import COMPOSITION
from grokjax.report.path_identity_section import Analysed, comparable
from grokjax.report.stored_analyses import across_populations
from grokjax.settings import grid, product, seeds

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two regimes of two seeds each, a population for each regime."""
    config = tiny_config(train__num_steps=20, checkpoint__every=10)
    config.sweep.runs_per_population = 2
    rows = list(product(grid("data.regime", ("natural", "both_hop_full")), seeds(2)))
    return grokjax.run_sweep(config, rows, tmp_path_factory.mktemp("swept") / "w")


def analyze(swept, *options):
    return main(["analyze", f"--workdir={swept.workdir}", "--pairs=4", "--no-null", *options])


@pytest.fixture(scope="module")
def printed(swept):
    """Both populations, analysed; what that said."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert analyze(swept) == 0
    return out.getvalue()


def test_regimes_of_two_populations_are_compared(swept, printed):
    assert list(swept.populations()) == ["000", "001"]
    assert printed.count("across populations:") == 1
    told = printed.partition("across populations:")[2]
    assert "effects on ID queries, natural (n = " in told and "both_hop_full (n = " in told
    assert main(["report", str(swept.workdir)]) == 0
    identity = pd.read_csv(swept.workdir / "path_identity.csv")
    assert set(identity.group_a) == {"natural"} and set(identity.group_b) == {"both_hop_full"}
    by_lens = identity[identity.reading == "lens"]
    assert (by_lens.num_pairs == 2).all() and by_lens.paired.all()
    pairs = pd.read_csv(swept.workdir / "path_pairs.csv")
    pairs = pairs[pairs.reading == "lens"]
    assert set(zip(pairs.run_a, pairs.run_b, strict=True)) == {(0, 2), (1, 3)}  # the sweep's ids
    page = (swept.workdir / "report.html").read_text()
    assert page.count("<h2>Do groups answer along the same path?") == 1
    assert page.count("<h2>What patches carry (population 00") == 2
    assert "Same path, natural and both_hop_full?" in page


def test_what_was_not_asked_alike_is_not_compared(swept, printed):
    (both,) = across_populations(grokjax.load(swept.workdir), 0.25)
    assert "cannot be compared" not in both.section.text
    analyses = [load_analysis(results) for results in swept.populations().values()]
    first, second = (
        Analysed(f"{i}", a, ["a"] * 2, [0, 1], COMPOSITION) for i, a in enumerate(analyses)
    )
    assert [len(own) for own in comparable([first, second])] == [2]
    settings = dict(second.analysis.settings) | {"num_pairs": 8}
    other = second._replace(analysis=dataclasses.replace(second.analysis, settings=settings))
    assert [len(own) for own in comparable([first, other])] == [1, 1]
    lens = second.analysis.lens.isel(stage=slice(1))
    fewer = second._replace(analysis=dataclasses.replace(second.analysis, lens=lens))
    assert [len(own) for own in comparable([first, fewer])] == [1, 1]


def test_a_population_that_was_not_analysed_is_told(swept, tmp_path):
    assert analyze(swept, "--runs=0,1", f"--out={tmp_path}") == 0
    found = grokjax.load(swept.workdir)
    (only,) = across_populations(found, 0.25, tmp_path)
    assert "Not analysed, and not compared: both_hop_full." in only.section.text
    assert "One group was analysed" in only.findings[0].text and not only.lines


def test_a_population_that_diverged_does_not_stop_the_others(swept, tmp_path, capsys):
    workdir = tmp_path / "w"
    shutil.copytree(swept.workdir, workdir)
    for folder in (workdir / "populations").glob("*/analysis"):
        shutil.rmtree(folder)
    runs = workdir / "populations" / "000" / "runs.csv"
    pd.read_csv(runs).assign(status="diverged").to_csv(runs, index=False)
    options = ("--pairs=4", "--no-null")
    assert main(["analyze", f"--workdir={workdir}", *options]) == 0
    text = capsys.readouterr().out
    assert "population 000:\nnot analysed: all of its runs have diverged" in text
    assert "Path identity by regime" in text.partition("population 001:")[2]
    assert main(["analyze", f"--workdir={runs.parent}", *options]) == 2
    error = capsys.readouterr().err
    assert "all of its runs have diverged" in error and error.count("\n") == 1
    assert main(["report", str(workdir)]) == 0
    assert "Not analysed, and not compared: natural." in (workdir / "report.html").read_text()


def test_other_settings_leave_two_comparisons(swept, tmp_path):
    """Each population by itself then, and each says why."""
    for run, weights in (("0,1", "ema"), ("2,3", "raw")):
        assert analyze(swept, f"--runs={run}", f"--weights={weights}", f"--out={tmp_path}") == 0
    first, second = across_populations(grokjax.load(swept.workdir), 0.25, tmp_path)
    assert "Population 001 has other stages" in first.section.text
    assert "Population 000 has other stages" in second.section.text
    assert set(first.tables) == {"path_identity_000", "path_pairs_000"}
