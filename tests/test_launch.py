"""One job description, three renderers; what is submitted, and what a workdir says about it."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, tiny_config
from jobset_schema import JOBSET, problems

import grokjax
from grokjax import heartbeat, loop
from grokjax.checkpoint import Checkpoints, log_spaced_steps
from grokjax.cli import main as grokjax_main
from grokjax.errors import UserError
from grokjax.folder import load_datasets
from grokjax.interrupt import leaving_at_once
from grokjax.plan import checkpoint_bytes, extend_plan
from grokjax.planfile import Plan, population_folder, read_plan, write_plan
from grokjax.sweep import expand, grid, product, seeds
from launch import books, gke, local, preflight, slurm, status, submit
from launch.__main__ import main
from launch.job import Job, job_name

# Of workers: one run on one device, whatever these tests have.
OWN = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_NUM_CPU_DEVICES": "1"}
ENVIRONMENT = os.environ | OWN


@pytest.fixture(autouse=True)
def workers_environment(monkeypatch):
    for name, value in OWN.items():
        monkeypatch.setenv(name, value)


def planned(workdir, widths=(16, 32), num_seeds=1, **changes):
    """A sweep's workdir with a plan: a population for each width."""
    rows = list(product(grid("model.hidden_size", widths), seeds(num_seeds)))
    config = tiny_config(**{"train__num_steps": 20, "checkpoint__every": 10} | changes)
    plan = extend_plan(Plan(), config, rows)
    write_plan(workdir, plan)
    return plan


@pytest.fixture
def workdir(tmp_path):
    planned(tmp_path / "w")
    return tmp_path / "w"


def rows_of(workdir, queue=None):
    return status.survey(workdir, read_plan(workdir), queue or {})


def test_launching_does_not_import_jax():
    """A cluster's login node: plans are read, jobs rendered and followed without JAX."""
    modules = [p.stem for p in (ROOT / "launch").glob("*.py") if p.stem != "__init__"]
    assert {"slurm", "gke", "local", "status", "worker", "__main__"} <= set(modules)
    code = f"import sys\nfor m in {modules}: __import__('launch.' + m)\nprint('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# One description


def test_every_launcher_runs_the_same_worker(tmp_path):
    job = Job(tmp_path / "w", ("000",), nodes=2, platform="gpu", devices_per_node=8, python="py")
    command = ["py", "-m", "launch", "worker", f"--workdir={tmp_path / 'w'}", "--devices=gpu:16"]
    assert job.worker("000") == [*command, "--population=000"]
    assert " ".join(command) in slurm.render(job, slurm.SlurmOptions())
    options = gke.GkeOptions("q", "nvidia-h100-80gb", f"claim:{tmp_path}")
    (jobset,) = gke.render(dataclasses.replace(job, container="image"), options)
    assert " ".join(command) in containers(jobset)[0]["command"][-1]


def test_a_jobs_name_is_its_workdirs_own(tmp_path):
    names = {job_name(pathlib.Path(p)) for p in ("/a/sweep", "/b/sweep", "/a/My sweep_2!", "/")}
    assert len(names) == 4 and all(len(n) < 50 and n == n.lower() for n in names)


def test_bad_options_are_one_line(workdir, capsys):
    for options, message in (
        (["slurm", "--nodes=0"], "--nodes"),
        (["slurm", "--setup=a\nb"], "line break"),
        (["slurm", "--partition=a\nb"], "line break"),
        (["slurm", "--sbatch=--x\n--y"], "line break"),
        (["slurm", "--partitoin=a"], "unknown argument '--partitoin=a'"),
        (["slurm", "--config.train.num_steps=3"], "give --config=FILE"),
        (["local", "--workers=-1"], "at least 1"),
        (["local", "--workers=10000"], "cannot be shared out"),
        (["slurm", f"--config={workdir}/none.py"], "none.py"),
    ):
        assert main([*options[:1], f"--workdir={workdir}", "--dry-run", *options[1:]]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1
    assert main(["status", str(workdir / "none")]) == 2
    assert "is the workdir visible" in capsys.readouterr().err
    assert not (workdir / "launch").exists()


# Slurm's script


def test_the_script(tmp_path):
    job = Job(
        tmp_path / "a b",
        ("000", "003", "012"),
        nodes=2,
        platform="gpu",
        devices_per_node=4,
        setup="source env/bin/activate",
        container="image.sqsh",
    )
    options = slurm.SlurmOptions(partition="gpu", account="me", at_once=2, extra=("--nice",))
    text = slurm.render(job, options)
    lines = text.splitlines()
    for option in ("array=0,3,12%2", "nodes=2", "gpus-per-node=4", "partition=gpu", "account=me"):
        assert f"#SBATCH --{option}" in lines
    for option in ("signal=TERM@90", "requeue", "open-mode=append", "nice"):
        assert f"#SBATCH --{option}" in lines
    assert lines.index("source env/bin/activate") > max(
        i for i, line in enumerate(lines) if line.startswith("#SBATCH")
    )
    assert not any("time=" in line for line in lines)  # what nobody asked for is the cluster's


def test_the_script_hands_the_exit_code_on_and_requeues_75(tmp_path):
    """Run by bash, with `srun`, `scontrol` and `timeout` that write down how they are called."""
    job = Job(tmp_path / "a b", ("007",), python="py")
    script = tmp_path / "script.sh"
    script.write_text(slurm.render(job, slurm.SlurmOptions()))
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir()
    for name, end in (("srun", 'exit "$CODE"'), ("scontrol", ""), ("timeout", 'shift\n"$@"')):
        program = tmp_path / "bin" / name
        program.write_text(
            f'#!/bin/bash\nprintf "%s|" {name} "$@" >> {log}\necho >> {log}\n{end}\n'
        )
        program.chmod(0o755)

    def run(code):
        log.write_text("")
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CODE": str(code),
            "SLURM_ARRAY_JOB_ID": "41",
            "SLURM_ARRAY_TASK_ID": "7",
            "SLURM_JOB_ID": "43",
        }
        return subprocess.run(["bash", str(script)], env=environment).returncode, log.read_text()

    code, calls = run(75)
    assert code == 75 and "scontrol|requeue|43|" in calls
    worker = f"py|-m|launch|worker|--workdir={tmp_path / 'a b'}|--population=007|"
    assert calls.startswith(f"srun|--kill-on-bad-exit=1|{worker}")
    for other in (0, 1, 2, 137):
        code, calls = run(other)
        assert code == other and "requeue" not in calls
    # One rank saved and left with 75, the other was too slow and killed.
    beat(population_folder(job.workdir, "007"), state="saved")
    code, calls = run(137)
    assert code == 75 and "requeue" in calls
    assert run(1)[0] == 1
    beat(population_folder(job.workdir, "007"))
    assert run(137)[0] == 137
    books.stop_file(job.workdir).parent.mkdir(parents=True)
    books.stop_file(job.workdir).touch()
    assert "requeue" not in run(75)[1]


# JobSets


def containers(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["spec"]["containers"]


def gke_jobsets(workdir, capsys, *options):
    common = [f"--workdir={workdir}", "--queue=team", f"--volume=claim:{workdir.parent}"]
    assert main(["gke", *common, "--container=image", "--dry-run", *options]) == 0
    out = capsys.readouterr().out
    jobsets = json.loads(out)["items"]
    for jobset in jobsets:
        assert problems(jobset, JOBSET) == []
    return jobsets


def test_a_jobset_for_tpu_slices(tmp_path, capsys):
    planned(tmp_path / "w", num_seeds=32)
    first, second = gke_jobsets(
        tmp_path / "w",
        capsys,
        *("--accelerator=tpu-v5-lite-podslice", "--topology=4x4", "--devices-per-node=4"),
        *("--slices=2", "--setup=source env"),
    )
    assert first["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert first["metadata"]["name"] + "|" == second["metadata"]["name"].replace("-001", "-000|")
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert first["metadata"]["annotations"][key] == "cloud.google.com/gke-nodepool"
    (slices,) = first["spec"]["replicatedJobs"]
    assert slices["replicas"] == 2  # slices, of 16 chips on 4 hosts each
    spec = slices["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][-1].startswith("source env && exec python -m launch worker")
    assert "--devices=tpu:32" in container["command"][-1]
    assert [e["name"] for e in container["env"]] == ["GROKJAX_JOB"]  # JAX finds the rest
    # 75, an eviction or a lost node: again from the checkpoint; bad input: never again.
    (codes,) = spec["podFailurePolicy"]["rules"]
    assert codes["action"] == "FailJob" and codes["onExitCodes"]["values"] == [1, 2]
    (rule,) = first["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_a_jobset_for_gpu_nodes(tmp_path, capsys):
    planned(tmp_path / "w", num_seeds=16)
    first, _ = gke_jobsets(
        tmp_path / "w",
        capsys,
        *("--accelerator=nvidia-h100-80gb", "--devices-per-node=8", "--nodes=2"),
    )
    spec = first["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["completions"] == 2 and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    environment = {e["name"]: e for e in container["env"]}
    name = first["metadata"]["name"]
    address = environment["JAX_COORDINATOR_ADDRESS"]["value"]
    assert address == f"{name}-workers-0-0.{name}:8476"
    assert environment["JAX_NUM_PROCESSES"]["value"] == "2"
    assert "completion-index" in str(environment["JAX_PROCESS_ID"]["valueFrom"])


def test_the_schema_finds_what_is_wrong(tmp_path, capsys):
    planned(tmp_path / "w", num_seeds=8)
    options = ("--accelerator=nvidia-h100-80gb", "--devices-per-node=8")
    jobset, _ = gke_jobsets(tmp_path / "w", capsys, *options)
    jobset["spec"]["failurePolicy"]["rules"][0]["name"] = "bad-input"
    jobset["spec"]["replicas"] = 2
    found = problems(jobset, JOBSET)
    assert len(found) == 2 and "bad-input" in found[0] + found[1]


def test_bad_jobsets_are_refused(workdir, capsys):
    options = ["gke", f"--workdir={workdir}", "--queue=q", "--dry-run", "--accelerator=tpu"]
    volume = f"--volume=claim:{workdir.parent}"
    for extra, message in (
        ([volume, "--devices-per-node=1"], "--container: missing"),
        (["--volume=claim:/elsewhere", "--devices-per-node=1"], "is below /PATH"),
        ([volume, "--devices-per-node=4", "--topology=4by4"], "--topology=4by4"),
        ([volume, "--devices-per-node=4", "--topology=2x3"], "no multiple"),
        ([volume, "--devices-per-node=8"], "leave some of 8 devices idle"),
    ):
        assert main([*options, *extra]) == 2
        assert message in capsys.readouterr().err


def test_jobsets_are_created_once(workdir, tmp_path, monkeypatch, capsys):
    """With a `kubectl` that keeps what it is given; a cluster has not been tried."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=tmp_path))
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = ["gke", f"--workdir={workdir}", "--queue=q", f"--volume=claim:{tmp_path}"]
    options += ["--container=image", "--accelerator=nvidia-l4", "--devices-per-node=1"]
    assert main(options) == 0
    assert "submitted 000, 001" in capsys.readouterr().out
    assert main(options) == 0
    assert "0 rows to submit, 2 running or waiting" in capsys.readouterr().out
    # One fails: it is submitted again, under the same name; the other goes on.
    items = json.loads((tmp_path / "items.json").read_text())
    items[0]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    (tmp_path / "items.json").write_text(json.dumps(items))
    assert main(options) == 0
    assert "submitted 000:" in capsys.readouterr().out
    assert main(["stop", str(workdir)]) == 0
    assert json.loads((tmp_path / "items.json").read_text()) == []


KUBECTL = """#!{python}
import json, pathlib, sys
store = pathlib.Path("{folder}") / "items.json"
items = json.loads(store.read_text()) if store.exists() else []
verb, *rest = sys.argv[1:]
names = [i["metadata"]["name"] for i in items]
if verb == "create":
    new = json.loads(pathlib.Path(rest[rest.index("-f") + 1]).read_text())["items"]
    clash = [i["metadata"]["name"] for i in new if i["metadata"]["name"] in names]
    if clash:
        sys.exit(f"AlreadyExists: {{clash}}")
    items += new
elif verb == "delete":
    items = [i for i in items if i["metadata"]["name"] not in rest]
elif verb == "get":
    print(json.dumps({{"items": items}}))
store.write_text(json.dumps(items))
"""


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
    assert "1 rows to submit" in capsys.readouterr().out
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
        "from conftest import tiny_config\nfrom grokjax.sweep import grid, product, seeds\n\n"
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


def beat(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = {"state": "running", "job": "7_0", "host": socket.gethostname(), "pid": os.getpid()}
    values |= {"step": 12, "rate": 3.5, "time": time.time()} | changes
    (folder / "status.json").write_text(json.dumps(values))


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
        (["--population=000", "--config=x.py"], "--config: a population's settings"),
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


def test_a_sigterm_before_training_is_resumable():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(grokjax.Interrupted, match="before training"), leaving_at_once():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


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
def test_a_sign_of_life_that_nobody_gives_is_none(workdir, wrong):
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
    with pytest.raises(UserError, match=r"free, the checkpoints of 1 populations take up to"):
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
    population = loop.Population(config, runs, load_datasets(runs))
    noise = np.random.default_rng(0)  # what is alike in a fresh state would be compressed away
    state = jax.tree.map(
        lambda x: noise.standard_normal(x.shape, np.float32) if x.dtype == np.float32 else x,
        population.init(),
    )
    with Checkpoints(tmp_path, keep=config.checkpoint.keep, num_runs=4) as saved:
        for step in (20, 30, 40):
            saved.save(step, state)
        for step in log_spaced_steps(40, config.checkpoint.analysis_steps_per_decade, 10):
            saved.save_analysis(step, loop.weights(state))
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
