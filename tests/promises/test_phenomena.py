"""Training to what the project is about. The slow tests take minutes; short ones stand for them."""

import numpy as np
import pytest
from conftest import PRETRAINING, ROOT

import grokjax
from grokjax.base.names import OOD_ACCURACY, POSITIONS, TRAINING_ACCURACY
from grokjax.data.loading import load_datasets
from grokjax.report import summary
from grokjax.settings import grid, load_experiment, product, read_experiment, seeds
from grokjax.settings.config import rows_of
from grokjax.settings.rows import expand
from grokjax.training.loop import describe_data


def folder_config(**changes):
    settings = {"data.folder": str(PRETRAINING)} | changes
    return load_experiment(str(ROOT / "experiments/pretrain.py:folder"), settings)


def test_the_authors_folder_is_being_learned(tmp_path, capsys):
    config = folder_config(**{"train.num_steps": 120})
    curves = grokjax.train_and_evaluate(config, tmp_path).curves
    assert "8,215 training items a run\n" in capsys.readouterr().out
    assert np.log(147) > curves.loss.iloc[1] > curves.loss.iloc[-1] + 0.2


def test_who_would_not_memorise_a_large_folder_is_told(capsys):
    """The quickstart's weight decay is for 2,000 items."""
    changes = {"data.folder": str(PRETRAINING)}
    config = load_experiment(str(ROOT / "experiments/pretrain.py"), changes)
    runs = expand(config)
    said = describe_data(load_datasets(runs), runs)
    assert "weight_decay=0.6 keeps" in said and "experiments/pretrain.py:folder has" in said


@pytest.mark.slow
def test_the_authors_folder_is_memorised(tmp_path):
    """A mean training exact match of 0.99 on data that their generator made; 2 minutes."""
    results = grokjax.train_and_evaluate(folder_config(), tmp_path)
    assert results.curves[TRAINING_ACCURACY].iloc[-1] >= 0.99


@pytest.mark.slow
def test_both_hop_full_answers_and_natural_does_not(tmp_path):
    """The quickstart's claim, with its own settings; 6 minutes on 4 cores."""
    config = load_experiment(str(ROOT / "experiments/quickstart.py"))
    results = grokjax.train_and_evaluate(config, tmp_path)
    by_regime = {s.regime: s for s in summary.summarize(results.runs, results.curves)}
    assert by_regime["both_hop_full"].ood_accuracy.mean > 0.9
    assert by_regime["natural"].ood_accuracy.mean < 0.5
    assert all(s.num_memorised == s.num_runs for s in by_regime.values())


def small_config(num_steps, eval_every, num_seeds=2, **others):
    changes = {"train.num_steps": num_steps, "train.eval_every": eval_every} | others
    changes |= {"train.chunk_steps": eval_every, "checkpoint.every": num_steps}
    config, _ = read_experiment(str(ROOT / "experiments/small.py"), changes)
    regimes = grid("data.regime", ("natural", "both_hop_full"))
    config.runs = rows_of(list(product(regimes, seeds(num_seeds))))
    return config


def test_the_preset_that_groks_begins_to_learn(tmp_path):
    results = grokjax.train_and_evaluate(
        small_config(60, 20, num_seeds=1, **{"data.max_probes": 32, "model.H_cycles": 1}), tmp_path
    )
    assert (results.curves.groupby("step").loss.mean().diff().dropna() < 0).all()
    assert set(results.curves.path_position) <= set(POSITIONS)


@pytest.mark.slow
def test_the_preset_that_groks_separates_the_regimes(tmp_path):
    """Two of its regimes, two seeds, a fifth of its steps: 5 minutes on 4 cores."""
    results = grokjax.train_and_evaluate(small_config(8000, 500), tmp_path)
    last = results.curves[results.curves.step == 8000].merge(results.runs[["run_id", "regime"]])
    by_regime = last.groupby("regime")
    assert by_regime[TRAINING_ACCURACY].min().min() > 0.99
    assert by_regime[OOD_ACCURACY].min()["both_hop_full"] > 0.9
    assert by_regime[OOD_ACCURACY].max()["natural"] < 0.3


@pytest.mark.parametrize("model", ["ordinary", "looped", "recursive"])
def test_every_model_trains_in_the_same_population_code(model, tmp_path):
    changes = {"train.num_steps": 30, "train.eval_every": 10, "train.chunk_steps": 10}
    changes |= {"checkpoint.every": 10, "optimizer.warmup_steps": 5, "data.max_probes": 32}
    # Half of its depth: layers take the compiler long.
    depth = {
        "ordinary": ("num_layers", 2),
        "looped": ("num_layers", 1),
        "recursive": ("H_cycles", 1),
    }
    name, value = depth[model]
    changes[f"model.{name}"] = value
    config = load_experiment(f"{ROOT}/experiments/baseline.py:{model}", changes)
    config.runs = config.runs[:2]
    results = grokjax.train_and_evaluate(config, tmp_path)
    loss = results.curves.groupby("step").loss.mean()
    assert loss[30] < loss[10] and (results.runs.status == "done").all()
    assert results.config.model.kind == ("recursive" if model == "recursive" else "decoder")
