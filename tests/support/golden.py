"""Golden files: numbers made by the official PyTorch code (see tests/data/golden)."""

import pathlib

from grokjax.interop.golden import (
    arrays_under,
    batch,
    gradients,
    hyperparameters,
    model_config,
    params_and_buffers,
)
from grokjax.interop.weights import read_arrays

__all__ = [
    "arrays_under",
    "batch",
    "gradients",
    "hyperparameters",
    "load",
    "model_config",
    "params_and_buffers",
]

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "golden"


def load(name):
    return read_arrays(FOLDER / f"{name}.npz")
