"""What a training that nothing stops leaves behind, for comparison with those that were."""

import hashlib
import tempfile

import jax
import numpy as np
from kill_trials import outcome
from tiny import tiny_config

import grokjax
from grokjax.data.loading import load_datasets
from grokjax.settings import seeds
from grokjax.settings.rows import expand
from grokjax.training.population import Population

EVERY = 10  # steps between evaluations, and between checkpoints


def config_of(num_steps, rate=1e-3):
    config = tiny_config(train__num_steps=num_steps, checkpoint__every=EVERY)
    config.optimizer.learning_rate = rate
    config.train.chunk_steps = EVERY  # an end in between makes a shorter one
    config.runs = tuple(seeds(2))
    return config


class Undisturbed:
    """What a training that nothing stops leaves at each step; compiled programs, for all."""

    def __init__(self):
        config = config_of(60)
        runs = expand(config)
        self.population = Population(config, runs, load_datasets(runs))
        self.like = self.population.abstract_state()
        self._ends = {}

    def end(self, num_steps):
        """(hash of the state, curves by (run, step), hash of each run's parameters)."""
        if num_steps not in self._ends:
            with tempfile.TemporaryDirectory() as folder:
                results = grokjax.train_and_evaluate(config_of(num_steps), f"{folder}/w")
                state = outcome(results.workdir, self.like)["state"]
                weights = [digest(results.parameters(run, num_steps)) for run in range(2)]
                self._ends[num_steps] = state, rows_of(results), weights
        return self._ends[num_steps]


def digest(tree):
    leaves = [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def rows_of(results):
    """By (run, step); the loss, which is averaged over the steps of a session, stands last."""
    table = results.curves.set_index(["run_id", "step"])
    table.insert(len(table.columns) - 1, "loss", table.pop("loss"))
    return dict(zip(table.index, table.itertuples(index=False), strict=True))


def same(a, b):
    """All but the loss, that is, which `alike` compares."""
    return all(x == y or (x != x and y != y) for x, y in zip(a[:-1], b[:-1], strict=True))


def alike(a, b):
    return np.isclose(a.loss, b.loss, rtol=1e-6, equal_nan=True)
