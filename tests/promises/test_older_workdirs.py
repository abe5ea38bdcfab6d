"""Workdirs that an older commit made are read, resumed and extended (tests/data/PROVENANCE.md)."""

import tarfile

import jax
import numpy as np
import pandas as pd
import pytest
from tiny import ROOT, tiny_config

import grokjax
from grokjax.cli import main
from grokjax.settings.rows import grid, product, seeds
from grokjax.sweeps.plan import read_plan

REGIMES = ("natural", "both_hop_full")
THEIRS = {"model__H_cycles": 2, "checkpoint__analysis_steps_per_decade": 1}


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """`population/`, two runs of 20 steps, and `sweep/`, one of whose populations is trained."""
    folder = tmp_path_factory.mktemp("15fac09")
    with tarfile.open(ROOT / "tests" / "data" / "workdirs" / "15fac09.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_checkpoints_are_good(older, capsys):
    for name in ("population", "sweep"):
        assert main(["checkpoints", str(older / name), "--verify"]) == 0
        assert "4 good, 0 damaged, 0 partial" in capsys.readouterr().out


def test_a_population_is_read_and_extended(older, tmp_path):
    read = grokjax.load(older / "population")
    assert read.runs.status.tolist() == ["done"] * 2 and set(read.curves.step) == {0, 10, 20}
    config = tiny_config(**THEIRS)
    config.runs = tuple(product(grid("data.regime", REGIMES), seeds(1)))
    fresh = grokjax.train_and_evaluate(config, tmp_path)
    assert fresh.runs.run_hash.tolist() == read.runs.run_hash.tolist()
    for step in (0, 10):
        close(read.parameters(1, step), fresh.parameters(1, step))
    last = read.parameters(1)
    close(last, read.parameters(1, 20))
    extended = grokjax.train_and_evaluate(config, older / "population")
    assert set(extended.curves.step) == {0, 10, 20, 30, 40}
    pd.testing.assert_frame_equal(extended.curves[extended.curves.step <= 20], read.curves)
    numbers = extended.curves.select_dtypes("number").columns
    # Before, the site of the strict path could be `Init`, where it is not looked for any more.
    old = [name for name in numbers if not name.endswith("_strict")]
    close(extended.curves[old].to_numpy(), fresh.curves[old].to_numpy())
    later = [curves[numbers][curves.step > 20] for curves in (extended.curves, fresh.curves)]
    close(*(curves.to_numpy() for curves in later))
    close(extended.parameters(1, 20), last)
    close(extended.parameters(1), fresh.parameters(1))


def test_a_sweep_goes_on_with_what_it_lacks(older):
    workdir = older / "sweep"
    plan, read = read_plan(workdir), grokjax.load(workdir)
    assert read.runs.status.tolist() == ["done"] * 2 + ["pending"] * 2
    config = tiny_config(train__num_steps=20, **THEIRS)
    rows = product(grid("model.hidden_size", (16, 32)), grid("optimizer.weight_decay", (0.0, 1.0)))
    swept = grokjax.run_sweep(config, list(rows), workdir)
    assert [p.run_hashes for p in read_plan(workdir).populations] == [
        p.run_hashes for p in plan.populations
    ]
    assert swept.runs.status.tolist() == ["done"] * 4
    columns = read.curves.columns  # what has been measured since is not known of older runs
    pd.testing.assert_frame_equal(swept.curves[swept.curves.run_id < 2][columns], read.curves)
    assert swept.parameters(3)["params"].keys() == read.parameters(1)["params"].keys()
