"""Finetuning populations: which checkpoints start them, and with what."""

import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, tiny_config

from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.data.folder import read_folder
from grokjax.data.loading import load_datasets
from grokjax.model.cost import train_flops
from grokjax.results import load, train_and_evaluate
from grokjax.settings import grid, product, seeds
from grokjax.settings.rows import expand
from grokjax.training.population import Population
from grokjax.training.starting_state import starting_state
from grokjax.transfer import transfer
from grokjax.transfer.run import as_population, plan_transfer
from grokjax.transfer.sources import find_sources
from grokjax.workdir.checkpoints import Checkpoints

EXPERIMENT = """
from ml_collections import ConfigDict


def get_config(source):
    config = ConfigDict(source.to_dict())
    config.optimizer.learning_rate = source.optimizer.learning_rate / 2
    config.train.update({"num_steps": 20, "eval_every": 10})
    config.checkpoint.every = 20
    config.transfer.update({"num_new_facts": 8, "num_kept": 20, "control_steps": 10})
    return config
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two regimes, two seeds."""
    config = tiny_config()
    regimes = grid("data.regime", ("natural", "both_hop_full"))
    config.runs = tuple(product(regimes, seeds(2)))
    return train_and_evaluate(config, tmp_path_factory.mktemp("source") / "w")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiments") / "tiny_transfer.py"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture(scope="module")
def finetuned(source, experiment, tmp_path_factory):
    before = contents(source.workdir)
    workdir = tmp_path_factory.mktemp("transfer") / "w"
    results = transfer(experiment, [], source.workdir, workdir)
    assert contents(source.workdir) == before  # sources are only read
    return results


def contents(folder):
    return {
        str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
        for p in folder.rglob("*")
        if p.is_file()
    }


def learned(source):
    """The same runs with curves as of models that memorise at 20; run 2 then finds the path."""
    curves = source.curves.copy()
    curves["training_accuracy"] = np.where(curves.step >= 20, 1.0, 0.0)
    found = (curves.run_id == 2) & (curves.step >= 20)
    curves["test_inferred_ood/bridge_found_strict"] = np.where(found, 0.9, 0.0)
    curves["test_inferred_ood/answer_accuracy"] = 0.0
    more = curves[curves.step == 40].assign(step=50)
    return dataclasses.replace(source, curves=pd.concat([curves, more]))


def test_checkpoints_are_found_by_events_and_skipped_by_name(source):
    stored = source.checkpoint_steps()
    sources, table = find_sources(learned(source))
    by_name = table.set_index(["run_id", "checkpoint"])
    assert by_name.step[0, "before"] == max(s for s in stored if s < 20)
    assert by_name.step[0, "saturation"] == min(s for s in stored if s >= 20)
    assert by_name.step[2, "path"] == by_name.step[2, "saturation"]
    assert by_name.skipped[0, "path"] == "path: never observed"
    assert by_name.skipped[2, "grokked"] == "grokked: never observed"
    assert (by_name.skipped[:, "end"] == "").all()
    # One step is finetuned once, under both names.
    of_two = {s.checkpoint: s.step for s in sources if s.run_id == 2}
    assert "saturation+path" in of_two and len(of_two) == 3
    assert of_two["end"] == 40 == stored[-1]


def test_a_finetuning_run_starts_from_the_weights_of_its_source(source, experiment):
    config = plan_transfer(experiment, [], find_sources(source, ("end",))[0])
    runs = expand(config)
    for weights, ema in (("ema", True), ("raw", False)):
        for run in runs:
            run.transfer.weights = weights
        population, state = started(config, runs)
        expected = source.stacked_weights([0, 1, 2, 3], ema=ema)
        found = jax.device_get(real_runs(population, (state.params, state.buffers)))
        jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(expected))
        np.testing.assert_array_equal(state.step, 0)
    jax.tree.map(np.testing.assert_array_equal, state.params, state.ema_params)
    assert not any(np.any(x) for x in jax.tree.leaves(jax.device_get(state.opt_state)))


def real_runs(population, tree):
    return jax.tree.map(lambda x: x[: population.num_runs], tree)


def started(config, runs):
    population = Population(config, runs, load_datasets(runs))
    return population, starting_state(population, runs)


def test_an_optimiser_is_carried_where_all_was_stored(source, experiment):
    carried = ["--config.transfer.optimizer_state=carried"]
    config = plan_transfer(experiment, carried, find_sources(source, ("end",))[0])
    population, state = started(config, expand(config))
    with Checkpoints(source.workdir / "checkpoints") as saved:
        _, whole = saved.restore_latest(
            Population(source.config, expand(source.config), [source.dataset(i) for i in range(4)])
            .abstract_state()
        )  # fmt: skip
    found = jax.device_get(real_runs(population, state.opt_state))
    jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(whole.opt_state))
    assert any(np.any(x) for x in jax.tree.leaves(found))
    early = plan_transfer(experiment, carried, find_sources(learned(source), ("before",))[0])
    early.transfer.checkpoints = "before"
    with pytest.raises(UserError, match="has that of step 20, 40 only"):
        started(early, expand(early))


def test_all_is_one_population_with_its_control(source, finetuned):
    runs = finetuned.runs
    assert set(runs.regime) == {"natural", "both_hop_full", "control_atomic"} and len(runs) == 6
    control = json.loads((finetuned.workdir / "control_atomic" / "config.json").read_text())
    assert control["config"]["train"]["num_steps"] == 10
    pretrained = finetuned.run_config(0).copy_and_resolve_references()
    for run_id in range(len(runs)):
        run = finetuned.run_config(run_id)
        assert run.optimizer.learning_rate == pytest.approx(
            source.config.optimizer.learning_rate / 2
        )
        assert run.transfer.step == (10 if run.transfer.group == "control_atomic" else 40)
    assert pretrained.transfer.run_hash == source.runs.run_hash[0]
    facts = finetuned.dataset(int(runs.index[runs.regime == "control_atomic"][0])).new_facts
    np.testing.assert_array_equal(facts, finetuned.dataset(0).new_facts)  # the same seed's


def test_the_control_knows_atomic_facts_alone(finetuned):
    control = load(finetuned.workdir / "control_atomic")
    for run_id in range(2):
        dataset = control.dataset(run_id)
        assert not np.any(dataset.train.query[:, 2])
        np.testing.assert_array_equal(dataset.id_facts, finetuned.dataset(run_id).id_facts)


def test_a_population_equals_its_members_finetuned_alone(finetuned, tmp_path):
    for run_id in (1, 4):
        alone = as_population([finetuned.run_config(run_id)])
        single = train_and_evaluate(alone, tmp_path / f"w{run_id}")
        together = jax.device_get(finetuned.weights(run_id))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5),
            jax.device_get(single.weights(0)),
            together,
        )
        assert single.runs.run_hash[0] == finetuned.runs.run_hash[run_id]


def test_the_same_call_goes_on_and_changed_sources_are_refused(
    source, experiment, finetuned, capsys
):
    transfer(experiment, [], source.workdir, finetuned.workdir)
    assert capsys.readouterr().out.count("done at step") == 2
    changed = as_population([finetuned.run_config(0)])
    changed.transfer.run_hash = "0" * 12
    with pytest.raises(UserError, match="no longer the run 0000"):
        started(changed, expand(changed))


BAD = {
    "no workdir": (["--from=nowhere"], "no such file"),
    "itself": (["--workdir={source}"], "a folder of its own"),
    "unknown checkpoint": (["--config.transfer.checkpoints=middle"], "'middle' is none of"),
    "nothing there": (["--config.transfer.checkpoints=grokked"], "no run has any of them"),
    "model": (["--config.model.hidden_size=32"], "the source's model is another one"),
    "too many": (["--config.transfer.num_new_facts=999"], "are unused"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, source, experiment, tmp_path, capsys):
    arguments, message = BAD[case]
    command = ["transfer", f"--config={experiment}", f"--from={source.workdir}"]
    command += [f"--workdir={tmp_path / 'w'}", "--config.transfer.control_atomic=False"]
    command += [a.format(source=source.workdir) for a in arguments]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "w" / "curves.csv").exists()


def test_experiments_go_with_their_command(source, tmp_path, capsys):
    file = ROOT / "experiments" / "transfer.py"
    assert main(["train", f"--config={file}", f"--workdir={tmp_path / 'w'}"]) == 2
    assert "use grokjax transfer --from=WORKDIR" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no get_config\\(source\\)"):
        transfer(str(ROOT / "experiments" / "pretrain.py"), [], source.workdir, tmp_path / "w")


def test_the_halves_of_every_run_that_ended_are_measured(finetuned):
    """By the call itself: whoever calls it from Python has the table too."""
    halves = pd.read_csv(finetuned.workdir / "halves.csv")
    at_end = [i for i in range(6) if "end" in finetuned.run_config(i).transfer.checkpoint]
    assert halves.run_id.tolist() == at_end == [0, 1, 2, 3, 4, 5]
    assert {"score", "old_effect", "same_effect", "new_effect", "num_pairs"} <= {*halves}


def test_the_report_of_a_finetuning(finetuned, capsys):
    assert main(["report", str(finetuned.workdir)]) == 0
    page = (finetuned.workdir / "report.html").read_text()
    for text in (
        "What transfers", "Is it worthwhile?", "Which half of the circuit", "control_atomic",
        "Repeat: grokjax",
    ):  # fmt: skip
        assert text in page
    assert (finetuned.workdir / "figures" / "transfer.png").stat().st_size > 10_000
    table = pd.read_csv(finetuned.workdir / "transfer_worth.csv")
    model = finetuned.model
    per_step = train_flops(model) * finetuned.config.train.batch_size
    end = table[(table.group == "natural") & (table.checkpoint == "end")]
    assert set(end.pretraining_flops) == {40 * per_step}
    assert set(end.finetuning_flops) == {20 * per_step}
    skipped = pd.read_csv(finetuned.workdir / "sources.csv", dtype={"run_hash": str})
    named = skipped.dropna(subset=["step"]).run_hash
    assert set(finetuned.runs["transfer.run_hash"].astype(str)) <= set(named)
    assert "memorised: never observed" in set(skipped.skipped.dropna())


def test_a_finetuning_whose_runs_have_diverged_says_so(finetuned, tmp_path, capsys):
    workdir = tmp_path / "w"
    shutil.copytree(finetuned.workdir, workdir)
    runs = pd.read_csv(workdir / "runs.csv").assign(status="diverged")
    runs.to_csv(workdir / "runs.csv", index=False)
    assert main(["report", str(workdir)]) == 0
    page = (workdir / "report.html").read_text()
    assert "No run is left that has not diverged: nothing can be said of transfer." in page
    for name in ("accuracy", "times", "worth", "break_even", "equivalence", "halves"):
        table = pd.read_csv(workdir / f"transfer_{name}.csv")
        assert not len(table) and {"group", "variant"} <= {*table}


def test_a_finetuning_run_as_the_authors_files(finetuned, tmp_path):
    """Its data, and its results as their finetuning reader knows them."""
    workdir = str(finetuned.workdir)
    assert main(["data", f"--workdir={workdir}", "--run=1", f"--out={tmp_path / 'd'}"]) == 0
    back = read_folder(tmp_path / "d")
    np.testing.assert_array_equal(back.train.query, finetuned.dataset(1).train.query)
    assert main(["export-results", f"--workdir={workdir}", f"--out={tmp_path / 'e'}"]) == 0
    lens = json.loads((tmp_path / "e" / "checkpoint-20" / "logit_lens_ood.json").read_text())
    types = {item["type"] for item in lens}
    assert types == {"test_inferred_ood", "test_inferred_new", "test_inferred_new_mix"}
    items = json.loads((tmp_path / "e" / "checkpoint-20" / "all_items.json").read_text())
    assert "atomic_new" in {item["type"] for item in items}


def test_data_needs_one_place_to_come_from(finetuned, tmp_path, capsys):
    out = f"--out={tmp_path / 'd'}"
    assert main(["data", out]) == 2
    assert main(["data", f"--workdir={finetuned.workdir}", "--run=99", out]) == 2
    assert "has runs 0 to 5" in capsys.readouterr().err
    assert main(["data", f"--workdir={finetuned.workdir}", "--config.data.phi=1", out]) == 2
    assert not (tmp_path / "d").exists()
