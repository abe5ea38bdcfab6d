"""grokjax: populations of small transformers that tell whether grokking is worth its compute."""

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
