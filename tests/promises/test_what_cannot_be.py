"""What no machine, no file system and no terminal should be asked for: one line, exit code 2."""

import os
import subprocess
import sys
import time

import pytest
from launching import OWN, beat, planned
from tiny import ROOT

from grokjax.base.text import Plain
from grokjax.runtime import heartbeat, progress
from grokjax.sweeps.plan import population_folder
from launch.__main__ import main as launch_main

SMALL = f"--config={ROOT}/experiments/pretrain.py:small"


def told(*words, limit=60, program="grokjax", **environment):
    """Exit code and error of a command, which has to end within `limit` seconds."""
    done = subprocess.run(
        [sys.executable, "-m", program, *map(str, words)],
        env=os.environ | OWN | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    return done.returncode, done.stderr


def refused(said, *words, **options):
    code, error = told(*words, **options)
    assert (code, error.count("\n")) == (2, 1) and "error: " in error, error
    assert said in error


CANNOT = {
    "a model that no memory holds": (["model.hidden_size=1000000"], "GiB for the state alone"),
    "an inner width of 64 GB": (["model.mlp_multiple=1000000000"], "GiB for the state alone"),
    "an inner width beyond numbers": (["model.expansion=1e30"], "GiB for the state alone"),
    "a checkpoint at every step": (
        ["checkpoint.analysis_steps_per_decade=1000000000"],
        "at least 1 and at most 1000",
    ),
}


@pytest.mark.parametrize("what", CANNOT)
def test_settings_that_cannot_be(what, tmp_path):
    settings, said = CANNOT[what]
    options = [f"--config.{setting}" for setting in settings]
    refused(said, "train", SMALL, *options, f"--workdir={tmp_path / 'w'}")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_PLATFORMS": "tpu"},
        {"JAX_PLATFORMS": "abacus"},
        {"JAX_NUM_CPU_DEVICES": "0"},
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=0", "JAX_NUM_CPU_DEVICES": "-1"},
    ],
    ids=lambda e: next(iter(e.values())),
)
def test_devices_that_are_not_there(environment, tmp_path):
    refused(
        "Unable to initialize backend", "train", SMALL, f"--workdir={tmp_path / 'w'}", **environment
    )


COMMANDS = [
    ("grokjax", "train", SMALL),
    ("grokjax", "sweep", SMALL),
    ("launch", "slurm"),
    ("launch", "local"),
    ("launch", "slurm", SMALL),
    ("launch", "local", SMALL),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_workdir_that_cannot_be_made(words):
    """Making one there fails as if somebody had removed it: who tries again tries for ever."""
    program, *command = words
    refused("cannot be written", *command, "--workdir=/proc/x", program=program)


NONSENSE = """from tiny import tiny_config as get_config
def sweep(add):
    add({'seeds.data': 'x'})
"""
EXPERIMENTS = {
    "import sys\nsys.exit(0)\n": "line 2: SystemExit: 0",
    "raise SystemExit\n": "line 1: SystemExit",
    NONSENSE: "seeds.data: 'x' is not of type int",
}


@pytest.mark.parametrize("code", EXPERIMENTS)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_experiments_that_leave_or_add_nonsense(code, command, tmp_path):
    (tmp_path / "x.py").write_text(code)
    path = {"PYTHONPATH": OWN["PYTHONPATH"]}
    refused(
        EXPERIMENTS[code],
        command,
        f"--config={tmp_path / 'x.py'}",
        f"--workdir={tmp_path / 'w'}",
        **path,
    )


def test_no_control_character_reaches_the_terminal(tmp_path):
    """From files of a workdir, in what is said and in what is refused."""
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    planned(tmp_path, widths=(16,))
    beat(population_folder(tmp_path, "000"), job=f"{evil}\n", host=evil, rate=1.0)
    for words in (
        ["launch", "status", tmp_path],
        ["launch", "stop", tmp_path],
        ["grokjax", "report", tmp_path / evil],
        ["grokjax", "train", SMALL, "--workdir=w", f"--{evil}=1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            env=os.environ | OWN,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        printed = done.stdout + done.stderr
        assert "owned" in printed and all(c.isprintable() or c == "\n" for c in printed), words


def test_progress_still_returns_to_the_line(capsys):
    Plain(sys.stdout).write("\rstep 3\x1b[2J\rgone")
    assert capsys.readouterr().out == "\rstep 3\ufffd[2J\ufffdgone"


def test_planning_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LOG_EVERY", 0.0)
    assert list(progress.told([5, 6], "programs planned")) == [5, 6]
    assert capsys.readouterr().out == "programs planned: 0 of 2\nprograms planned: 1 of 2\n"


@pytest.mark.parametrize("ahead", [0.4, 3600.0, 1e9])
def test_a_beat_from_the_future_counts_as_of_now(ahead, tmp_path, monkeypatch, capsys):
    """Who waits says for whom and until when, and no longer than for any other."""
    monkeypatch.setattr(heartbeat, "STALE_AFTER", 1.0)
    beat(tmp_path, host="elsewhere", pid=77, job="9_1", time=time.time() + ahead)
    start = time.monotonic()
    heartbeat.require_free(tmp_path)
    assert 0.9 < time.monotonic() - start < 3
    said = capsys.readouterr().out
    until = time.strftime("%H:%M", time.localtime())
    assert f"waiting until {until}" in said and "process 77 on elsewhere, job 9_1" in said


@pytest.mark.parametrize("ahead", [3600.0, 1e9])
def test_a_trainer_whose_clock_is_ahead_is_dead_a_minute_after_it(ahead, tmp_path, capsys):
    """For launchers and `launch status`, which wait for nobody."""
    planned(tmp_path)
    folder = population_folder(tmp_path, "000")
    beat(folder, host="elsewhere", pid=77, job="9_1", time=time.time() + ahead)

    def row():
        assert launch_main(["status", str(tmp_path)]) == 0
        return next(x for x in capsys.readouterr().out.splitlines() if x.startswith("000"))

    assert "running" in row()
    written = time.time() - 2 * heartbeat.STALE_AFTER
    os.utime(folder / heartbeat.STATUS, (written, written))
    assert "running" not in row()
