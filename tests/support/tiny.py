"""A run that trains in a second, for tests and for the processes that they start."""

import pathlib

from ml_collections import ConfigDict

from grokjax.settings import grid, load_experiment, product, seeds

ROOT = pathlib.Path(__file__).parents[2]
# For processes that import what tests import.
PYTHONPATH = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'support'}"


def tiny_config(**changes) -> ConfigDict:
    """12 entities, hidden 16."""
    config = load_experiment(str(ROOT / "experiments" / "pretrain.py") + ":small")
    config.data.update({"num_entities": 12, "num_relations": 6, "out_degree": 4})
    config.data.update({"iid_test_fraction": 0.1, "ood_fraction": 0.2})
    config.model.update({"hidden_size": 16, "num_heads": 2, "mlp_multiple": 16, "H_cycles": 1})
    config.train.update({"num_steps": 40, "batch_size": 16, "eval_every": 10, "chunk_steps": 5})
    config.checkpoint.update({"every": 20, "analysis_steps_per_decade": 3})
    config.optimizer.warmup_steps = 5
    for name, value in changes.items():
        section, setting = name.split("__")
        config[section][setting] = value
    return config


def fast(**changes) -> ConfigDict:
    """The same, done in 20 steps."""
    return tiny_config(train__num_steps=20, checkpoint__every=10, **changes)


def rows(num_seeds=2, widths=(16,), rates=(1e-3,)):
    """Of a sweep over it."""
    return list(
        product(
            grid("model.hidden_size", widths),
            grid("optimizer.learning_rate", rates),
            seeds(num_seeds),
        )
    )
