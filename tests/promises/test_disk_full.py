"""A disk that is full at any moment of a training: one line, nothing lost, and it goes on."""

import contextlib
import errno
import gc
import logging
import os
import pkgutil
import subprocess
import warnings

import kill_trials
import pytest

from grokjax.cli import main
from grokjax.workdir import checkpoints

STEPS = 40


def command(workdir):
    return kill_trials.command(workdir, train__num_steps=STEPS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("disk") / "w"
    assert main(command(workdir)[3:]) == 0
    like = kill_trials.abstract_state(workdir)
    return like, kill_trials.outcome(workdir, like)


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A file system of its own, and a function that makes it larger."""
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)],
            capture_output=True, check=False,
        ).returncode  # fmt: skip

    if mount(f"size={kilobytes}k"):
        pytest.skip("mounting is not allowed here; the faulting writer below stands for it")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def assert_one_line(code, captured, said):
    assert code == 2 and captured.err.startswith("grokjax: error: "), captured.err
    assert captured.err.count("\n") == 1 and said in captured.err, captured.err
    assert captured.err.endswith("and the same command goes on\n"), captured.err


def test_a_full_disk_stops_in_one_line_and_more_room_goes_on(tmp_path, undisturbed, capfd):
    """Room grows a little at a time, so that every writer meets the end of it."""
    like, expected = undisturbed
    workdir, reached = tmp_path / "disk" / "w", []
    with small_disk(tmp_path / "disk", 4) as remount:
        for kilobytes in (4, 20, 40, 400, 800):
            remount(f"size={kilobytes}k")
            code = main(command(workdir)[3:])
            assert_one_line(code, capfd.readouterr(), "No space left on device")
            states, _ = kill_trials.restore_listed(workdir, like)  # every one, verified
            reached.append(max(states, default=0))
        assert reached == sorted(reached) and reached[0] == 0 and 0 < reached[-1] < STEPS
        remount("size=100m")
        assert main(command(workdir)[3:]) == 0
        assert kill_trials.outcome(workdir, like) == expected
        remount("ro")
        assert_one_line(main(command(workdir)[3:]), capfd.readouterr(), "Read-only file system")
        assert kill_trials.outcome(workdir, like) == expected


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_as_orbax_says_it():
    raise ValueError(f"RESOURCE_EXHAUSTED: Error writing: {os.strerror(errno.ENOSPC)}\n at ...")


FAULTS = {
    "settings": ("grokjax.workdir.layout.write_atomically", 1, full),
    "curves": ("grokjax.workdir.tables.CurveWriter._write", 3, full),
    "events": ("tensorboard.summary.writer.record_writer.RecordWriter.write", 6, full),
    "checkpoint": (
        "orbax.checkpoint.CheckpointManager.wait_until_finished",
        9,
        full_as_orbax_says_it,
    ),
    "manifest": ("grokjax.workdir.manifest.write_atomically", 3, full),
}


@pytest.mark.parametrize("writer", [
    pytest.param(w, marks=[] if w == "checkpoint" else pytest.mark.kill) for w in FAULTS
])  # fmt: skip
def test_a_writer_that_fails(writer, tmp_path, undisturbed, monkeypatch, capfd):
    """The same without a small disk, for machines that let nobody mount one."""
    like, expected = undisturbed
    name, good, fail = FAULTS[writer]
    real, calls = pkgutil.resolve_name(name), []

    def faulty(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs) if len(calls) < good else fail()

    with monkeypatch.context() as m:
        m.setattr(name, faulty)
        code = main(command(tmp_path / "w")[3:])
    assert_one_line(code, capfd.readouterr(), "No space left on device")
    if (tmp_path / "w").exists():
        kill_trials.restore_listed(tmp_path / "w", like)
    assert main(command(tmp_path / "w")[3:]) == 0
    assert kill_trials.outcome(tmp_path / "w", like) == expected


@pytest.mark.parametrize("name", ["absl", "asyncio"])
def test_what_is_raised_is_not_logged_too(name, caplog):
    """Orbax's threads log a page for each file that they could not write."""
    logger = logging.getLogger(name)
    logger.error("RESOURCE_EXHAUSTED: %s", os.strerror(errno.ENOSPC))
    try:
        full()
    except OSError:
        logger.error("a save failed", exc_info=True)
    assert not caplog.records
    logger.error("something else")
    assert [record.message for record in caplog.records] == ["something else"]


def test_writes_given_up_are_not_warned_of(recwarn):
    """Orbax makes a coroutine for each fragment, and leaves the rest when one fails."""

    async def write_fragment(): ...

    async def other(): ...

    warnings.resetwarnings()
    checkpoints._hush()
    for make in (write_fragment, other):
        make()
    gc.collect()
    assert len(recwarn) == 1 and "other" in str(recwarn[0].message)
