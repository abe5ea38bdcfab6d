"""grokjax: populations of small transformers that tell whether grokking is worth its compute."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grokjax.errors import UserError
    from grokjax.experiment import load_experiment
    from grokjax.interrupt import Interrupted
    from grokjax.loop import train_and_evaluate
    from grokjax.results import Results
    from grokjax.sweeps import SweepResults, load, run_sweep

__all__ = [
    "Interrupted",
    "Results",
    "SweepResults",
    "UserError",
    "load",
    "load_experiment",
    "run_sweep",
    "train_and_evaluate",
]

_OWNERS = {
    "Interrupted": "interrupt",
    "Results": "results",
    "SweepResults": "sweeps",
    "UserError": "errors",
    "load": "sweeps",
    "load_experiment": "experiment",
    "run_sweep": "sweeps",
    "train_and_evaluate": "loop",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: who only reads a plan (a cluster's login node) needs no JAX."""
    if name not in _OWNERS:
        raise AttributeError(f"module 'grokjax' has no attribute '{name}'")
    return getattr(importlib.import_module(f"grokjax.{_OWNERS[name]}"), name)
