"""The command line as a user types it: one line and exit code 2 for bad input, nothing written."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest
from conftest import PRETRAINING, ROOT

import grokjax
from grokjax.cli import main
from grokjax.data.folder import read_folder
from grokjax.workdir.checkpoints import Checkpoints

TINY = (
    f"--config={ROOT}/experiments/pretrain.py:small",
    "--config.data.num_entities=12",
    "--config.data.num_relations=6",
    "--config.model.hidden_size=16",
    "--config.model.num_heads=2",
    "--config.train.batch_size=16",
    "--config.train.num_steps=20",
    "--config.train.eval_every=10",
    "--config.train.chunk_steps=10",
    "--config.checkpoint.every=20",
)
CONFIG = f"--config={ROOT}/experiments/pretrain.py"

BAD = {
    "unknown setting": (["--config.train.num_stepz=3"], "did you mean 'train.num_steps'?"),
    "of another type": (
        ["--config.train.num_steps=many"],
        "num_steps=many: invalid literal",
    ),
    "out-degree": (["--config.data.out_degree=99"], "out_degree"),
    "phi": (["--config.data.phi=500"], "phi"),
    "heads": (["--config.model.num_heads=3"], "3 heads do not divide hidden_size 64"),
    "mixer": (["--config.model.mixer=conv"], "'conv' is none of mlp, attention"),
    "no folder": (["--config.data.folder=nowhere"], "nowhere: no such folder"),
    "workdir": (["--workdir="], "the path is empty"),
    "workdir in a file": ([f"--workdir={ROOT}/README.md/x"], "README.md is a file"),
    "long workdir": (["--workdir=" + "x" * 300], "File name too long"),
    "flag": (["--wrkdir=x"], "unknown argument '--wrkdir'"),
    "no experiment": (["--config=experiments/nothing.py"], "no such file"),
    "regime": (["--config.data.regime=neutral"], "regime"),
    "stage": (["--config.evaluate.path_stage=H7"], "'H7' is none of best, Init"),
    "entities": (["--config.data.num_entities=40000"], "tokens"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line(what, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[what]
    assert main(["train", CONFIG, "--workdir=w", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("grokjax: error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, message", [
    (["train"], "the following arguments are required"), (["bogus"], "invalid choice"),
    (["quickstart", "--smoke=1"], "ignored explicit argument"), (["--x"], "required: COMMAND"),
    (["quickstart", "--workdir="], "the path is empty"),
])  # fmt: skip
def test_bad_command_lines_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_train_then_again_then_more(tmp_path, capsys):
    command = ["train", *TINY, f"--workdir={tmp_path / 'w'}"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "member-steps/s" in first and "natural" in first and "OOD accuracy" in first
    assert (tmp_path / "w/figures/curves.png").stat().st_size > 10_000
    assert main(command) == 0
    assert "done at step 20" in capsys.readouterr().out
    assert main([*command, "--config.train.num_steps", "30"]) == 0
    assert "resuming at step 20" in capsys.readouterr().out
    assert grokjax.load(tmp_path / "w").curves.step.max() == 30
    assert main([*command, "--config.train.batch_size=8", "--config.train.num_steps=30"]) == 2
    assert "train.batch_size: 16 -> 8" in capsys.readouterr().err


def test_a_foreign_checkpoint_is_one_line(tmp_path, capsys):
    """Of other settings, under a config.json that was edited to match."""
    command = ["train", *TINY, f"--workdir={tmp_path / 'w'}"]
    assert main(command) == 0
    path = tmp_path / "w/config.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["hidden_size"] = 8
    path.write_text(json.dumps(content))
    capsys.readouterr()
    more = ["--config.model.hidden_size=8", "--config.train.num_steps=30"]
    assert main([*command, *more]) == 2
    printed = capsys.readouterr().err
    assert "of other settings (hash" in printed and printed.count("\n") == 1


def test_data_is_written_and_read_back(tmp_path, capsys):
    out = tmp_path / "composition"
    assert main(["data", *TINY[:3], f"--out={out}"]) == 0
    assert f"train {read_folder(out).counts['num_train']:,}" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "train.json", "valid.json", "test.json", "vocab.json", "id_facts.json", "ood_facts.json",
    }  # fmt: skip
    assert main(["data", *TINY[:3], f"--out={out}"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_data_of_a_folder_is_the_folder(tmp_path):
    assert main(["data", CONFIG, f"--config.data.folder={PRETRAINING}", f"--out={tmp_path}/d"]) == 0
    for path in PRETRAINING.iterdir():
        assert (tmp_path / "d" / path.name).read_bytes() == path.read_bytes()


def test_the_smoke_quickstart_walks_the_whole_path(tmp_path, capsys):
    """In half of its steps; `.ci/run` takes them all."""
    short = ("train.num_steps=100", "train.chunk_steps=50", "checkpoint.every=50")
    options = [f"--config.{setting}" for setting in short]
    assert main(["quickstart", "--smoke", f"--workdir={tmp_path}/q", *options]) == 0
    printed = capsys.readouterr().out
    results = grokjax.load(tmp_path / "q")
    assert results.runs.groupby("regime").size().min() >= 3
    for regime in ("natural", "both_hop_full", "second_hop_full"):
        assert f"{regime} answers" in printed
    assert (tmp_path / "q/figures/curves.png").exists()
    assert len(list((tmp_path / "q/tensorboard").iterdir())) == len(results.runs)


def test_the_paper_at_reduced_width_takes_two_steps(tmp_path, capsys):
    """Its data, H cycles, registers, bf16 and stablemax loss, on one regime of the five per run."""
    command = [
        "train", f"--config={ROOT}/experiments/paper.py:reduced", f"--workdir={tmp_path}/p",
        "--config.train.num_steps=2", "--config.train.batch_size=8", "--config.data.max_probes=16",
        "--config.model.hidden_size=16", "--config.model.register_size=16",
        "--config.model.L_cycles=1",
    ]  # fmt: skip
    assert main(command) == 0
    results = grokjax.load(tmp_path / "p")
    assert results.runs.regime.tolist() == [
        "natural", "both_hop_full", "both_hop_half", "first_hop_full", "second_hop_full",
    ]  # fmt: skip
    assert results.config.model.dtype == "bfloat16" and results.config.data.num_entities == 2000
    assert results.runs.num_train.is_unique and results.runs.num_train.min() > 600_000
    assert results.curves.loss[results.curves.step == 2].between(1, 100).all()
    assert "GiB" in capsys.readouterr().out


def training(workdir, num_lines, *options, **pipes):
    """A process whose curves have more than so many lines."""
    command = [sys.executable, "-m", "grokjax", "train", *TINY, f"--workdir={workdir}", *options]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    curves = workdir / "curves.csv"
    deadline = time.monotonic() + 120
    while not (curves.exists() and curves.read_text().count("\n") > num_lines):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_what_resumes(number, tmp_path):
    process = training(tmp_path / "w", 3, "--config.train.num_steps=200000", stdout=subprocess.PIPE)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopping: saving after this chunk" in output
    with Checkpoints(tmp_path / "w/checkpoints") as saved:
        step = saved.steps()[-1]
    assert step % 10 == 0 and step >= grokjax.load(tmp_path / "w").curves.step.max()


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    """In the middle of a chunk that takes minutes, where Python's own handlers wait."""
    long = ["--config.train.num_steps=2000000", "--config.train.chunk_steps=1000000"]
    long += ["--config.train.eval_every=1000000", "--config.checkpoint.every=1000000"]
    process = training(tmp_path / "w", 1, *long, stderr=subprocess.PIPE)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # schedulers do that
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130 and error.endswith("grokjax: stopped at once\n")


def test_checkpoints_are_listed(tmp_path, capsys):
    workdir = tmp_path / "w"
    assert main(["train", *TINY, f"--workdir={workdir}", "--config.checkpoint.every=10"]) == 0
    capsys.readouterr()
    assert main(["checkpoints", str(workdir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "step", "state"]
    assert [line.split() for line in lines[1:3]] == [
        ["state", "10", "good"],
        ["state", "20", "good"],
    ]
    assert lines[-1] == "5 good, 0 damaged, 0 partial (sizes compared; --verify reads every byte)"
    data = max((workdir / "checkpoints/state/20").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    (workdir / "checkpoints/state/30").mkdir()
    assert main(["checkpoints", str(workdir)]) == 0
    assert main(["checkpoints", str(workdir), "--verify"]) == 1
    text = capsys.readouterr().out
    assert f"damaged  {data.relative_to(workdir / 'checkpoints/state/20')} is damaged" in text
    assert "30    partial  has no manifest: its save was cut off" in text
    assert "4 good, 1 damaged, 1 partial" in text
    assert main(["checkpoints", str(tmp_path / "nowhere")]) == 2
    assert "has no checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("code, message", [
    ("def get_config():\n    return 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
    ("def get_config():\n    return 3\n", "its get_config() gives no ConfigDict"),
    ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError: No module named"),
    ("def get_config(:\n", "line 1: invalid syntax"),
    ("from conftest import tiny_config as get_config\ndef sweep(add):\n    add(3)\n",
     "line 3: TypeError: 'int' object"),
    ("from conftest import tiny_config as get_config\ndef sweep(add):\n    import json\n"
     "    json.loads('{')\n", "line 4: JSONDecodeError"),
    ("from grokjax.config import default_config\n",
     "line 1: there is no grokjax.config any more; import what it had from grokjax.settings"),
    ("from tiny import tiny_config\ndef get_config():\n    c = tiny_config()\n"
     "    c.optimizer.lr = 0.5\n", "line 4: config: unknown setting 'optimizer.lr'; did you mean"
     " 'optimizer.learning_rate'?"),
    ("from tiny import tiny_config\ndef get_config():\n    c = tiny_config()\n"
     "    c.data.update({'seed': 5})\n", "line 4: config: unknown setting 'data.seed'; did you mean"
     " 'seeds.data'?"),
    ("from tiny import tiny_config as get_config\ndef sweep(add):\n    add({'model.width': 8})\n",
     "line 3: config: unknown setting 'model.width'; did you mean 'model.hidden_size'?"),
    ("from ml_collections import ConfigDict\ndef get_config():\n"
     "    return ConfigDict({'train': {'steps': 3}})\n", "did you mean 'train.num_steps'?"),
])  # fmt: skip
def test_a_mistake_in_an_experiment_is_told_with_its_line(
    code, message, tmp_path, capsys, unchecked
):
    file = tmp_path / "x.py"
    file.write_text(code)
    for command in ("train", "sweep"):
        assert main([command, f"--config={file}", f"--workdir={tmp_path}/w"]) == 2
        error = capsys.readouterr().err
        assert f"--config={file}: " in error.replace(f"{file}: its", f"--config={file}: its")
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "w").exists()


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for command in ("train", "quickstart", "data", "checkpoints", "bench"):
        assert command in text


def test_bench_names_its_parts(capsys):
    assert main(["bench", "--only=speed"]) == 2
    assert "choose of quickstart, population, paper, host" in capsys.readouterr().err


def test_jax_sees_four_devices():
    assert len(jax.devices()) == 4
