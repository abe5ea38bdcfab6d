"""Sweeps: planned once, trained once, grown later; a failure stops nobody else."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from tiny import PYTHONPATH, fast, rows

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.settings import read_experiment
from grokjax.settings.identity import settings_hash
from grokjax.settings.rows import expand
from grokjax.sweeps import planner as plan
from grokjax.sweeps import runner as sweeps
from grokjax.sweeps.plan import Plan, population_state, read_plan, write_plan
from grokjax.sweeps.planner import extend_plan
from grokjax.training.population import Population


def test_traced_settings_share_a_population_and_static_ones_do_not():
    plan = extend_plan(plan_of(), fast(), rows(2, (16, 32), (1e-3, 2e-3)))
    assert [len(p.run_hashes) for p in plan.populations] == [4, 4]
    assert [p.config.model.hidden_size for p in plan.populations] == [16, 32]
    for population in plan.populations:
        hashes = [settings_hash(run) for run in expand(population.config)]
        assert hashes == list(population.run_hashes)
    assert len(plan.run_hashes) == 8


def plan_of(*populations):
    return Plan(populations)


def test_a_population_is_cut_to_what_is_declared():
    config = fast()
    config.sweep.runs_per_population = 3
    planned = extend_plan(plan_of(), config, rows(8))
    assert [len(p.run_hashes) for p in planned.populations] == [3, 3, 2]
    assert [p.name for p in planned.populations] == ["000", "001", "002"]
    # How it is cut is nobody's identity: cut otherwise, no row is new.
    config.sweep.runs_per_population = 8
    assert extend_plan(planned, config, rows(8)) == planned


def test_equal_rows_are_planned_once_and_new_ones_appended():
    first = extend_plan(plan_of(), fast(), rows(2) + rows(2))
    assert [len(p.run_hashes) for p in first.populations] == [2]
    more = extend_plan(first, fast(), rows(4, (16, 32)))
    assert more.populations[0] == first.populations[0]
    assert [len(p.run_hashes) for p in more.populations] == [2, 2, 4]
    # A row that is no longer asked for stays; more steps reach those that are.
    longer = extend_plan(more, fast(), rows(1))
    assert longer == more
    config = fast()
    config.train.num_steps = 40
    longer = extend_plan(more, config, rows(2))
    assert [p.config.train.num_steps for p in longer.populations] == [40, 20, 20]


def test_memory_suggests_how_many_fit(monkeypatch):
    config = fast()
    small = plan.suggest_runs(config)
    assert 1 <= small <= 1024
    monkeypatch.setattr(plan, "_MEMORY_SHARE", 10.5 * plan.run_bytes(config) / total_memory())
    assert plan.suggest_runs(config) == 10
    monkeypatch.setattr(plan, "_MEMORY_SHARE", 1e-12)
    assert plan.suggest_runs(config) == 1
    config.model.hidden_size = 64
    assert plan.run_bytes(config) > plan.run_bytes(fast())


def total_memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_plan_survives_its_file(tmp_path):
    config = fast(data__phi=float("inf"))
    planned = extend_plan(plan_of(), config, rows(2, (16, 32)))
    write_plan(tmp_path, planned)
    again = read_plan(tmp_path)
    assert [p.run_hashes for p in again.populations] == [p.run_hashes for p in planned.populations]
    assert [p.config.to_dict() for p in again.populations] == [
        p.config.to_dict() for p in planned.populations
    ]
    for damage in ("{", "[]", '{"schema_version": 1}', '{"schema_version": 9, "populations": []}'):
        (tmp_path / "plan.json").write_text(damage)
        with pytest.raises(UserError, match="in a new workdir"):
            read_plan(tmp_path)


def test_a_bad_row_is_named_before_anything_is_written(tmp_path):
    for row, message in (
        ({"model.hiden_size": 16}, "hidden_size"),
        ({"model.hidden_size": 17}, "num_heads"),
        ({"optimizer.learning_rate": -1.0}, "learning_rate"),
    ):
        with pytest.raises(UserError, match=message):
            sweeps.run_sweep(fast(), [row], tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_sweep_trains_what_is_missing_and_gathers_all(tmp_path, capsys):
    workdir = tmp_path / "w"
    first = grokjax.run_sweep(fast(), rows(2), workdir)
    assert first.runs.status.tolist() == ["done"] * 2
    trained = {p: p.stat().st_mtime_ns for p in workdir.rglob("curves.csv")}

    grown = grokjax.run_sweep(fast(), rows(3, (16, 32)), workdir)
    assert {p: p.stat().st_mtime_ns for p in trained} == trained  # not trained again
    assert grown.runs.run_id.tolist() == [0, 1, 2, 3, 4, 5]
    assert grown.runs["model.hidden_size"].tolist() == [16, 16, 16, 32, 32, 32]
    assert grown.runs["seeds.init"].tolist() == [0, 1, 2, 0, 1, 2]
    assert grown.runs.population.tolist() == ["000"] * 2 + ["001"] + ["002"] * 3
    own, own_id = grown.locate(4)
    x = own.curves[own.curves.run_id == own_id].reset_index(drop=True)
    y = grown.curves[grown.curves.run_id == 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(x.drop(columns="run_id"), y.drop(columns="run_id"))

    assert grown.run_config(4) == own.run_config(own_id)
    same = (r.weights(i)[0]["embed"] for r, i in ((grown, 4), (own, own_id)))
    np.testing.assert_array_equal(*same)
    mixed = grown.stacked_weights([2, 0, 2, 1])[0]["embed"]  # of two populations
    np.testing.assert_array_equal(mixed, [grown.weights(i)[0]["embed"] for i in (2, 0, 2, 1)])
    with pytest.raises(UserError, match="has runs 0 to 5"):
        grown.dataset(6)
    with pytest.raises(UserError, match="has runs 0 to 5"):
        grown.stacked_weights([0, 6])

    stored = pd.read_parquet(workdir / "curves.parquet")
    pd.testing.assert_frame_equal(stored, grown.curves)
    assert (
        pd.read_csv(workdir / "runs.csv").run_hash.astype(str).tolist()
        == grown.runs.run_hash.tolist()
    )
    loaded = grokjax.load(workdir)
    pd.testing.assert_frame_equal(loaded.runs, grown.runs)
    capsys.readouterr()
    grokjax.run_sweep(fast(), rows(3, (16, 32)), workdir)
    assert "step" not in capsys.readouterr().out.replace("steps", "")


def test_a_member_trains_as_it_would_alone(tmp_path):
    swept = grokjax.run_sweep(fast(), rows(2, rates=(1e-3, 2e-3)), tmp_path / "w")
    row = swept.runs.iloc[3]
    config = fast(optimizer__learning_rate=row["optimizer.learning_rate"])
    config.seeds.update({k: int(row[f"seeds.{k}"]) for k in ("data", "init", "order")})
    alone = grokjax.train_and_evaluate(config, tmp_path / "alone")
    own = swept.curves[swept.curves.run_id == 3]
    np.testing.assert_allclose(own.loss, alone.curves.loss, rtol=1e-4)


def test_a_failure_stops_nobody_else_and_is_tried_again(tmp_path, monkeypatch):
    workdir, real = tmp_path / "w", sweeps.train

    def broken(config, folder, **options):
        if pathlib.Path(folder).name == "000":
            raise MemoryError("no room\nat all")
        return real(config, folder, **options)

    monkeypatch.setattr(sweeps, "train", broken)
    with pytest.raises(sweeps.SweepFailed, match=r"1 of 2 populations failed: 000 \(no room\)"):
        sweeps.run_sweep(fast(), rows(1, (16, 32)), workdir)
    found = grokjax.load(workdir)
    assert found.runs.status.tolist() == ["pending", "done"]
    states = [population_state(workdir, p) for p in found.plan.populations]
    assert states == ["failed", "done"]
    assert "MemoryError" in (workdir / "populations" / "000" / "error.txt").read_text()
    monkeypatch.setattr(sweeps, "train", real)
    assert sweeps.run_sweep(fast(), rows(1, (16, 32)), workdir).runs.status.tolist() == ["done"] * 2
    assert not (workdir / "populations" / "000" / "error.txt").exists()


EXPERIMENT = '''"""A sweep over a static setting."""
from conftest import tiny_config
from grokjax.settings import grid, product, seeds

def get_config():
    return tiny_config(train__num_steps=20, checkpoint__every=10)

def sweep(add):
    for row in product(grid("model.hidden_size", (16, 32)), seeds(1)):
        add(row)
'''


def test_the_command(tmp_path, capsys):
    file = tmp_path / "x.py"
    file.write_text(EXPERIMENT)
    workdir = tmp_path / "w"
    options = ["sweep", f"--config={file}", f"--workdir={workdir}"]
    assert main([*options, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 populations, 2 runs" in text and "model.hidden_size=32" in text
    assert not workdir.exists()
    assert main([*options, "--config.train.num_steps=10"]) == 0
    assert main([*options, "--dry-run"]) == 0
    assert "partial" in capsys.readouterr().out  # twenty steps are asked for now
    assert main(options) == 0
    assert grokjax.load(workdir).runs.step.tolist() == [20, 20]
    assert main(["train", f"--config={file}", f"--workdir={tmp_path / 't'}"]) == 2
    assert "grokjax sweep" in capsys.readouterr().err
    assert main(["sweep", f"--config={file}", f"--workdir={workdir / 'populations' / '000'}"]) == 2
    assert "a folder of its own" in capsys.readouterr().err


def test_a_sweep_that_ends_at_once_goes_on_to_the_same_table(tmp_path, monkeypatch, capsys):
    """The short form of the next: no time to save, in the middle of the second population."""
    asked = fast(), rows(2)
    asked[0].sweep.runs_per_population = 1  # two of one shape: compiled once
    expected = grokjax.run_sweep(*asked, tmp_path / "undisturbed")
    real, calls = Population.train, []

    def killed(self, state, num_steps):
        calls.append(num_steps)
        if len(calls) == 8:  # its last chunk; the checkpoint is a chunk older
            raise SystemExit(137)
        return real(self, state, num_steps)

    with monkeypatch.context() as m:
        m.setattr(Population, "train", killed)
        with pytest.raises(SystemExit):
            grokjax.run_sweep(*asked, tmp_path / "w")
    written = (tmp_path / "w" / "populations" / "000" / "curves.csv").stat().st_mtime_ns
    states = [population_state(tmp_path / "w", p) for p in read_plan(tmp_path / "w").populations]
    assert states == ["done", "partial"]
    capsys.readouterr()
    found = grokjax.run_sweep(*asked, tmp_path / "w")
    assert "001: resuming at step 10" in capsys.readouterr().out
    assert (tmp_path / "w" / "populations" / "000" / "curves.csv").stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(found.curves, expected.curves)
    pd.testing.assert_frame_equal(found.runs, expected.runs)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_table(tmp_path):
    """kill -9 in the middle of a population; the same command; the table of an undisturbed one."""
    file = tmp_path / "x.py"
    file.write_text(EXPERIMENT.replace("train__num_steps=20", "train__num_steps=200"))
    command = [
        sys.executable, "-m", "grokjax", "sweep", f"--config={file}", f"--workdir={tmp_path / 'w'}"
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": PYTHONPATH}
    curves = tmp_path / "w" / "populations" / "000" / "curves.csv"
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (curves.exists() and curves.read_text().count("\n") > 8):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    killed_at = pd.read_csv(curves).step.max()
    assert killed_at < 200
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, timeout=240)
    config, rows = read_experiment(str(file))
    expected = grokjax.run_sweep(config, rows, tmp_path / "undisturbed")
    found = grokjax.load(tmp_path / "w")
    pd.testing.assert_frame_equal(found.curves, expected.curves)
    pd.testing.assert_frame_equal(found.runs, expected.runs)


def test_what_waits_is_named_as_its_task_names_it(tmp_path):
    """As it will be once it is trained: by the operation, or its own hop numbers."""
    config = fast(data__task="modular", data__modulus=7, model__kind="decoder")
    sweeps.run_sweep(config, rows(1, (16, 32)), tmp_path / "m", plan_only=True)
    assert grokjax.load(tmp_path / "m").runs.regime.tolist() == ["add", "add"]
    both = {"data.hop1_ratio": 1.0, "data.hop2_ratio": 1.0}
    sweeps.run_sweep(fast(), [both], tmp_path / "c", plan_only=True)
    assert grokjax.load(tmp_path / "c").runs.regime.tolist() == ["h1ratio1_h1k0_h2ratio1_h2k0"]
