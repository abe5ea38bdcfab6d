"""Every setting of a run, experiment files, and the rows of a sweep. Imports no JAX."""

from grokjax.settings.config import default_config
from grokjax.settings.experiment import load_experiment, read_experiment
from grokjax.settings.rows import grid, product, seeds

__all__ = ["default_config", "grid", "load_experiment", "product", "read_experiment", "seeds"]
