"""Signals at any moment: one line and 75 (130 for Ctrl-C) within 2 s, or what was trained is saved.

By command line; how often each was tried, docs/operations.md says.
"""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from launching import OWN, planned

from grokjax.sweeps.plan import population_folder

LIMIT = 2.0  # seconds
LEFT = {
    signal.SIGTERM: (75, "grokjax: stopped with nothing to save; the same command goes on\n"),
    signal.SIGINT: (130, "grokjax: stopped\n"),
}
CONFIG = f"--config={ROOT}/experiments/pretrain.py:small"
# Two programs that take XLA some ten seconds each.
SLOW = [
    "--config.model.num_layers=24",
    "--config.model.H_cycles=6",
    "--config.model.hidden_size=32",
]


def start(workdir, *options, cache, **changes):
    environment = os.environ | OWN | {"GROKJAX_CACHE": str(cache)} | changes
    command = [sys.executable, "-m", "grokjax", *options, f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, cwd=ROOT, **pipes)


def stopped(process, number):
    """Exit code, what was printed, and the seconds that it took to leave."""
    process.send_signal(number)
    since = time.monotonic()
    try:
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output, error, time.monotonic() - since


def handles(process, number):
    """Whether the process has a handler for a signal."""
    with open(f"/proc/{process.pid}/status") as file:
        caught = re.search(r"SigCgt:\s*(\w+)", file.read())
    return int(caught[1], 16) >> (number - 1) & 1


def wait_until(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


IMPORTS_WATCHED = """
import runpy, signal, sys

class Watch:
    def find_spec(self, name, *_):
        if name == FIRST:
            print(*(callable(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)))
            raise SystemExit

sys.meta_path.insert(0, Watch())
runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "program, first, words",
    [("grokjax", "argparse", ["train", CONFIG]), ("launch", "pandas", ["worker"])],
)
def test_handlers_are_there_before_anything_that_takes_long(program, first, words, tmp_path):
    code = f"FIRST, PROGRAM = {first!r}, {program!r}\n{IMPORTS_WATCHED}"
    command = [sys.executable, "-c", code, *words, f"--workdir={tmp_path}/w"]
    environment = os.environ | OWN
    done = subprocess.run(command, text=True, env=environment, cwd=ROOT, capture_output=True)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize("number", LEFT)
def test_in_the_first_seconds_it_is_one_line(number, tmp_path):
    """From the first import on."""
    for delay in (0.0, 0.1, random.uniform(0.2, 3)):
        process = start(tmp_path / "w", "train", CONFIG, cache=tmp_path / "cache")
        wait_until(process, lambda p=process: handles(p, signal.SIGTERM))
        time.sleep(delay)
        code, _, error, seconds = stopped(process, number)
        assert (code, error) == LEFT[number], delay
        assert seconds < LIMIT, delay
        assert not (tmp_path / "w" / "config.json").exists()


@pytest.mark.parametrize("number", LEFT)
def test_in_a_compilation_it_is_one_line(number, tmp_path):
    process = start(tmp_path / "w", "train", CONFIG, *SLOW, cache=tmp_path / "cache")
    wait_until(process, (tmp_path / "w" / ".lock").exists)
    time.sleep(random.uniform(0, 8))
    code, _, error, seconds = stopped(process, number)
    assert (code, error) == LEFT[number] and seconds < LIMIT


SHORT = ["train.num_steps=2000000", "train.chunk_steps=1", "train.eval_every=5",
         "checkpoint.every=5", "data.num_entities=12", "data.num_relations=6",
         "train.batch_size=16", "model.hidden_size=16", "model.num_heads=2"]  # fmt: skip
SHORT = [f"--config.{setting}" for setting in SHORT]
IN_A_CALLBACK = f"""
import gc, signal, sys
sys.path.insert(0, "{ROOT}/experiments")
from pretrain import get_config

def called(*_):
    gc.callbacks.remove(called)
    signal.raise_signal(signal.SIGTERM)

gc.callbacks.append(called)
gc.collect()
"""


def test_none_is_lost_in_a_callback(tmp_path):
    """What a handler raises there is ignored, and training would go on."""
    (tmp_path / "x.py").write_text(IN_A_CALLBACK)
    config = f"--config={tmp_path / 'x.py'}:small"
    process = start(tmp_path / "w", "train", config, *SHORT, cache=tmp_path / "cache")
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, error) == LEFT[signal.SIGTERM]


def test_none_is_lost_once_there_is_something_to_save(tmp_path):
    for trial in range(2):
        workdir = tmp_path / f"w{trial}"
        process = start(workdir, "train", CONFIG, *SHORT, cache=tmp_path / "cache")
        wait_until(process, (workdir / "curves.csv").exists)
        time.sleep(random.uniform(0, 0.7))
        code, output, error, _ = stopped(process, signal.SIGTERM)
        assert code == 75 and error.count("\n") == 1, error
        if "saved at step" in error:
            assert "stopping: saving after this chunk" in output
        else:
            assert error == LEFT[signal.SIGTERM][1]


def test_a_worker_has_it_from_its_launcher_on(tmp_path):
    """Signals that come before the worker can answer wait for it: it never ends with -15."""
    workdir = tmp_path / "w"
    planned(workdir, widths=(16,))
    command = [sys.executable, "-m", "launch", "local", f"--workdir={workdir}"]
    launcher = subprocess.Popen(
        command, env=os.environ | OWN, cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert "population 000: started" in launcher.stdout.readline() + launcher.stdout.readline()
    launcher.terminate()  # which passes it on, within the worker's first milliseconds
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 75 and "population 000: saved; the same command" in output
    log = (workdir / "launch" / "logs" / "local_000.out").read_text()
    assert log.count("\n") == 1 and "stopped with nothing to save" in log
    assert not (population_folder(workdir, "000") / "error.txt").exists()


def test_a_launcher_ends_the_process_that_plans_for_it(tmp_path):
    command = [sys.executable, "-m", "launch", "slurm", CONFIG, f"--workdir={tmp_path / 'w'}"]
    launcher = subprocess.Popen(
        command, env=os.environ | OWN, cwd=ROOT, text=True, stderr=subprocess.PIPE
    )
    children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    wait_until(launcher, children.read_text)
    planning = pathlib.Path(f"/proc/{int(children.read_text())}/stat")
    time.sleep(random.uniform(0, 1))
    launcher.terminate()
    _, error = launcher.communicate(timeout=60)
    said = LEFT[signal.SIGTERM][1].replace("grokjax", "launch")
    assert (launcher.returncode, error) == (75, said)
    deadline = time.monotonic() + 10
    while planning.exists() and ") Z " not in planning.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
