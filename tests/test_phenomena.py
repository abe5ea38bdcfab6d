"""Training to what the project is about. The slow tests take minutes; short ones stand for them."""

import numpy as np
import pytest
from conftest import PRETRAINING, ROOT

import grokjax
from grokjax import summary
from grokjax.experiment import load_experiment

# What memorises the authors' folder with the quickstart's model.
FOLDER_SETTINGS = {
    "data.folder": str(PRETRAINING),
    "train.batch_size": 128,
    "optimizer.weight_decay": 0.1,
}


def folder_config(num_steps):
    settings = FOLDER_SETTINGS | {"train.num_steps": num_steps}
    return load_experiment(str(ROOT / "experiments/pretrain.py"), settings)


def test_the_authors_folder_is_being_learned(tmp_path):
    config = folder_config(300)
    curves = grokjax.train_and_evaluate(config, tmp_path).curves
    assert np.log(147) > curves.loss.iloc[1] > curves.loss.iloc[-1] + 0.2


@pytest.mark.slow
def test_the_authors_folder_is_memorised(tmp_path):
    """A mean training exact match of 0.99 on data that their generator made; 2 minutes."""
    results = grokjax.train_and_evaluate(folder_config(6000), tmp_path)
    assert results.curves[summary.TRAINING_ACCURACY].iloc[-1] >= 0.99


@pytest.mark.slow
def test_both_hop_full_answers_and_natural_does_not(tmp_path):
    """The quickstart's claim, with its own settings; 6 minutes on 4 cores."""
    config = load_experiment(str(ROOT / "experiments/quickstart.py"))
    results = grokjax.train_and_evaluate(config, tmp_path)
    by_regime = {s.regime: s for s in summary.summarize(results.runs, results.curves)}
    assert by_regime["both_hop_full"].ood_accuracy.mean > 0.9
    assert by_regime["natural"].ood_accuracy.mean < 0.5
    assert all(s.num_memorised == s.num_runs for s in by_regime.values())


@pytest.mark.parametrize("model", ["ordinary", "looped", "recursive"])
def test_every_model_trains_in_the_same_population_code(model, tmp_path):
    changes = {"train.num_steps": 30, "train.eval_every": 10, "train.chunk_steps": 10}
    changes |= {"checkpoint.every": 10, "optimizer.warmup_steps": 5}
    config = load_experiment(f"{ROOT}/experiments/baseline.py:{model}", changes)
    config.runs = config.runs[:2]
    results = grokjax.train_and_evaluate(config, tmp_path)
    loss = results.curves.groupby("step").loss.mean()
    assert loss[30] < loss[10] and (results.runs.status == "done").all()
    assert results.config.model.kind == ("recursive" if model == "recursive" else "decoder")
