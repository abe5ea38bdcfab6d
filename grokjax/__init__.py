"""grokjax: populations of small transformers that tell whether grokking is worth its compute."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grokjax.base.errors import UserError
    from grokjax.instruments.compile import compile_for
    from grokjax.results import Results, train_and_evaluate
    from grokjax.runtime.interrupt import Interrupted
    from grokjax.settings import default_config, grid, load_experiment, product, seeds
    from grokjax.sweeps.results import SweepResults, load
    from grokjax.sweeps.runner import run_sweep

__all__ = [
    "Interrupted",
    "Results",
    "SweepResults",
    "UserError",
    "compile_for",
    "default_config",
    "grid",
    "load",
    "load_experiment",
    "product",
    "run_sweep",
    "seeds",
    "train_and_evaluate",
]

_OWNERS = {
    "Interrupted": "runtime.interrupt",
    "Results": "results",
    "SweepResults": "sweeps.results",
    "UserError": "base.errors",
    "compile_for": "instruments.compile",
    "default_config": "settings",
    "grid": "settings",
    "load": "sweeps.results",
    "load_experiment": "settings",
    "product": "settings",
    "run_sweep": "sweeps.runner",
    "seeds": "settings",
    "train_and_evaluate": "results",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: who only reads a plan (a cluster's login node) needs no JAX."""
    if name not in _OWNERS:
        raise AttributeError(f"module 'grokjax' has no attribute '{name}'")
    return getattr(importlib.import_module(f"grokjax.{_OWNERS[name]}"), name)
