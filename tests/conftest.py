"""Tests run on four virtual CPU devices."""

import os
import pathlib

# Before JAX starts. Workers share one compilation cache: most tests compile the same programs.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "4"

import jax
import pytest
from ml_collections import ConfigDict

from grokjax.devices import setup_devices
from grokjax.experiment import load_experiment

jax.config.update("jax_num_cpu_devices", 4)
setup_devices()

ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(__file__).parent / "data"
PRETRAINING = DATA / "composition.100.40.7.2_factaug_h1ratio1.0_h1k18_h2ratio1.0_h2k18"
FINETUNING = DATA / "composition.100.40.7.2_factaug_h1ratio0.5_h1k9_h2ratio0.5_h2k9_finetuning"


def tiny_config(**changes) -> ConfigDict:
    """A run that trains in a second: 12 entities, hidden 16."""
    config = load_experiment(str(ROOT / "experiments" / "pretrain.py") + ":small")
    config.data.update({"num_entities": 12, "num_relations": 6, "out_degree": 4})
    config.data.update({"iid_test_fraction": 0.1, "ood_fraction": 0.2})
    config.model.update({"hidden_size": 16, "num_heads": 2, "mlp_multiple": 16})
    config.train.update({"num_steps": 40, "batch_size": 16, "eval_every": 10, "chunk_steps": 5})
    config.checkpoint.update({"every": 20, "analysis_steps_per_decade": 3})
    config.optimizer.warmup_steps = 5
    for name, value in changes.items():
        section, setting = name.split("__")
        config[section][setting] = value
    return config


@pytest.fixture
def tiny():
    return tiny_config()
