"""What is submitted, what runs here, and what a workdir says about it."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, tiny_config
from launching import ENVIRONMENT, beat, planned, rows_of

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main as grokjax_main
from grokjax.data.loading import load_datasets
from grokjax.runtime import heartbeat
from grokjax.settings import seeds
from grokjax.settings.rows import expand
from grokjax.sweeps.plan import Plan, population_folder, read_plan, write_plan
from grokjax.sweeps.planner import checkpoint_bytes
from grokjax.training.population import Population
from grokjax.training.stored_weights import analysis_weights
from grokjax.workdir.checkpoints import Checkpoints, log_spaced_steps
from launch import books, local, preflight, status, submit
from launch.__main__ import main
from launch.job import Job

pytestmark = pytest.mark.usefixtures("workers_environment")


def test_launching_does_not_import_jax():
    """A cluster's login node: plans are read, jobs rendered and followed without JAX."""
    modules = [p.stem for p in (ROOT / "launch").glob("*.py") if p.stem != "__init__"]
    assert {"slurm", "gke", "local", "status", "worker", "__main__"} <= set(modules)
    code = f"import sys\nfor m in {modules}: __import__('launch.' + m)\nprint('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# This machine


def launched(workdir, *options):
    command = [sys.executable, "-m", "launch", "local", f"--workdir={workdir}", *options]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_local_workers_stop_on_ctrl_c_and_go_on(tmp_path, capsys):
    """Two workers on their own cores, Ctrl-C, the same command: the tables of no interruption."""
    workdir = tmp_path / "w"
    often = {"train__eval_every": 50, "checkpoint__every": 50, "train__chunk_steps": 10}
    plan = planned(workdir, train__num_steps=800, **often)
    process = launched(workdir, "--workers=2")
    wait_for(lambda: any(row.checkpoint for row in rows_of(workdir)))
    assert main(["local", f"--workdir={workdir}"]) == 2  # not both at once
    assert "another launcher is at work" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "saved; the same command goes on" in out
    rows = rows_of(workdir)
    assert all(row.state in ("stopped", "pending") and not row.is_taken for row in rows)
    stopped = [row.population for row in rows if 0 < (row.checkpoint or 0) < 800]
    assert stopped
    for name in stopped:  # by which a scheduler's script knows that it may start again
        assert heartbeat.read_beat(population_folder(workdir, name)).state == heartbeat.SAVED

    assert main(["local", f"--workdir={workdir}", "--workers=2"]) == 0
    assert main(["status", str(workdir)]) == 0
    assert "2 done" in capsys.readouterr().out
    assert main(["local", f"--workdir={workdir}"]) == 0
    assert "0 rows to submit" in capsys.readouterr().out
    # The workers wrote no table of the whole sweep; whoever reads gathers it.
    assert not (workdir / "curves.parquet").exists()
    found = grokjax.load(workdir)
    own = grokjax.train_and_evaluate(plan.populations[0].config, tmp_path / "own")
    pd.testing.assert_frame_equal(found.population("000").curves, own.curves)
    assert found.runs.status.tolist() == ["done"] * 2


def test_a_failed_row_is_named_and_retried(tmp_path, capsys):
    """Its folder holds something else at first."""
    workdir = tmp_path / "w"
    planned(workdir, widths=(16,))
    folder = population_folder(workdir, "000")
    folder.mkdir(parents=True)
    (folder / "curves.csv").write_text("of whom?\n")
    assert main(["local", f"--workdir={workdir}"]) == 1
    assert "population 000: failed with exit code 1" in capsys.readouterr().out
    assert rows_of(workdir)[0].state == "failed"
    assert "has curves.csv but no config.json" in (folder / "error.txt").read_text()
    (folder / "curves.csv").unlink()
    assert main(["retry", str(workdir)]) == 0
    assert "1 row to submit" in capsys.readouterr().out
    assert rows_of(workdir)[0].state == "done"
    assert main(["retry", str(workdir)]) == 0
    assert "nothing has failed" in capsys.readouterr().out
    assert main(["retry", str(workdir), "--population=000"]) == 2
    assert "has not failed" in capsys.readouterr().err


def test_devices_are_shared_out(monkeypatch):
    monkeypatch.setattr(local, "_devices", lambda: ("gpu", [0, 1, 2, 3]))
    assert [s.ids for s in local.device_sets()] == [(0,), (1,), (2,), (3,)]
    sets = local.device_sets(2)
    assert [s.environment for s in sets] == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    assert "--devices=gpu:2" in sets[0].worker(Job(pathlib.Path("/w"), ("000",)), "000")
    with pytest.raises(UserError, match="cannot be shared out evenly"):
        local.device_sets(3)
    monkeypatch.setattr(local, "_devices", lambda: ("cpu", [0, 1, 2, 3, 4]))
    assert [s.ids for s in local.device_sets()] == [(0, 1, 2, 3, 4)]
    assert [s.ids for s in local.device_sets(2)] == [(0, 1), (2, 3)]


def test_what_is_submitted_is_the_plan_of_the_command(tmp_path, capsys, monkeypatch):
    """A dry run of a new sweep: planned in a process of its own, rendered, nothing written."""
    file = tmp_path / "x.py"
    file.write_text(
        "from conftest import tiny_config\n"
        "from grokjax.settings import grid, product, seeds\n\n"
        "def get_config():\n    return tiny_config()\n\n"
        "def sweep(add):\n    for row in product(grid('model.hidden_size', (16, 32)), seeds(3)):\n"
        "        add(row)\n"
    )
    # As in a shell inside somebody's job: the plan is made by one process, which waits for nobody.
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "no.such.host:1")
    command = ["slurm", f"--config={file}", f"--workdir={tmp_path / 'w'}", "--dry-run"]
    assert main([*command, "--config.sweep.runs_per_population=2"]) == 0
    assert "#SBATCH --array=0,1,2,3\n" in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


# What the workdir says


def test_a_stale_sign_of_life_is_none(workdir):
    folder = population_folder(workdir, "000")
    beat(folder)
    row = rows_of(workdir)[0]
    assert (row.state, row.step, row.rate, row.job) == ("running", 12, 3.5, "7_0")
    assert status.unfinished(rows_of(workdir)) == ["001"]
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                              capture_output=True, text=True)  # fmt: skip
    for change in (
        {"time": time.time() - 2 * heartbeat.STALE_AFTER},
        {"pid": int(finished.stdout)},
        {"state": "ended"},
        {"host": "elsewhere", "time": time.time() - 2 * heartbeat.STALE_AFTER},
    ):
        beat(folder, **change)
        assert status.unfinished(rows_of(workdir)) == ["000", "001"]
    beat(folder, host="elsewhere")  # whose processes nobody here can see
    assert status.unfinished(rows_of(workdir)) == ["001"]
    (folder / "status.json").write_text('{"state": "run')
    assert rows_of(workdir)[0].state == "pending"


def test_a_row_that_a_scheduler_has_is_not_submitted(workdir):
    queue = {"000": status.Queued("7_0", "PENDING"), "001": status.Queued("7_1", "RUNNING")}
    rows = rows_of(workdir, queue)
    assert [row.state for row in rows] == ["pending", "running"]
    assert [row.job for row in rows] == ["7_0 (PENDING)", "7_1"]
    assert status.unfinished(rows) == []
    (population_folder(workdir, "000")).mkdir(parents=True)
    (population_folder(workdir, "000") / "error.txt").write_text("no room")
    assert [row.state for row in rows_of(workdir)] == ["failed", "pending"]
    assert rows_of(workdir, queue)[0].state == "pending"  # it is being tried again


def test_one_population_alone(workdir, capsys):
    """The worker's command: the plan is read, its own folder written, and nobody disturbed."""
    plan = (workdir / "plan.json").read_bytes()
    options = ["sweep", f"--workdir={workdir}"]
    assert grokjax_main([*options, "--population=001"]) == 0
    assert (workdir / "plan.json").read_bytes() == plan
    assert {p.name for p in workdir.iterdir()} == {"plan.json", "populations"}
    assert [row.state for row in rows_of(workdir)] == ["pending", "done"]
    assert heartbeat.read_beat(population_folder(workdir, "001")).step == 20
    capsys.readouterr()
    assert grokjax_main([*options, "--population=001"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    for extra, message in (
        (["--population=1"], "not in the plan, which goes up to 001"),
        (["--population=000", "--config=x.py"], "--config=x.py: no such file"),
        (["--population=000", "--config.train.num_steps=3"], "num_steps=3: a population's"),
        ([], "--config: missing"),
    ):
        assert grokjax_main([*options, *extra]) == 2
        assert message in capsys.readouterr().err
    assert grokjax_main(["sweep", "--workdir=/nowhere", "--population=000"]) == 2
    # Devices that the job was to have are not there: no training on others in silence.
    assert grokjax_main([*options, "--population=000", "--devices=gpu:8"]) == 1
    assert "is to train on gpu:8, JAX sees cpu:4" in capsys.readouterr().err
    assert rows_of(workdir)[0].state == "failed"


def test_nobody_trains_what_another_process_trains(workdir, monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "_EVERY", 0.2)
    folder = population_folder(workdir, "000")
    with heartbeat.Heartbeat(folder, 1) as beating:
        assert heartbeat.read_beat(folder) is None  # until it holds the folder
        beating.update(0)
        assert grokjax_main(["sweep", f"--workdir={workdir}", "--population=000"]) == 2
        assert f"being trained by process {os.getpid()}" in capsys.readouterr().err
        # The same job, started again by its scheduler, is not another.
        beat(folder, job="7_0", host="elsewhere")
        monkeypatch.setenv(heartbeat.JOB, "7_0")
        heartbeat.require_free(folder)
    # A machine that is gone: its last sign of life grows old.
    monkeypatch.delenv(heartbeat.JOB)
    monkeypatch.setattr(heartbeat, "STALE_AFTER", 0.5)
    beat(folder, host="elsewhere")
    heartbeat.require_free(folder)


@pytest.mark.parametrize(
    "wrong", [{"pid": -1}, {"pid": 2**40}, {"pid": "1"}, {"time": "x"}, {"step": None}, {"job": 3}]
)
def test_a_sign_of_life_that_nobody_gives_is_none(workdir, wrong, unchecked):
    """Its process gets signals: -1 would be every process there is."""
    folder = population_folder(workdir, "000")
    beat(folder)
    path = folder / heartbeat.STATUS
    assert heartbeat.read_beat(folder) is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert heartbeat.read_beat(folder) is None


# Preflight


def test_preflight(workdir, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="not visible on"):
        preflight.check_workdir(tmp_path / "none")
    monkeypatch.setattr(preflight.tempfile, "TemporaryFile", _refuse)
    with pytest.raises(UserError, match=r"cannot be written on .* \(Read-only file system\)"):
        preflight.check_workdir(workdir)
    population = read_plan(workdir).populations[0]
    free = type("Usage", (), {"free": population.checkpoint_bytes - 1})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"free, the checkpoints of 1 population take up to"):
        preflight.check_disk(workdir, [population])
    folder = population_folder(workdir, "000") / "checkpoints" / "state"
    folder.mkdir(parents=True)
    (folder / "array").write_bytes(b"x")  # what is there already needs no room
    preflight.check_disk(workdir, [population])


def _refuse(dir):
    raise OSError(30, "Read-only file system")


def test_devices_that_would_idle_are_refused(tmp_path):
    (population,) = planned(tmp_path, widths=(16,), num_seeds=4, train__batch_devices=2).populations
    job = Job(tmp_path, ("000",), platform="gpu", devices_per_node=8)
    preflight.check_devices(job, [population])
    with pytest.raises(UserError, match="4 runs leave some of 16 devices idle"):
        preflight.check_devices(dataclasses.replace(job, nodes=2), [population])
    small = dataclasses.replace(population, run_hashes=population.run_hashes[:1])
    preflight.check_devices(job, [population, small])  # what is left of a sweep
    with pytest.raises(UserError, match="batch_devices=2 does not divide the 3 devices"):
        preflight.check_devices(dataclasses.replace(job, devices_per_node=3), [population])


def test_a_full_disk_stops_the_worker_before_it_trains(workdir, tmp_path):
    plan = read_plan(workdir)
    huge = [dataclasses.replace(p, checkpoint_bytes=2**60) for p in plan.populations]
    write_plan(workdir, Plan(tuple(huge)))
    command = [sys.executable, "-m", "launch", "worker", f"--workdir={workdir}"]
    done = subprocess.run(
        [*command, "--population=000"], env=ENVIRONMENT, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and "make room" in done.stderr
    assert rows_of(workdir)[0].state == "failed"


def test_checkpoints_take_what_the_plan_says(tmp_path):
    """Saved without training: the kept full states, and every step of the analysis."""
    config = tiny_config(model__hidden_size=128, model__mlp_multiple=128)
    config.runs = tuple(seeds(4))
    runs = expand(config)
    population = Population(config, runs, load_datasets(runs))
    noise = np.random.default_rng(0)  # what is alike in a fresh state would be compressed away
    state = jax.tree.map(
        lambda x: noise.standard_normal(x.shape, np.float32) if x.dtype == np.float32 else x,
        population.init(),
    )
    with Checkpoints(tmp_path, keep=config.checkpoint.keep, num_runs=4) as saved:
        for step in (20, 30, 40):
            saved.save(step, state)
        for step in log_spaced_steps(40, config.checkpoint.analysis_steps_per_decade, 10):
            saved.save_analysis(step, analysis_weights(state))
    files = [p for p in tmp_path.rglob("*") if p.is_file() and "trash" not in p.parts]
    taken = sum(p.stat().st_size for p in files)
    one_state = max(sum(f.stat().st_size for f in d.rglob("*") if f.is_file())
                    for d in (tmp_path / "state").iterdir() if d.name.isdigit())  # fmt: skip
    # The plan counts one state more: the one that is being written.
    assert 0.8 < (taken + one_state) / checkpoint_bytes(config) < 1.1


def test_the_books_only_grow(tmp_path):
    with books.locked(tmp_path / "w"):
        books.record(tmp_path / "w", {"launcher": "slurm", "job": "1"})
        assert books.is_locked(tmp_path / "w")
    books.record(tmp_path / "w", {"launcher": "slurm", "job": "2"})
    with open(tmp_path / "w" / "launch" / "jobs.jsonl", "a") as file:
        file.write('{"launcher": "slu')
    assert [entry["job"] for entry in books.records(tmp_path / "w")] == ["1", "2"]
    assert not books.is_locked(tmp_path / "w")
    with pytest.raises(RuntimeError), books.locked(tmp_path / "new" / "w"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()  # nothing came of it


def test_schedulers_that_do_not_answer(workdir, monkeypatch, capsys):
    """Who cannot ask what runs submits nothing."""
    (workdir / "launch").mkdir()
    books.record(workdir, {"launcher": "slurm", "job": "1", "populations": [], "options": {}})
    monkeypatch.setattr(submit.slurm, "queue", _no_answer)
    assert main(["slurm", f"--workdir={workdir}"]) == 2
    assert "no answer" in capsys.readouterr().err
    assert main(["status", str(workdir)]) == 0
    captured = capsys.readouterr()
    assert "2 pending" in captured.out and "no answer" in captured.err


def _no_answer(workdir):
    raise UserError("squeue: no answer in 60 s")
