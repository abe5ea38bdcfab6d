"""Promises 2, 6 and 7 (docs/operations.md, section 4) under a real Slurm of two nodes on loopback.

The short form is in the default run where Slurm is installed; the others have the marker `slurm`.
With GROKJAX_OPERATIONS_TABLE=FILE.csv they write down what they have measured.
"""

import json
import os
import pathlib
import signal
import subprocess
import time

import pandas as pd
import pytest
from conftest import tiny_config
from same import assert_same_workdir
from slurm_cluster import client, cluster, free_port, reason_to_skip, release, wait_for
from tiny import PYTHONPATH

from grokjax.runtime.heartbeat import read_beat
from grokjax.settings import grid, product, seeds
from grokjax.sweeps.plan import Plan, population_folder, read_plan, write_plan
from grokjax.sweeps.planner import extend_plan
from launch import books, status, submit
from launch.__main__ import main
from launch.job import job_name

pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
KILL_WAIT = 30  # seconds between SIGTERM and SIGKILL: the default of slurm.conf


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Names of both; what is set here is what jobs inherit: one device of each process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        with cluster(tmp_path_factory.mktemp("slurm"), KILL_WAIT) as names:
            yield names


def planned(workdir, widths=(16,), num_seeds=1, **changes):
    config = tiny_config(**{"train__num_steps": 20, "checkpoint__every": 10} | changes)
    rows = list(product(grid("model.hidden_size", widths), seeds(num_seeds)))
    plan = extend_plan(Plan(), config, rows)
    write_plan(workdir, plan)
    return plan


def slurm(workdir, *options):
    assert main(["slurm", f"--workdir={workdir}", "--cpus-per-task=1", *options]) == 0


def survey(workdir):
    return status.survey(workdir, read_plan(workdir), submit.queued(workdir))


def queue_is_empty():
    return not client("squeue", "-h").strip()


def step_of(workdir, population="000"):
    found = read_beat(population_folder(workdir, population))
    return found.step if found else 0


def submitted(workdir):
    return [entry["populations"] for entry in books.records(workdir)]


def assert_trained_once(workdir):
    """One process trained each row from start to end, and each evaluation is there once.

    Returns:
      How many processes that were.
    """
    total = 0
    for population in read_plan(workdir).populations:
        folder = population_folder(workdir, population.name)
        sessions = json.loads((folder / "timing.json").read_text())
        steps = [(s["start_step"], s["end_step"]) for s in sessions]
        assert steps == [(0, population.config.train.num_steps)]
        assert not pd.read_csv(folder / "curves.csv").duplicated(["run_id", "step"]).any()
        total += len(sessions)
    return total


def test_an_array_submitted_twice(nodes, tmp_path, capsys):
    """Short form of promise 6."""
    workdir = tmp_path / "w"
    planned(workdir, widths=(16, 32))
    slurm(workdir)
    slurm(workdir)
    assert "0 rows to submit, 2 running or waiting" in capsys.readouterr().out
    assert submitted(workdir) == [["000", "001"]]
    wait_for(queue_is_empty)
    rows = survey(workdir)
    assert [(row.state, row.step) for row in rows] == [("done", 20)] * 2
    assert [row.job.split("_")[1] for row in rows] == ["0", "1"]
    slurm(workdir)
    assert submitted(workdir) == [["000", "001"]]
    assert_trained_once(workdir)


@pytest.mark.slurm
def test_an_array_of_six(nodes, tmp_path, measured):
    """Submitted again while it waits, while it runs, with a new row, after a failure, when done."""
    workdir = tmp_path / "w"
    config = tiny_config(train__num_steps=20, checkpoint__every=10, sweep__runs_per_population=1)
    rows = list(product(grid("model.hidden_size", (16, 32, 48)), seeds(2)))
    plan = extend_plan(Plan(), config, rows)
    write_plan(workdir, plan)
    names = [population.name for population in plan.populations]
    assert len(names) == 6
    blocked = population_folder(workdir, "004")
    blocked.mkdir(parents=True)
    (blocked / "curves.csv").write_text("of whom?\n")
    slurm(workdir, "--at-once=2")
    slurm(workdir, "--at-once=2")
    assert submitted(workdir) == [names]
    wait_for(lambda: survey(workdir)[0].state == "done")
    slurm(workdir, "--at-once=2")
    assert submitted(workdir) == [names]
    more = extend_plan(plan, config, [*rows, {"model.hidden_size": 64}])
    write_plan(workdir, more)
    slurm(workdir)
    assert submitted(workdir) == [names, ["006"]]
    wait_for(queue_is_empty, 300)
    assert [row.state for row in survey(workdir)] == ["done"] * 4 + ["failed"] + ["done"] * 2
    (blocked / "curves.csv").unlink()
    assert main(["retry", str(workdir)]) == 0
    wait_for(queue_is_empty)
    slurm(workdir)
    assert submitted(workdir) == [names, ["006"], ["004"]]
    assert {row.state for row in survey(workdir)} == {"done"}
    sessions = assert_trained_once(workdir)
    measured("trainings of 6 populations and a later one, submitted 6 times", sessions, "7")


# Two nodes, one process on each


LONG = {
    "train__num_steps": 3000,
    "train__chunk_steps": 10,
    "train__eval_every": 100,
    "checkpoint__every": 500,
}

ENDLESS = LONG | {"train__num_steps": 2_000_000, "checkpoint__every": 2_000_000}


def two_nodes(workdir, *options):
    """A population of four runs, on one device of each node."""
    planned(workdir, num_seeds=4, **LONG)
    meet = f"export JAX_COORDINATOR_ADDRESS=127.0.0.1:{free_port()}"
    slurm(workdir, "--nodes=2", f"--setup={meet}", *options)


@pytest.fixture(scope="module")
def undisturbed(nodes, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "w"
    two_nodes(workdir)
    wait_for(queue_is_empty, 300)
    assert survey(workdir)[0].state == "done"
    return population_folder(workdir, "000")


def job_of(workdir):
    """Slurm's own id of the only task, by which it is requeued and signalled."""
    name = status.survey(workdir, read_plan(workdir), submit.queued(workdir))[0].job.split()[0]
    return client("squeue", "-h", "-r", "-j", name, "-o", "%A").strip()


def log_of(workdir):
    return "".join(p.read_text() for p in (workdir / "launch" / "logs").glob("*.out"))


def requeued(workdir, since):
    """Waits until the job has left and waits again; how long its processes took to save."""
    wait_for(lambda: "saved at step" in log_of(workdir))
    seconds = time.monotonic() - since
    wait_for(lambda: "PENDING" in client("squeue", "-h", "-o", "%T", "-n", job_name(workdir)))
    return seconds


def assert_goes_on_to_the_same_end(workdir, undisturbed):
    folder = population_folder(workdir, "000")
    saved = status.last_checkpoint(folder)
    assert 0 < saved < 3000
    assert log_of(workdir).count(f"saved at step {saved:,}") == 2  # both ranks, the same step
    release(job_of(workdir))
    wait_for(queue_is_empty, 300)
    assert f"resuming at step {saved:,}" in log_of(workdir)
    assert survey(workdir)[0].state == "done"
    assert_same_workdir(folder, undisturbed, 3000)
    return saved


def assert_saved_in_time(workdir, start, undisturbed, measured, what):
    seconds = requeued(workdir, start)
    assert seconds < KILL_WAIT
    saved = assert_goes_on_to_the_same_end(workdir, undisturbed)
    measured(f"seconds from {what} to both ranks saved", round(seconds, 1), f"{KILL_WAIT}")
    measured("step saved by both ranks, of 3000; requeued job's end", saved, "bit-identical")


@pytest.mark.slurm
def test_sigterm_is_saved_by_all_ranks_and_requeued(nodes, tmp_path, undisturbed, measured):
    """Promise 2: Slurm's signal before a time limit, here sent by hand; exit code 75; requeue."""
    workdir = tmp_path / "w"
    two_nodes(workdir)
    wait_for(lambda: step_of(workdir) > 200)
    start = time.monotonic()
    client("scancel", "--signal=TERM", job_of(workdir))
    assert_saved_in_time(workdir, start, undisturbed, measured, "SIGTERM")


@pytest.mark.slurm
def test_preemption_is_survived(nodes, tmp_path, undisturbed, measured):
    """A job of partition `hi` takes both nodes."""
    workdir = tmp_path / "w"
    two_nodes(workdir)
    wait_for(lambda: step_of(workdir) > 200)
    start = time.monotonic()
    client("sbatch", "--partition=hi", "--nodes=2", "--exclusive", "--output=/dev/null",
           "--wrap=sleep 5")  # fmt: skip
    assert_saved_in_time(workdir, start, undisturbed, measured, "preemption")


@pytest.mark.slurm
def test_a_dead_rank_ends_the_job(nodes, tmp_path, measured):
    """Promise 7: kill -9 on one rank. The other waits for it, until KillWait is over."""
    workdir = tmp_path / "w"
    with cluster(tmp_path / "slurm", kill_wait=5):
        two_nodes(workdir)
        wait_for(lambda: step_of(workdir) > 200)
        main_rank = read_beat(population_folder(workdir, "000")).pid
        ranks = [p for p in processes(f"--workdir={workdir}") if p != main_rank]
        assert len(ranks) == 1
        start = time.monotonic()
        os.kill(ranks[0], signal.SIGKILL)
        wait_for(queue_is_empty)
        seconds = time.monotonic() - start
        assert seconds < 10 and not processes(f"--workdir={workdir}")
        (row,) = survey(workdir)
        # Stopped if it was killed, failed if it heard of the death and could still say so.
        assert row.state in ("stopped", "failed") and not row.is_taken
    measured("seconds from a rank's death to the end of its job", round(seconds, 1), "10")


def processes(argument):
    """Processes that train with this argument."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if argument in command and "grokjax" in command:
            found.append(int(folder.name))
    return found


@pytest.mark.slurm
def test_a_bad_coordinator_is_named(nodes, tmp_path, measured):
    """Promise 7: one line and exit code 2, instead of JAX's abort after its time-out."""
    workdir = tmp_path / "w"
    planned(workdir, num_seeds=4, **LONG)
    meet = "export JAX_COORDINATOR_ADDRESS=no.such.host:1234 GROKJAX_CONNECT_SECONDS=3"
    start = time.monotonic()
    slurm(workdir, "--nodes=2", f"--setup={meet}")
    wait_for(queue_is_empty)
    seconds = time.monotonic() - start
    assert "no.such.host is not known here" in log_of(workdir)
    assert survey(workdir)[0].state == "failed"
    error = (population_folder(workdir, "000") / "error.txt").read_text()
    assert "no.such.host" in error and error.count("\n") == 1
    measured("seconds to the error, of which 3 looking for the name", round(seconds, 1))


@pytest.mark.slurm
def test_stop_saves_and_does_not_requeue(nodes, tmp_path, capsys, measured):
    workdir = tmp_path / "w"
    planned(workdir, widths=(16, 32), **ENDLESS)
    slurm(workdir, "--at-once=1")
    wait_for(lambda: step_of(workdir) > 200)
    assert main(["stop", str(workdir)]) == 0
    assert "2 rows asked to stop" in capsys.readouterr().out
    wait_for(queue_is_empty)
    assert [row.state for row in survey(workdir)] == ["stopped", "pending"]
    saved = status.last_checkpoint(population_folder(workdir, "000"))
    assert step_of(workdir) == saved > 200
    slurm(workdir, "--at-once=1")
    wait_for(lambda: step_of(workdir) > saved)
    assert main(["stop", str(workdir)]) == 0
    wait_for(queue_is_empty)
    assert f"resuming at step {saved:,}" in log_of(workdir)
    measured("step saved when stopped, then resumed from", saved)


@pytest.mark.slurm
def test_without_a_controller_nothing_is_submitted(nodes, tmp_path, monkeypatch, capsys):
    """Clients wait for ever for a controller that is gone; ours do not."""
    workdir = tmp_path / "w"
    planned(workdir)
    text = pathlib.Path(os.environ["SLURM_CONF"]).read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort="))
    (tmp_path / "slurm.conf").write_text(text.replace(port, f"SlurmctldPort={free_port()}"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr("launch.client.TIMEOUT", 3)
    assert main(["slurm", f"--workdir={workdir}"]) == 2
    assert "squeue: no answer in 3 s" in capsys.readouterr().err
    assert submitted(workdir) == []


@pytest.mark.slurm
def test_the_time_limit(nodes, tmp_path, measured):
    """`--signal=TERM@90`: saved before the limit, requeued, done in the second try."""
    workdir = tmp_path / "w"
    planned(workdir, **ENDLESS)
    slurm(workdir, "--time=2")
    wait_for(lambda: "saved at step" in log_of(workdir), 180)
    wait_for(lambda: "PENDING" in client("squeue", "-h", "-o", "%T"))
    saved = status.last_checkpoint(population_folder(workdir, "000"))
    assert 0 < saved < 2_000_000 and step_of(workdir) == saved
    release(job_of(workdir))
    wait_for(lambda: step_of(workdir) > saved)
    assert f"resuming at step {saved:,}" in log_of(workdir)
    assert main(["stop", str(workdir)]) == 0
    wait_for(queue_is_empty)
    measured("step saved before a limit of 2 minutes, and resumed from", saved)


def test_who_waits_for_slurm_has_it(nodes):
    """The cluster of these tests is one: two nodes, of which a job gets both."""
    done = subprocess.run(
        ["srun", "-N2", "-n2", "printenv", "SLURM_PROCID"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert sorted(done.stdout.split()) == ["0", "1"]
