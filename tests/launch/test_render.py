"""One job description, three renderers."""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
from jobset_schema import JOBSET, problems
from launching import beat, planned
from tiny import ROOT, tiny_config

from grokjax.base.errors import UserError
from grokjax.settings import read_experiment
from grokjax.sweeps.plan import population_folder
from launch import books, gke, slurm, submit
from launch.__main__ import main
from launch.job import Job, job_name

pytestmark = pytest.mark.usefixtures("workers_environment")


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
        (["slurm", "--at-once=-1"], "--at-once=-1: must be at least 0"),
        (["slurm", "--time=never"], "--time=never: give minutes or 1-12:30:00"),
        (["slurm", "--mem=much"], "--mem=much: give 64G"),
        (["slurm", f"--nodes={10**20}"], "must be at least 1 and at most 65536"),
        (["slurm", f"--gpus-per-node={10**20}"], "must be at least 0 and at most 65536"),
        (["slurm", "--cpus-per-task=-2"], "--cpus-per-task=-2"),
        (["local", "--workers=10000"], "cannot be shared out"),
        (["slurm", f"--config={workdir}/none.py"], "none.py"),
    ):
        assert main([*options[:1], f"--workdir={workdir}", "--dry-run", *options[1:]]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1
    assert main(["status", str(workdir / "none")]) == 2
    assert "is the workdir visible" in capsys.readouterr().err
    assert not (workdir / "launch").exists()


@pytest.mark.parametrize("name, value", [
    ("evaluate.metrics", "answer_rank,m.py:f@0123456789ab"), ("model.kind", "m.py@0123456789ab"),
])  # fmt: skip
def test_workers_are_given_the_experiment_whose_functions_a_row_names(name, value, tmp_path):
    config = tiny_config()
    config.update_from_flattened_dict({name: value})
    rows, given = [SimpleNamespace(config=config)], tmp_path / "x.py"
    args = argparse.Namespace(config=f"{given}:small")
    assert submit._experiment(args, rows) == f"{given}:small"
    plain = tiny_config()
    plain.name = "own.py"  # which names nothing
    assert submit._experiment(args, [SimpleNamespace(config=plain)]) == ""
    with pytest.raises(UserError, match=r"m.py.*: is of an experiment; give it, --config=FILE"):
        submit._experiment(argparse.Namespace(config=None), rows)


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

    def run(code, restarts=0):
        log.write_text("")
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CODE": str(code),
            "SLURM_ARRAY_JOB_ID": "41",
            "SLURM_ARRAY_TASK_ID": "7",
            "SLURM_JOB_ID": "43",
            "SLURM_RESTART_COUNT": str(restarts),
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
    folder = population_folder(job.workdir, "007")
    beat(folder, state="saved", job="41_7", attempt=2)
    code, calls = run(137, restarts=2)
    assert code == 75 and "requeue" in calls
    assert run(1, restarts=2)[0] == 1
    # That another attempt saved once is no reason to go on: this one was killed while it restored.
    assert run(137, restarts=1)[0] == run(137, restarts=0)[0] == 137
    beat(folder, state="saved", job="40_7", attempt=2)
    assert run(137, restarts=2)[0] == 137
    beat(folder, job="41_7", attempt=2)
    assert run(137, restarts=2)[0] == 137
    books.stop_file(job.workdir).parent.mkdir(parents=True, exist_ok=True)
    books.stop_file(job.workdir).touch()
    assert "requeue" not in run(75)[1]


def test_the_script_stops_a_row_that_comes_no_further(tmp_path):
    """Three attempts from the same checkpoint; a further checkpoint gives three more."""
    job = Job(tmp_path, ("007",), python="py")
    (tmp_path / "script.sh").write_text(slurm.render(job, slurm.SlurmOptions()))
    for name, end in (("srun", "exit 75"), ("timeout", "")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{end}\n")
        (tmp_path / name).chmod(0o755)

    def attempt(restarts, array=41):
        own = {"SLURM_ARRAY_JOB_ID": str(array), "SLURM_ARRAY_TASK_ID": "7", "SLURM_JOB_ID": "43"}
        own |= {"SLURM_RESTART_COUNT": str(restarts), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", tmp_path / "script.sh"], env=os.environ | own, capture_output=True, text=True
        )
        return done.returncode, done.stderr

    folder = population_folder(tmp_path, "007")
    for steps in ((), (90,), (90, 100)):  # of which the last one is the largest number
        for step in steps:
            state = folder / "checkpoints" / "state" / str(step)
            state.mkdir(parents=True, exist_ok=True)
            (state / "manifest.json").touch()
        first = 3 * len(steps)
        assert [attempt(first + i) for i in range(3)] == [(75, "")] * 3
    code, error = attempt(9)
    assert code == 1 and error.startswith("population 007: 3 attempts came no further")
    assert "3 attempts" in (folder / "error.txt").read_text()  # failed: `launch retry` knows it
    assert attempt(0, array=50)[0] == 75


@pytest.mark.parametrize(
    "name",
    [
        *("launch", "launch/attempts", "launch/attempts/007", "populations", "populations/007"),
        "populations/007/error.txt",
    ],
)
def test_the_script_writes_through_no_link(name, tmp_path):
    """Put there after it was submitted: what the link points to stays as it is."""
    workdir, outside = tmp_path / "w", tmp_path / "outside"
    (workdir / name).parent.mkdir(parents=True, exist_ok=True)
    outside.write_text("theirs") if name[-1] in "7t" else outside.mkdir()
    (workdir / name).symlink_to(outside)
    own = {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "7", "SLURM_JOB_ID": "43"}
    script = slurm.render(Job(workdir, ("007",), python="py"), slurm.SlurmOptions())
    done = subprocess.run(["bash", "-c", script], env=os.environ | own, capture_output=True)
    assert done.returncode == 2 and done.stderr.decode().endswith(
        f"{workdir / name}: a link; nothing is written through it: take it away\n"
    )
    assert outside.read_text() == "theirs" if outside.is_file() else not [*outside.iterdir()]


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


def test_a_plan_is_for_the_machines_of_the_job(tmp_path, monkeypatch, capsys):
    """Docs' example: the target goes to who plans; another than the job's own is refused."""
    script, seen = tmp_path / "python", tmp_path / "seen"
    script.write_text(
        f'#!/bin/sh\necho "$JAX_PLATFORMS" "$@" >> {seen}\n'
        "echo 'rows read: 1,000 of 3,000'\n"
        "echo 'grokjax: error: --target: its compiler is not installed' >&2\n"
        "echo 'said by an experiment, and buffered'\nexit 2\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    slices = ["--accelerator=tpu-v5-lite-podslice", "--topology=4x4", "--slices=2"]
    command = ["gke", f"--workdir={tmp_path / 'w'}", "--queue=team", "--devices-per-node=4"]
    command += ["--container=image", f"--volume=claim:{tmp_path}", "--dry-run"]
    config = ["--config=experiments/regimes.py"]
    assert main([*command, *slices, *config, "--target=v5e:4x4:2"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "rows read: 1,000 of 3,000" and len(told) == 2
    assert told[1] == "launch: error: --target: its compiler is not installed"
    (planned_by,) = seen.read_text().splitlines()
    assert planned_by.startswith("cpu -m grokjax sweep --plan-only")
    assert "--target=v5e:4x4:2" in planned_by
    for wrong in ("v5e:4x4", "h200"):
        assert main([*command, *slices, *config, f"--target={wrong}"]) == 2
        assert f"--target={wrong}: a row's machines are v5e:4x4:2" in capsys.readouterr().err
    gpus = ["--accelerator=nvidia-h100-80gb", "--nodes=2"]
    assert main([*command, *gpus, *config, "--target=h100:4"]) == 2
    assert "a row's machines are h100:8" in capsys.readouterr().err
    assert main([*command, *slices, "--target=v5e:4x4:2"]) == 2
    assert "--target=v5e:4x4:2: changes a plan; give --config=FILE" in capsys.readouterr().err
    assert len(seen.read_text().splitlines()) == 1


@pytest.mark.targets_full
def test_the_documented_slices_have_room(tmp_path, monkeypatch, capsys):
    """docs/operations.md, word for word but for its folder: each row's runs fit its v5e chips."""
    text = (ROOT / "docs" / "operations.md").read_text()
    command = text[text.index("python -m launch gke") :].split("\npython", 1)[0]
    words = command.replace("\\\n", " ").replace("/data", str(tmp_path)).split()[3:]
    monkeypatch.chdir(ROOT)
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out[said.out.index("{") :])["items"]
    _, plan = read_experiment("experiments/regimes.py")
    chips = 2 * 4 * 4
    assert 1 <= len(rows) <= -(-len(plan) // chips)  # no chip has nothing to do


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
