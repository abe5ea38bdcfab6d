"""Runs that have grokked leave; nobody else notices."""

import math

import numpy as np
import pytest
from conftest import tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.runtime.interrupt import Interrupt, Interrupted
from grokjax.settings.validation import validate
from grokjax.training import loop, population
from grokjax.training.early_stopping import Stopping

OOD = "test_inferred_ood/answer_accuracy"


def config_of(stop_at=0.0, num_runs=6):
    config = tiny_config(train__num_steps=100, checkpoint__every=20)
    config.train.update({"stop_at": stop_at, "stop_margin": 30})
    config.runs = tuple({"seeds.init": i, "seeds.order": i} for i in range(num_runs))
    return config


def rows(run_id, values, first=0):
    return [{"run_id": run_id, "step": 10 * (i + first), OOD: v} for i, v in enumerate(values)]


def test_a_run_ends_a_margin_after_its_event():
    stopping = Stopping(config_of(0.9), 2)
    stopping.note(rows(0, [0, 0.95, 0.5, 0.95, 0.92]))
    assert not stopping.ended(1000).any()
    stopping.note(rows(0, [0.9], first=5))
    stopping.note(rows(1, [math.nan] * 6))
    assert not stopping.ended(59).any()
    assert stopping.ended(60).tolist() == [True, False]  # 30, and 30 more
    stopping.note(rows(0, [1.0, 1.0, 1.0], first=6))
    assert not stopping.ended(59).any()  # what comes later moves nothing
    off = Stopping(config_of(0.0), 1)
    off.note(rows(0, [1.0] * 9))
    assert not off.ended(10_000).any()


@pytest.fixture(scope="module")
def ends():
    """When runs of the real training are said to have grokked: three leave, at two steps."""
    return {1: 40, 2: 40, 4: 60}


def leaving(monkeypatch, ends):
    def ended(self, step):
        return np.array([ends.get(i, math.inf) <= step for i in range(6)])

    monkeypatch.setattr(loop.Stopping, "ended", ended)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return grokjax.train_and_evaluate(config_of(), tmp_path_factory.mktemp("plain") / "w")


def check(results, plain, ends):
    """Those who stay have their curves to the last digit, the others up to their end."""
    for run_id in range(6):
        own, expected = (r.curves[r.curves.run_id == run_id] for r in (results, plain))
        expected = expected[expected.step <= ends.get(run_id, 100)]
        assert own.step.tolist() == expected.step.tolist()
        for metric in ("loss", "training_accuracy", OOD):
            np.testing.assert_allclose(own[metric], expected[metric], rtol=1e-5, err_msg=metric)
    statuses = ["stopped" if i in ends else "done" for i in range(6)]
    assert results.runs.status.tolist() == statuses
    assert results.runs.step.tolist() == [ends.get(i, 100) for i in range(6)]
    for run_id in (0, 3, 5):
        ours, theirs = (r.parameters(run_id)["params"]["embed"] for r in (results, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_leaving_changes_nobodys_curves(tmp_path, monkeypatch, ends, plain):
    leaving(monkeypatch, ends)
    sizes = []
    real = population.make_train_chunk

    def make(config, mesh, num_steps):
        program = real(config, mesh, num_steps)

        class Seen:
            def lower(self, state, hyper, tables):
                sizes.append(len(state.step))
                return program.lower(state, hyper, tables)

        return Seen()

    monkeypatch.setattr(population, "make_train_chunk", make)
    results = grokjax.train_and_evaluate(config_of(0.9), tmp_path / "w")
    check(results, plain, ends)
    assert sizes == [6, 3]  # of 3 rows on the mesh; the last three runs fill a program of their own


@pytest.mark.slow
def test_an_interruption_changes_nothing(tmp_path, monkeypatch, ends, plain):
    leaving(monkeypatch, ends)
    real, calls = loop.Population.train, []

    def train(self, state, num_steps):
        calls.append(num_steps)
        if len(calls) in (7, 13):  # within 35 and 65 steps
            handle.requested = True
        return real(self, state, num_steps)

    class Kept(Interrupt):
        def __enter__(self):
            nonlocal handle
            handle = self
            return super().__enter__()

    handle = None
    monkeypatch.setattr(loop, "Interrupt", Kept)
    monkeypatch.setattr(loop.Population, "train", train)
    for _ in range(2):
        with pytest.raises(Interrupted):
            grokjax.train_and_evaluate(config_of(0.9), tmp_path / "w")
    check(grokjax.train_and_evaluate(config_of(0.9), tmp_path / "w"), plain, ends)


def test_all_may_leave(tmp_path, monkeypatch, capsys):
    leaving(monkeypatch, dict.fromkeys(range(6), 40))
    results = grokjax.train_and_evaluate(config_of(0.9), tmp_path / "w")
    assert results.runs.status.tolist() == ["stopped"] * 6 and results.curves.step.max() == 40
    capsys.readouterr()
    grokjax.train_and_evaluate(config_of(0.9), tmp_path / "w")
    assert "all runs have ended" in capsys.readouterr().out


def test_a_margin_that_comes_too_late_is_refused():
    config = config_of(0.9)
    config.train.stop_margin = 20
    with pytest.raises(UserError, match="stop_margin"):
        validate(config)
    config.train.update({"stop_at": 1.5, "stop_margin": 30})
    with pytest.raises(UserError, match="between 0 and 1"):
        validate(config)
