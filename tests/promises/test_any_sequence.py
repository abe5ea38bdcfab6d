"""Whatever is done to a workdir, in any order: nothing is lost, no row doubled, no end another.

A machine draws what happens next: start, extend, interrupt, kill, damage, delete, change a setting,
evaluate, report. A kill is what the disk had at that moment: as a file is about to be renamed or
synchronised, or a chunk is over, the folder is copied, whatever other threads are writing, and
the copy takes the place of what the process left when it ended.
"""

import collections
import contextlib
import functools
import os
import pathlib
import shutil
import signal
import tempfile
import time

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kill_trials import outcome
from snapshots import contents, snapshot_taken
from undisturbed import EVERY, Undisturbed, alike, config_of, digest, rows_of, same

import grokjax
from grokjax.base.errors import UserError
from grokjax.report import write_report
from grokjax.runtime.interrupt import Interrupted
from grokjax.workdir.checkpoints import KINDS, Checkpoints

_AT_LEAST = 3  # sequences, however slow the machine
LENGTHS = st.integers(2, 12).map(lambda n: 5 * n)  # odd portions, too
PLACES = st.integers(0, 10**6)  # of one among many, counted around


class Killed(BaseException):
    """The process is gone; what it would have written from now on does not count."""


def act(**drawn):
    """A rule that is counted."""

    def decorated(function):
        @rule(**drawn)
        @functools.wraps(function)
        def counted(self, **values):
            if not self.is_over:
                self.tried[function.__name__.replace("_", " ")] += 1
                function(self, **values)

        return counted

    return decorated


class Workdirs(RuleBasedStateMachine):
    """A workdir and what must be in it."""

    whole: Undisturbed  # of the class that a test makes
    tried: collections.Counter
    until = float("inf")  # seconds of the monotonic clock; from then on nothing is done

    def __init__(self):
        super().__init__()
        self.is_over = time.monotonic() > self.until and self.tried["sequences"] >= _AT_LEAST
        self.tried["sequences"] += not self.is_over
        self._scratch = tempfile.TemporaryDirectory()
        self.workdir = pathlib.Path(self._scratch.name) / "w"
        self.num_steps = 0  # of the longest training that was asked for
        self.good = {kind: set() for kind in KINDS}  # steps, every byte compared
        self.taken = set()  # rows, by this machine
        self.starts = set()  # steps, of the sessions that rows are of
        self.edited = self.unsealed = False

    def teardown(self):
        self._scratch.cleanup()

    # What is done.

    @act(num_steps=LENGTHS)
    def start_or_go_on_or_extend(self, num_steps):
        self._train(num_steps)

    @act(num_steps=LENGTHS, after=st.integers(1, 12))
    def interrupt(self, num_steps, after):
        calls = []

        def on_step(step):
            calls.append(step)
            if len(calls) == after:
                os.kill(os.getpid(), signal.SIGTERM)

        self._train(num_steps, on_step)

    @act(num_steps=LENGTHS, after=st.integers(1, 400), torn=st.booleans())
    def kill(self, num_steps, after, torn):
        copy = self.workdir.with_name("copy")
        with snapshot_taken(self.workdir, copy, after) as taken:

            def on_step(step):
                taken.count()
                if taken.is_there:
                    raise Killed

            self._train(num_steps, on_step)
        if taken.is_there:
            if self.workdir.exists():  # who ends in order takes away what holds nothing
                shutil.rmtree(self.workdir)
            copy.rename(self.workdir)
            curves = self.workdir / "curves.csv"
            if torn and curves.exists():
                with self._taking():
                    curves.write_bytes(curves.read_bytes()[:-3])

    @precondition(lambda self: any(self.good.values()))
    @act(place=PLACES, how=st.sampled_from(["flip", "cut", "remove", "unseal", "whole step"]))
    def damage(self, place, how):
        steps = sorted((kind, step) for kind in KINDS for step in self.good[kind])
        kind, step = steps[place % len(steps)]
        folder = self.workdir / "checkpoints" / kind / str(step)
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
        files = [p for p in files if p.name != "manifest.json"]  # of which some bytes say nothing
        path = files[place % len(files)]
        content = path.read_bytes()
        if how == "flip":
            at = place % len(content)
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        elif how == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif how == "remove":
            path.unlink()
        elif how == "unseal":
            (folder / "manifest.json").unlink()
        else:
            shutil.rmtree(folder)
        self.unsealed |= kind == "analysis" and how in ("unseal", "whole step")
        self.good[kind].remove(step)

    @precondition(lambda self: self._has("config.json"))
    @act(what=st.sampled_from(["tensorboard", "timing.json", "figures", "report.html"]))
    def delete(self, what):
        """What others are made from anew."""
        path = self.workdir / what
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @precondition(lambda self: len(self._lines()) > 2)
    @act(place=PLACES, how=st.sampled_from(["take out", "double", "cut", "tear", "remove"]))
    def edit_curves(self, place, how):
        header, *lines = (line for line in self._lines() if line.endswith("\n"))
        at = place % len(lines)
        if how == "take out":
            del lines[at]
        elif how == "double":
            lines.append(lines[at])
        elif how == "cut":
            del lines[at:]
        else:
            lines[-1] = lines[-1][:-4]
        with self._taking():
            if how == "remove":
                (self.workdir / "curves.csv").unlink()
            else:
                (self.workdir / "curves.csv").write_text("".join([header, *lines]))

    @precondition(lambda self: self._has("config.json"))
    @act()
    def change_a_setting(self):
        before = contents(self.workdir)
        with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.001 -> 0.002"):
            grokjax.train_and_evaluate(config_of(self.num_steps, 2e-3), self.workdir)
        assert contents(self.workdir) == before

    @precondition(lambda self: self._has("runs.csv"))
    @act()
    def evaluate(self):
        """The parameters of every step that is listed and whole."""
        results = grokjax.load(self.workdir)
        for step in sorted(self.good["analysis"] - {0}):
            weights = [digest(results.parameters(run, step)) for run in range(2)]
            assert weights == self.whole.end(step)[2], step

    @precondition(lambda self: self._has("runs.csv"))
    @act()
    def report(self):
        results = grokjax.load(self.workdir)
        if not self._lines():
            with pytest.raises(UserError, match=r"evaluations are missing|has been trained"):
                write_report(results)
            return
        page = write_report(results).read_text()
        assert "evaluations are missing" in page or not self._lacking()
        assert self.edited or "evaluations are missing" not in page
        assert self.unsealed or "steps are missing" not in page

    # What holds after each.

    @invariant()
    def nothing_listed_is_lost(self):
        found = self._found()
        assert found["analysis"] >= self.good["analysis"]
        assert max(found["state"], default=0) >= max(self.good["state"], default=0)
        self.good = found
        states = Checkpoints(self.workdir / "checkpoints")
        for step in found["state"]:
            state = states.restore(step, self.whole.like)
            assert np.asarray(state.step).tolist() == [step] * 2

    @invariant()
    def no_row_is_doubled_or_other(self):
        if not self._lines() or not self._has("runs.csv"):
            return
        rows = rows_of(grokjax.load(self.workdir))
        for (run, step), row in rows.items():
            whole = self.whole.end(max(step, EVERY))[1][run, step]
            assert same(row, whole), (run, step)
            before = (step - 1) // EVERY * EVERY
            if not any(before < s < step for s in self.starts | {s for _, s in rows}):
                assert alike(row, whole), (run, step)

    @invariant()
    def no_row_is_missing(self):
        assert self._lacking() <= self.taken

    # How it looks.

    def _train(self, num_steps, on_step=lambda step: None):
        """To the end, which is the undisturbed one's, or until something happens; or refused, where
        nothing that is whole could be gone on from."""
        self.num_steps = num_steps = max(num_steps, self.num_steps)
        config, said = config_of(num_steps), self._refusal()
        if said:
            before = contents(self.workdir)
            with pytest.raises(UserError, match=said):
                grokjax.train_and_evaluate(config, self.workdir, on_step=on_step)
            assert contents(self.workdir) == before
            return
        start = max(self.good["state"], default=-1)  # nothing: all rows are written again
        lacking = self._lacking()
        self.taken = {(run, step) for run, step in self.taken if step <= start}
        self.starts = {step for step in self.starts if step < start} | {start}
        with contextlib.suppress(Interrupted, Killed):
            grokjax.train_and_evaluate(config, self.workdir, on_step=on_step)
            with self._with_a_table():
                found = outcome(self.workdir, self.whole.like)
            assert found["step"] == num_steps and found["state"] == self.whole.end(num_steps)[0]
            assert self._lacking() == lacking
            if start < num_steps and not lacking:
                rows = rows_of(grokjax.load(self.workdir))
                self._check_tensorboard(found["tensorboard"], sorted(rows))

    def _check_tensorboard(self, scalars, rows):
        """What was taken from the table, TensorBoard may have."""
        for run in range(2):
            (events,) = (v for (name, tag), v in scalars.items()
                         if name.startswith(f"00{run}") and tag == "training_accuracy")  # fmt: skip
            steps = [step for step, _ in events if (run, step) not in self.taken]
            assert steps == [step for own, step in rows if own == run]

    def _refusal(self):
        """What a training is to say, if nothing is left to go on from."""
        if self.good["state"]:
            return ""
        if Checkpoints(self.workdir / "checkpoints").steps():
            return "no usable checkpoint"
        steps = [int(line.split(",")[1]) for line in self._lines()[1:] if line.endswith("\n")]
        return "its curves reach step" if max(steps, default=0) > EVERY else ""

    def _found(self):
        stored = Checkpoints(self.workdir / "checkpoints")
        return {
            kind: {s for s, (state, _) in stored.examine(kind, content=True).items()
                   if state == "good"}
            for kind in KINDS
        }  # fmt: skip

    def _has(self, name):
        return (self.workdir / name).exists()

    def _lines(self):
        """Of the curves, where there are any; a last one may be torn."""
        if not self._has("curves.csv"):
            return []
        lines = (self.workdir / "curves.csv").read_text().splitlines(keepends=True)
        return lines if len(lines) > 1 else []

    def _lacking(self):
        """Evaluations up to the newest state that is whole and that the table does not have.

        Those in between, at which a training ended, if it has them of the other run.
        """
        newest, rows = max(self._found()["state"], default=0), self._rows()
        steps = {*range(0, newest + 1, EVERY), *(step for _, step in rows if step <= newest)}
        return {(run, step) for run in range(2) for step in steps} - rows if newest else set()

    def _rows(self):
        whole = [line.split(",") for line in self._lines()[1:] if line.endswith("\n")]
        return {(int(row[0]), int(row[1])) for row in whole}

    @contextlib.contextmanager
    def _with_a_table(self):
        """What reads all of a workdir wants one; where it was removed, nothing makes another."""
        curves = self.workdir / "curves.csv"
        if is_removed := not curves.exists():
            curves.touch()
        yield
        if is_removed:
            curves.unlink()

    @contextlib.contextmanager
    def _taking(self):
        before = self._rows()
        yield
        self.edited = True
        self.taken |= before - self._rows() | self._lacking()


@pytest.fixture(scope="module")
def machine():
    """With the programs compiled once for all sequences."""
    patch = pytest.MonkeyPatch()
    whole = Undisturbed()
    patch.setattr("grokjax.training.loop.Population", lambda *_: whole.population)
    yield type("Workdir", (Workdirs,), {"whole": whole, "tried": collections.Counter()})
    patch.undo()


# What a killed process had open is closed by nobody here.
ABANDONED = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def run_sequences(machine, num):
    chosen = settings(
        max_examples=num, stateful_step_count=8, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=True, phases=[Phase.generate],
        report_multiple_bugs=False,
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=chosen)


@ABANDONED
@pytest.mark.usefixtures("unpainted")
def test_some_sequences(machine):
    """As many as a minute has; everywhere the same ones, of which the first is the simplest."""
    own = type("Workdir", (machine,), {"tried": collections.Counter()})
    own.until = time.monotonic() + 60
    run_sequences(seed(0)(own), 50)
    print(dict(own.tried))
    assert sum(own.tried.values()) > 3 * own.tried["sequences"] >= 3 * _AT_LEAST


@ABANDONED
@pytest.mark.kill
def test_many_sequences(machine, measured):
    """Noted now and then, so that what was tried is known when it is cut off."""
    for _ in range(int(os.environ.get("GROKJAX_SEQUENCES", "500")) // 20):
        machine.tried.clear()
        run_sequences(machine, 20)
        assert machine.tried["sequences"] >= 20
        for what, times in machine.tried.items():
            measured(what, times)
