"""Reading the golden files: numbers made by the official PyTorch code (see tests/data/golden)."""

import pathlib

from grokjax.interop import parity

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "golden"

batch = parity.batch
group = parity.group
hyperparameters = parity.hyperparameters
params_and_buffers = parity.params_and_buffers
gradients = parity.gradients
model_config = parity.model_config


def load(name):
    return parity.read(FOLDER / f"{name}.npz")
