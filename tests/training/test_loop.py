"""The whole story on a tiny population: stop, go on, extend, refuse."""

import json
import os
import random
import shutil
import signal
import sys
import threading

import jax
import numpy as np
import pandas as pd
import pytest
from conftest import FINETUNING, PRETRAINING, tiny_config
from same import assert_same_workdir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import grokjax
from grokjax.base.errors import UserError
from grokjax.data.dataset import make_dataset
from grokjax.data.folder import write_folder
from grokjax.report import curves_figure, summary
from grokjax.runtime.interrupt import Interrupted
from grokjax.training import loop
from grokjax.training.evaluate import evaluate
from grokjax.workdir.checkpoints import Checkpoints


def sweep_config(**changes):
    config = tiny_config(**changes)
    config.runs = tuple(
        {"data.regime": regime, "seeds.init": seed}
        for regime in ("natural", "both_hop_full")
        for seed in range(2)
    )
    return config


def stop_after(monkeypatch, num_chunks):
    """As if a SIGTERM came while that chunk was running."""
    real = loop.Population.train
    calls = []

    def train(self, state, num_steps):
        calls.append(num_steps)
        if len(calls) == num_chunks:
            signal.raise_signal(signal.SIGTERM)
        return real(self, state, num_steps)

    monkeypatch.setattr(loop.Population, "train", train)
    return calls


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("loop") / "whole"
    return grokjax.train_and_evaluate(sweep_config(), workdir)


def test_the_workdir(uninterrupted):
    r = uninterrupted
    names = {p.name for p in r.workdir.iterdir()}
    assert names >= {"config.json", "runs.csv", "curves.csv", "checkpoints", "tensorboard"}
    assert r.runs.run_id.tolist() == [0, 1, 2, 3] and (r.runs.status == "done").all()
    assert list(r.runs.columns[:4]) == ["run_id", "run_hash", "regime", "seeds.init"]
    assert r.curves.step.tolist() == [s for s in (0, 10, 20, 30, 40) for _ in range(4)]
    for name in ("id_atomic/answer_accuracy", "test_inferred_ood/bridge_found", "loss"):
        assert name in r.curves
    stored = json.loads((r.workdir / "config.json").read_text())
    assert stored["schema_version"] == 1 and stored["config"]["train"]["num_steps"] == 40
    assert {"commit", "versions", "device", "xla_flags", "command"} <= set(stored)
    losses = r.curves.groupby("step").loss.mean()
    assert losses[40] < losses[10]
    (session,) = json.loads((r.workdir / "timing.json").read_text())
    assert session["evaluation_seconds"] > 0
    assert session["evaluation_seconds"] + session["compile_seconds"] < session["seconds"]


def test_stored_parameters_are_the_runs_own(uninterrupted):
    """Evaluated again one by one, they give the curves' last row."""
    r = uninterrupted
    assert r.checkpoint_steps()[0] == 0 and r.checkpoint_steps()[-1] == 40
    for run_id in (0, 3):
        weights = r.parameters(run_id)
        population = loop.Population(
            r.config, [r.run_config(run_id)], [r.dataset(run_id)], jax.devices()[:1]
        )
        metrics = evaluate(
            population.evaluate_config,
            weights["ema_params"],
            weights["buffers"],
            jax.tree.map(lambda x: x[0], population.probes),
        )
        last = r.curves[(r.curves.run_id == run_id) & (r.curves.step == 40)].iloc[0]
        for name in ("test_inferred_ood/answer_accuracy", "train_inferred/target_found"):
            np.testing.assert_allclose(metrics[name], last[name], atol=1e-6)


def test_a_resumed_run_is_bit_identical(uninterrupted, tmp_path, monkeypatch):
    chunk = random.SystemRandom().randint(1, 7)
    with monkeypatch.context() as m:
        stop_after(m, chunk)
        with pytest.raises(Interrupted, match=f"saved at step {5 * chunk}"):
            grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert set(grokjax.load(tmp_path).runs.status) == {"interrupted"}
    calls = stop_after(monkeypatch, -1)
    grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert len(calls) == 8 - chunk, f"stopped after {chunk} chunks"
    assert_same_workdir(uninterrupted.workdir, tmp_path, 40)
    for folder in (tmp_path / "tensorboard").iterdir():
        reader = EventAccumulator(str(folder))
        reader.Reload()
        assert [e.step for e in reader.Scalars("training_accuracy")] == [0, 10, 20, 30, 40]


def test_a_killed_run_goes_on_from_its_checkpoint(uninterrupted, tmp_path, monkeypatch):
    """No time to save anything: rows beyond the last checkpoint are made again, once."""

    def killed(self, state, num_steps):
        if killed.calls == 7:  # step 35; checkpoints are every 20 steps
            raise SystemExit(137)
        killed.calls += 1
        return real(self, state, num_steps)

    killed.calls, real = 0, loop.Population.train
    with monkeypatch.context() as m:
        m.setattr(loop.Population, "train", killed)
        with pytest.raises(SystemExit):
            grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert pd.read_csv(tmp_path / "curves.csv").step.max() >= 20
    grokjax.train_and_evaluate(sweep_config(), tmp_path)
    sessions = json.loads((tmp_path / "timing.json").read_text())
    assert [(s["start_step"], s["end_step"]) for s in sessions] == [(0, 20), (20, 40)]
    assert_same_workdir(uninterrupted.workdir, tmp_path, 40)


def test_done_and_extended(uninterrupted, tmp_path, capsys):
    config = sweep_config(train__num_steps=20)
    grokjax.train_and_evaluate(config, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    grokjax.train_and_evaluate(config, tmp_path)
    assert "done at step 20" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert "resuming at step 20" in capsys.readouterr().out
    assert_same_workdir(uninterrupted.workdir, tmp_path, 40)


def test_a_loss_is_of_the_steps_of_its_chunk(tmp_path):
    """Of a shorter one, after an end in between two evaluations (docs/operations.md, section 2)."""
    for num_steps in (15, 25):
        config = tiny_config(train__num_steps=num_steps, train__chunk_steps=10)
        portions = grokjax.train_and_evaluate(config, tmp_path / "portions")
    config = tiny_config(train__num_steps=25, train__eval_every=5)
    of_five = grokjax.train_and_evaluate(config, tmp_path / "of_five").curves.set_index("step").loss
    loss = portions.curves.set_index("step").loss
    assert loss.index.tolist() == [0, 10, 15, 20, 25]
    expected = [of_five[[5, 10]].mean(), *of_five[[15, 20, 25]]]
    np.testing.assert_allclose(loss[[10, 15, 20, 25]], expected, rtol=1e-5)


def test_another_config_is_refused(uninterrupted):
    before = (uninterrupted.workdir / "config.json").read_bytes()
    other = sweep_config(optimizer__weight_decay=0.5, train__num_steps=80)
    with pytest.raises(UserError, match=r"optimizer\.weight_decay: 0\.6 -> 0\.5\)"):
        grokjax.train_and_evaluate(other, uninterrupted.workdir)
    fewer = sweep_config(train__num_steps=10)
    with pytest.raises(UserError, match=r"train\.num_steps: 40 -> 10"):
        grokjax.train_and_evaluate(fewer, uninterrupted.workdir)
    swept = sweep_config()
    swept.runs = swept.runs[:3]
    with pytest.raises(UserError, match=r"runs\[3\]"):
        grokjax.train_and_evaluate(swept, uninterrupted.workdir)
    assert (uninterrupted.workdir / "config.json").read_bytes() == before


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "curves.csv").write_text("precious")
    with pytest.raises(UserError, match=r"has curves\.csv but no config\.json"):
        grokjax.train_and_evaluate(tiny_config(), tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not a grokjax config"):
        grokjax.train_and_evaluate(tiny_config(), tmp_path)
    with pytest.raises(UserError, match="the path is empty"):
        grokjax.train_and_evaluate(tiny_config(), " ")
    assert (tmp_path / "curves.csv").read_text() == "precious"


def test_damaged_checkpoints_are_named(tmp_path):
    config = tiny_config(train__num_steps=20)
    grokjax.train_and_evaluate(config, tmp_path)
    for path in (tmp_path / "checkpoints" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d" and path.stat().st_size > 1000:
            content = bytearray(path.read_bytes())
            content[500] ^= 1
            path.write_bytes(bytes(content))
    config.train.num_steps = 40
    with pytest.raises(UserError, match="no usable checkpoint"):
        grokjax.train_and_evaluate(config, tmp_path)


def test_a_diverged_run_is_marked_and_its_neighbours_curves_are_the_same(tmp_path):
    healthy, broken = sweep_config(train__num_steps=20), sweep_config(train__num_steps=20)
    row = dict(broken.runs[1]) | {"optimizer.learning_rate": 1e38}
    broken.runs = (broken.runs[0], row, *broken.runs[2:])
    a = grokjax.train_and_evaluate(healthy, tmp_path / "a")
    b = grokjax.train_and_evaluate(broken, tmp_path / "b")
    assert b.runs.status.tolist() == ["done", "diverged", "done", "done"]
    keep = a.curves.run_id != 1
    pd.testing.assert_frame_equal(a.curves[keep], b.curves[keep])


def test_it_ends_when_nothing_trains_any_more(tmp_path):
    config = tiny_config(optimizer__learning_rate=1e38)
    results = grokjax.train_and_evaluate(config, tmp_path)
    assert results.runs.status.tolist() == ["diverged"] and results.curves.step.max() < 40
    again = grokjax.train_and_evaluate(config, tmp_path)
    pd.testing.assert_frame_equal(again.curves, results.curves)


def test_a_kill_after_the_last_save_is_mended(uninterrupted, tmp_path, monkeypatch, capsys):
    """All is on the disk but what the process would have said at its end."""

    def killed(self, step, finished):
        raise SystemExit(137)

    with monkeypatch.context() as m:
        m.setattr(loop.Log, "close", killed)
        with pytest.raises(SystemExit):
            grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert set(pd.read_csv(tmp_path / "runs.csv").status) == {"running"}
    assert set(grokjax.load(tmp_path).runs.status) == {"interrupted"}  # nobody is at work
    grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert "done at step 40" in capsys.readouterr().out
    assert_same_workdir(uninterrupted.workdir, tmp_path, 40)


def test_a_kill_in_the_first_evaluation_starts_anew(uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        stop_after(m, 1)
        m.setattr(Checkpoints, "save", lambda *_: sys.exit(137))
        with pytest.raises(SystemExit):
            grokjax.train_and_evaluate(sweep_config(), tmp_path)
    (tmp_path / "curves.csv").write_text("run_id,st")
    grokjax.train_and_evaluate(sweep_config(), tmp_path)
    assert_same_workdir(uninterrupted.workdir, tmp_path, 40)


def test_data_that_changed_are_refused_by_name(tmp_path):
    folder, config = tmp_path / "data", tiny_config(train__num_steps=4)
    write_folder(make_dataset(config.data, 0), folder)
    config.data.folder = str(folder)
    grokjax.train_and_evaluate(config, tmp_path / "w")
    items = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(items[::-1]))
    config.train.num_steps = 8
    with pytest.raises(UserError, match=r"the files of data\.folder .*data are not those"):
        grokjax.train_and_evaluate(config, tmp_path / "w")
    (folder / "train.json").write_text(json.dumps(items, indent=1))  # the same items
    assert grokjax.train_and_evaluate(config, tmp_path / "w").curves.step.max() == 8


def test_lost_checkpoints_are_not_started_over(tmp_path):
    config = tiny_config(train__num_steps=40)
    before = grokjax.train_and_evaluate(config, tmp_path).curves
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="its curves reach step 40 but checkpoints/state is gone"):
        grokjax.train_and_evaluate(config, tmp_path)
    pd.testing.assert_frame_equal(grokjax.load(tmp_path).curves, before)


def test_a_manifest_that_was_removed_is_named(tmp_path, capsys):
    """The newest: training goes on before it; all of them: nothing is begun anew."""
    config = tiny_config(train__num_steps=40)
    before = grokjax.train_and_evaluate(config, tmp_path).curves
    states = tmp_path / "checkpoints" / "state"
    (states / "40" / "manifest.json").unlink()
    config.train.num_steps = 60
    capsys.readouterr()
    curves = grokjax.train_and_evaluate(config, tmp_path).curves
    said = capsys.readouterr().out
    assert f"skipping checkpoint {states / '40'}: has no manifest" in said
    assert "resuming at step 20" in said
    pd.testing.assert_frame_equal(curves[curves.step <= 40], before)

    for manifest in states.glob("*/manifest.json"):
        manifest.unlink()
    with pytest.raises(UserError, match=r"reach step 60 but no step in .*state has its manifest"):
        grokjax.train_and_evaluate(config, tmp_path)
    pd.testing.assert_frame_equal(grokjax.load(tmp_path).curves, curves)


def test_raw_weights_are_reported_too(tmp_path):
    config = tiny_config(train__num_steps=10, evaluate__raw_weights=True)
    curves = grokjax.train_and_evaluate(config, tmp_path).curves
    assert "raw/id_atomic/exact_match" in curves and (curves["raw/path_stage"] != "").all()


@pytest.mark.parametrize("folder, said", [
    (PRETRAINING, "data: 8,215 training items a run; optimizer.weight_decay=0.6 keeps"),
    (FINETUNING, "982 compositions without one of their facts, 1 that contradict them"),
])  # fmt: skip
def test_a_folder_fixes_the_data(folder, said, tmp_path, capsys):
    """Regimes and data seeds of the sweep fall away; init and order seeds stay."""
    config = tiny_config(train__num_steps=4, data__folder=str(folder))
    config.runs = tuple(
        {"data.regime": regime, "seeds.data": s, "seeds.init": s, "seeds.order": s}
        for regime in ("natural", "both_hop_full")
        for s in range(2)
    )
    results = grokjax.train_and_evaluate(config, tmp_path)
    assert results.runs["seeds.init"].tolist() == [0, 1] and "seeds.data" not in results.runs
    assert results.runs.regime.tolist() == [folder.name] * 2
    assert said in capsys.readouterr().out
    assert np.isfinite(results.curves["id_atomic/exact_match"]).all()


def test_a_graph_without_ood_facts_has_curves_and_a_figure(tmp_path):
    config = tiny_config(data__ood_fraction=0.0, train__num_steps=10)
    results = grokjax.train_and_evaluate(config, tmp_path)
    assert results.curves["test_inferred_ood/answer_accuracy"].isna().all()
    assert curves_figure.save_curves(results).exists()
    table = summary.summarize(results.runs, results.curves)
    assert "natural" in summary.summary_table(table, 10)
    assert summary.verdict(table) == "natural has no OOD compositions."


def test_what_cannot_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("grokjax.model.cost.available_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"memory: .* train fewer runs at once"):
        grokjax.train_and_evaluate(tiny_config(), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_second_signal_leaves_at_once():
    before = signal.getsignal(signal.SIGINT)
    with loop.Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with loop.Interrupt() as interrupt:
            assert not interrupt.requested

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
