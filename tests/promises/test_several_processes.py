"""Several processes train what one trains: divided, broken off and resumed in any way."""

import os
import signal
import socket
import time

import hosts
import jax
import numpy as np
import pandas as pd
import pytest
from tiny import ROOT

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.runtime import devices
from grokjax.runtime import processes as distributed
from grokjax.runtime.processes import HEARTBEAT_SECONDS, Processes, find_processes
from grokjax.training.mesh import arrange, make_mesh
from grokjax.workdir.checkpoints import Checkpoints

LONG = "--config.train.num_steps=1000"


def assert_same(a, b):
    for table in ("curves.csv", "runs.csv"):
        assert (a / table).read_bytes() == (b / table).read_bytes(), table
    (step, x), (also, y) = hosts.final_state(a), hosts.final_state(b)
    assert step == also and hosts.identical(x, y)


def saved_steps(workdir, kind="state"):
    with Checkpoints(workdir / "checkpoints") as saved:
        return saved.steps(kind)


def test_broken_off_as_two_processes_and_ended_as_one(tmp_path):
    """A SIGTERM that one of two hears, a kill -9, and on as one process: as never interrupted.

    Three runs on two devices: two a device, one of them a copy that is not stored.
    """
    workdir, population = tmp_path / "w", hosts.population_of(3)
    options = [population, "--config.train.num_steps=100000", "--config.checkpoint.every=100000"]
    running = hosts.start(workdir, 2, 1, *options)
    hosts.wait_for_step(workdir, 20, running)
    running[1].send_signal(signal.SIGTERM)
    assert hosts.wait(running) == [75, 75]
    first_end = saved_steps(workdir)[-1]
    for i in range(2):
        assert f"saved at step {first_end:,}; the same command" in hosts.log_of(workdir, i)

    running = hosts.start(workdir, 2, 1, *options)
    hosts.wait_for_step(workdir, first_end + 20, running)
    start = time.monotonic()
    running[1].kill()
    codes = hosts.wait(running)
    assert codes[0] not in (0, 75) and codes[1] == -signal.SIGKILL
    assert time.monotonic() - start < 2 * HEARTBEAT_SECONDS
    assert saved_steps(workdir) == [first_end]

    said = len(hosts.log_of(workdir))
    running, resuming = hosts.start(workdir, 1, 2, *options), f"resuming at step {first_end:,}"
    # A chunk is over: before that a signal leaves without a save, and rows beyond the step stay.
    hosts.wait_until(lambda: "member-steps" in hosts.log_of(workdir)[said:], running)
    assert resuming in hosts.log_of(workdir)[said:]
    running[0].send_signal(signal.SIGTERM)
    assert hosts.wait(running) == [75]
    last_end = saved_steps(workdir)[-1]

    hosts.train(tmp_path / "whole", 1, 2, population, f"--config.train.num_steps={last_end}")
    (step, state), (end, expected) = map(hosts.final_state, (workdir, tmp_path / "whole"))
    assert step == end == last_end and hosts.identical(state, expected)
    results, whole = grokjax.load(workdir), grokjax.load(tmp_path / "whole")
    evaluated = whole.curves[whole.curves.step % 10 == 0]
    pd.testing.assert_frame_equal(results.curves, evaluated)
    for run_id in range(3):
        own, others = (r.weights(run_id, 10) for r in (results, whole))
        jax.tree.map(np.testing.assert_array_equal, own, others)


@pytest.mark.multihost
@pytest.mark.parametrize("signals", [(0,), (0, 1, 2, 3)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_hears_a_signal_all_stop_at_one_step(signals, number, tmp_path, measured):
    workdir, population = tmp_path / "w", hosts.population_of(8)
    running = hosts.start(workdir, 4, 1, population, LONG)
    hosts.wait_for_step(workdir, 20, running)
    start = time.monotonic()
    for i in signals:
        running[i].send_signal(number)
    assert hosts.wait(running) == [75] * 4
    measured("seconds from the signal to the end of all four", round(time.monotonic() - start, 1))
    said = [hosts.log_of(workdir, i).splitlines()[-1] for i in range(4)]
    assert len(set(said)) == 1 and f"saved at step {saved_steps(workdir)[-1]}" in said[0]


@pytest.mark.multihost
@pytest.mark.parametrize("killed", [0, 3])
def test_a_dead_process_ends_the_others(killed, tmp_path, measured):
    """And what is on disk goes on, as two processes and as four, to the same end."""
    workdir, population = tmp_path / "w", hosts.population_of(8)
    running = hosts.start(workdir, 4, 1, population, LONG)
    hosts.wait_for_step(workdir, 50, running)
    start = time.monotonic()
    running[killed].kill()
    codes = hosts.wait(running)
    seconds = time.monotonic() - start
    assert seconds < 2 * HEARTBEAT_SECONDS
    measured("seconds from a death to the end of the others", round(seconds, 1), "60")
    assert all(code not in (0, 75) for code in codes)
    hosts.train(workdir, 2, 2, population, LONG)
    hosts.train(tmp_path / "whole", 1, 4, population, LONG)
    assert_same(workdir, tmp_path / "whole")


@pytest.mark.multihost
def test_a_stopped_process_is_left_after_the_heartbeats(tmp_path, measured):
    """It neither answers nor closes its connections, as a host that lost its network."""
    workdir = tmp_path / "w"
    running = hosts.start(workdir, 2, 1, hosts.population_of(2), "--config.train.num_steps=100000")
    hosts.wait_for_step(workdir, 20, running)
    start = time.monotonic()
    running[1].send_signal(signal.SIGSTOP)
    assert running[0].wait(4 * HEARTBEAT_SECONDS) not in (0, 75)
    measured("seconds from the stop to the end of the other", round(time.monotonic() - start, 1))
    hosts.wait(running[:1])
    running[1].kill()
    running[1].wait()


@pytest.mark.multihost
def test_every_division_of_eight_devices(tmp_path, measured):
    """Bit for bit while a run's batch is on one device, else to 1e-5 after 20 steps."""
    rows = hosts.compare_divisions(tmp_path, hosts.DIVISIONS, hosts.population_of(8, "quickstart"))
    for row in rows:
        one_device = row["processes"] * row["devices_each"] == 1  # which is another program
        if row["batch_devices"] == 1 and row["threads"] == 8 and not one_device:
            assert row["state_identical"] and row["curves_identical"], row
        assert row["largest_difference"] < 1e-5, row
    stored = pd.read_csv(ROOT / "experiments" / "results" / "operations" / "divisions.csv")
    assert stored.processes.tolist() == [row["processes"] for row in rows]
    measured("divisions that agree", len(rows), "bit for bit, or 1e-5")


@pytest.mark.multihost
def test_runs_that_leave_early_leave_every_process(tmp_path):
    options = ["--config.train.stop_at=0.15", "--config.train.stop_margin=30"]
    options += [hosts.population_of(8), "--config.train.num_steps=120"]
    options += ["--config.model.H_cycles=2"]  # as deep as it takes to have some that leave
    hosts.train(tmp_path / "four", 4, 1, *options)
    hosts.train(tmp_path / "one", 1, 4, *options)
    assert "stopped" in set(grokjax.load(tmp_path / "one").runs.status)
    assert_same(tmp_path / "four", tmp_path / "one")


@pytest.mark.multihost
def test_a_sweep_as_two_processes(tmp_path):
    options = [hosts.population_of(4), "--config.sweep.runs_per_population=2"]
    for workdir, processes, each in ((tmp_path / "two", 2, 1), (tmp_path / "one", 1, 2)):
        running = hosts.start(workdir, processes, each, *options, command="sweep")
        assert hosts.wait(running) == [0] * processes
    two, one = (grokjax.load(tmp_path / name) for name in ("two", "one"))
    assert two.runs.population.tolist() == ["000", "000", "001", "001"]
    pd.testing.assert_frame_equal(two.runs, one.runs)
    pd.testing.assert_frame_equal(two.curves, one.curves)


@pytest.mark.multihost
def test_a_damaged_step_is_passed_over_by_all(tmp_path):
    workdir, population = tmp_path / "w", hosts.population_of(3)
    hosts.train(workdir, 2, 1, population)
    newest = workdir / "checkpoints" / "state" / "40"
    damaged = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    hosts.train(workdir, 2, 1, population)
    assert "resuming at step 20" in hosts.log_of(workdir)
    hosts.train(tmp_path / "whole", 1, 2, population)
    assert_same(workdir, tmp_path / "whole")


class _Device:
    platform = "cpu"

    def __init__(self, process_index, device_id):
        self.process_index, self.id = process_index, device_id


@pytest.mark.parametrize("num_runs, batch_devices, ids", [
    (8, 1, [[0], [1], [10], [11]]), (3, 1, [[0], [1], [10]]), (2, 1, [[0], [10]]),
    (5, 1, [[0], [1], [10]]), (2, 2, [[0, 1], [10, 11]]), (1, 4, [[0, 1, 10, 11]]),
])  # fmt: skip
def test_each_process_holds_neighbouring_runs(num_runs, batch_devices, ids):
    """Whatever the order of the devices is."""
    visible = [_Device(1, 11), _Device(0, 0), _Device(1, 10), _Device(0, 1)]
    grid = arrange(num_runs, batch_devices, visible)
    assert [[device.id for device in row] for row in grid] == ids


def test_a_process_without_work_is_refused():
    visible = [_Device(i, i) for i in range(4)]
    with pytest.raises(UserError, match="4 processes are too many for 3 runs on 1 devices each"):
        make_mesh(3, 1, visible)


SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
GIVEN = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:900", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Sets variables in an environment that has none of its own."""
    for name in (*SLURM, *OPEN_MPI):
        monkeypatch.delenv(name, raising=False)
    for name in GIVEN:
        monkeypatch.setenv(name, "")

    def use(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize("variables, found, here", [
    ({}, None, 1),
    (SLURM, Processes("node03:61447", 2, 1), 1),
    (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2"}, Processes("node03:61447", 2, 1, gpu=0), 2),
    (SLURM | {"SLURM_NTASKS": "1"}, None, 1),
    ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None, 1),  # not in srun
    (SLURM | {"JAX_COORDINATOR_ADDRESS": "other:900"}, Processes("other:900", 2, 1), 1),
    (OPEN_MPI, Processes("10.96.0.1:62880", 4, 3, gpu=1), 2),
    (SLURM | GIVEN, Processes("10.0.0.1:900", 2, 0), 1),
    (GIVEN | {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:900"}, Processes("127.0.0.1:900", 2, 0), 2),
    (GIVEN | {"JAX_NUM_PROCESSES": "1"}, None, 1),
])  # fmt: skip
def test_the_environment_tells_who_takes_part(variables, found, here, environment):
    environment(variables)
    assert find_processes() == found
    assert distributed.processes_here() == here


def test_cores_are_shared_out(environment, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert devices._own_cores() == 8
    environment(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4"})
    assert devices._own_cores() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})  # bound by the launcher
    assert devices._own_cores() == 3


BAD = {
    "no port": (["--coordinator=host", "--num-processes=2", "--process-id=0"], "give HOST:PORT"),
    "a part": (["--coordinator=host:900"], "give all of --coordinator=HOST:PORT"),
    "id": (
        ["--coordinator=host:900", "--num-processes=2", "--process-id=2"],
        "process 2 of 2: ids go from 0 to 1",
    ),
    "number": (["--num-processes=two"], "invalid int value"),
    "no such host": (
        ["--coordinator=nowhere.invalid:900", "--num-processes=2", "--process-id=1"],
        "nowhere.invalid is not known here; give the name of process 0's machine",
    ),
    "nobody there": (
        ["--coordinator=127.0.0.1:1", "--num-processes=2", "--process-id=1"],
        "nobody answers; is process 0 running there?",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_coordinator_is_one_line(what, tmp_path, capsys, environment):
    """Before JAX's runtime is started, which would abort."""
    environment({"GROKJAX_CONNECT_SECONDS": "0"})
    options, message = BAD[what]
    command = ["train", hosts.population_of(2), f"--workdir={tmp_path / 'w'}"]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists() and not jax.distributed.is_initialized()


def test_a_taken_port_is_one_line(tmp_path, capsys, environment):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        options = [f"--coordinator={address}", "--num-processes=2", "--process-id=0"]
        command = ["train", hosts.population_of(2), f"--workdir={tmp_path / 'w'}"]
        assert main([*command, *options]) == 2
    assert f"{address}: Address already in use" in capsys.readouterr().err
