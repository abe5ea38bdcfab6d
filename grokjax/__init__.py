"""grokjax: populations of small transformers that tell whether grokking is worth its compute."""

from grokjax.errors import UserError
from grokjax.experiment import load_experiment
from grokjax.interrupt import Interrupted
from grokjax.loop import train_and_evaluate
from grokjax.results import Results, load

__all__ = [
    "Interrupted",
    "Results",
    "UserError",
    "load",
    "load_experiment",
    "train_and_evaluate",
]
