"""Whether two workdirs hold the same training, to the last bit."""

import jax
import numpy as np

import grokjax
from grokjax.data.loading import load_datasets
from grokjax.settings.rows import expand
from grokjax.training.population import Population
from grokjax.workdir.checkpoints import Checkpoints


def final_arrays(workdir, step):
    """Everything in the full state on disk."""
    with Checkpoints(workdir / "checkpoints") as saved:
        assert saved.steps()[-1] == step
    population = Population(*population_of(workdir))
    with Checkpoints(workdir / "checkpoints") as saved:
        _, state = saved.restore_latest(population.abstract_state())
    return jax.tree.leaves(state)


def population_of(workdir):
    config = grokjax.load(workdir).config
    runs = expand(config)
    return config, runs, load_datasets(runs)


def raw(leaf):
    return (
        jax.random.key_data(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
    )


def assert_same_workdir(a, b, step):
    assert (a / "curves.csv").read_bytes() == (b / "curves.csv").read_bytes()
    assert (a / "runs.csv").read_bytes() == (b / "runs.csv").read_bytes()
    for x, y in zip(final_arrays(a, step), final_arrays(b, step), strict=True):
        np.testing.assert_array_equal(raw(x), raw(y))
