"""Two processes on one workdir: the second is refused, unless the first is dead."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.training import loop
from grokjax.workdir.lock import LOCK, Locked, locked

HOLD = """
import pathlib, sys, time
from grokjax.workdir.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "w")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_refused_by_name_and_a_dead_owner_keeps_nothing(tmp_path, holder):
    workdir = tmp_path / "w"
    before = [(p, p.stat().st_mtime_ns) for p in workdir.rglob("*")]
    with pytest.raises(Locked, match=rf"w: another process works in it \(host .*{holder.pid}\)"):
        grokjax.train_and_evaluate(tiny_config(train__num_steps=10), workdir)
    assert [(p, p.stat().st_mtime_ns) for p in workdir.rglob("*")] == before
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (workdir / LOCK).read_text()
    assert grokjax.train_and_evaluate(tiny_config(train__num_steps=10), workdir).curves.step.max()
    assert str(os.getpid()) in (workdir / LOCK).read_text()


def test_reading_needs_no_lock(tmp_path):
    grokjax.train_and_evaluate(tiny_config(train__num_steps=10), tmp_path)
    with locked(tmp_path):
        results = grokjax.load(tmp_path)
        assert results.parameters(0)["params"] and results.dataset(0)


def test_a_folder_that_was_only_locked_is_gone_again(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / ("x" * 300)):
        pass


def test_who_opened_a_removed_lock_does_not_share_it(tmp_path, monkeypatch):
    """The first owner leaves between another's opening and locking of the file."""
    from grokjax.workdir import lock

    folder = tmp_path / "made"
    first = locked(folder)
    first.__enter__()
    real, calls = lock._flock, []

    def flock(file, path, wait):
        if not calls:
            calls.append(file)
            first.__exit__(None, None, None)
        real(file, path, wait)

    monkeypatch.setattr(lock, "_flock", flock)
    with locked(folder):
        monkeypatch.undo()
        with pytest.raises(Locked), locked(folder):
            pass


def test_waiting(tmp_path):
    order = []

    def second():
        with locked(tmp_path, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path):
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_sweep_leaves_a_population_to_who_trains_it(tmp_path, capsys):
    from tiny import fast, rows

    from grokjax.sweeps.plan import population_folder

    with locked(population_folder(tmp_path, "000")):
        found = grokjax.run_sweep(fast(), rows(1, (16, 32)), tmp_path)
    assert found.runs.status.tolist() == ["pending", "done"]
    assert "left alone: " in capsys.readouterr().out
    for name in ("error.txt", "status.json"):  # which are its owner's
        assert not (population_folder(tmp_path, "000") / name).exists()
    assert (
        grokjax.run_sweep(fast(), rows(1, (16, 32)), tmp_path).runs.status.tolist() == ["done"] * 2
    )


def test_a_refused_process_leaves_the_owner_alone(tmp_path, monkeypatch):
    """Its own signal handlers and checkpoints are untouched by the refusal."""
    before = signal.getsignal(signal.SIGTERM)
    with locked(tmp_path), pytest.raises(Locked):
        loop.train(tiny_config(train__num_steps=10), tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
