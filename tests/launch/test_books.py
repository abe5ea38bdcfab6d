"""What has been submitted, as anybody may have left it; and whom `launch stop` signals."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from launching import ENVIRONMENT, beat
from tiny import ROOT

from grokjax.runtime.heartbeat import process_start
from grokjax.sweeps.plan import population_folder
from launch import books

GOOD = {"launcher": "slurm", "job": "1", "populations": ["000"], "options": {}}
MALFORMED = {
    "no job": {"launcher": "local", "populations": ["000"]},
    "no options": {"launcher": "slurm", "populations": ["000", "001"], "options": None},
    "few options": {"launcher": "slurm", "populations": ["000", "001"], "options": {"nodes": 1}},
    "options of other types": GOOD | {"options": {"nodes": "two", "extra": 7}},
    "populations that are none": GOOD | {"populations": 7},
    "populations of numbers": GOOD | {"populations": [0, 1]},
    "a launcher that is none": GOOD | {"launcher": ["slurm"]},
    "an unknown launcher": GOOD | {"launcher": "condor", "populations": ["000", "001"]},
    "a pid that is none": GOOD | {"launcher": "local", "pid": "me", "host": socket.gethostname()},
    "a huge pid": GOOD | {"launcher": "local", "pid": 10**30, "host": socket.gethostname()},
    "a host that is none": GOOD | {"launcher": "local", "pid": 3, "host": {}},
    "a cluster's, without options": GOOD | {"launcher": "gke"},
}


def told(workdir, *command):
    """Exit code and lines of error of a command."""
    words = [sys.executable, "-m", "launch", *command, str(workdir)]
    done = subprocess.run(
        words, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.fixture
def jobs(workdir):
    (workdir / "launch").mkdir()
    return workdir / "launch" / "jobs.jsonl"


def test_a_torn_line_takes_no_other_with_it(tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "jobs.jsonl").write_text('{"launcher": "slu')
    books.record(tmp_path, GOOD)
    books.record(tmp_path, GOOD | {"job": "2"})
    assert [entry["job"] for entry in books.records(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_record_is_at_most_one_line(what, jobs, workdir):
    jobs.write_text(json.dumps(MALFORMED[what]) + "\n")
    for name in ("000", "001"):
        population_folder(workdir, name).mkdir(parents=True)
        (population_folder(workdir, name) / "error.txt").write_text("no room")
    for command in ("status", "stop", "retry"):
        code, error = told(workdir, command)
        assert code in (0, 2) and "Traceback" not in error
        assert error.count("\n") <= 2 and all(x.startswith("launch: ") for x in error.splitlines())
    assert code == 2  # of retry: nobody knows how


def test_books_that_are_no_file_are_one_line(jobs, workdir):
    os.mkfifo(jobs)
    code, error = told(workdir, "retry")
    assert code == 2 and "is not a plain file" in error and error.count("\n") == 1


@pytest.fixture
def innocent():
    """A process that has the number of one that was ours."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("start", ["before", "now"])
def test_stop_leaves_an_innocent_launcher_alone(start, jobs, workdir, innocent):
    """Of a launcher that is at work, as the lock says, but not under this number."""
    began = process_start(innocent.pid) - 5 * (start == "before")
    own = {"launcher": "local", "host": socket.gethostname(), "pid": innocent.pid, "start": began}
    jobs.write_text(json.dumps(GOOD | own) + "\n")
    beat(population_folder(workdir, "000"), pid=innocent.pid, start=began)
    with books.locked(workdir):
        code, error = told(workdir, "stop")
    assert (code, error) == (0, "") and innocent.poll() is None


@pytest.mark.parametrize("pid", [0, -1, 1])
def test_stop_signals_nobody_by_a_number_that_is_everybodys(pid, jobs, workdir):
    own = {"launcher": "local", "host": socket.gethostname(), "pid": pid}
    jobs.write_text(json.dumps(GOOD | own) + "\n")
    with books.locked(workdir):
        code, error = told(workdir, "stop")  # it would hear of it
    assert code == 0 and error.count("\n") <= 1


def test_stop_signals_a_worker_of_ours(workdir):
    """By its number, when it began, and its command line."""
    code = "import time; print(flush=True); time.sleep(600)"
    words = [sys.executable, "-c", code, "grokjax"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            start = process_start(process.pid)
            beat(population_folder(workdir, "000"), pid=process.pid, start=start)
            assert told(workdir, "stop") == (0, "")
            assert process.wait(timeout=10) == -signal.SIGTERM
        finally:
            process.kill()
