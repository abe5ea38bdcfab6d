"""kill -9 at random moments: what is listed restores, and the end is that of an undisturbed run."""

import random

import pytest
from kill_trials import command, run_trials

from grokjax.cli import main


def train_here(workdir, num_steps):
    assert main(command(workdir, train__num_steps=num_steps)[3:]) == 0


def test_five_kills_in_a_row(tmp_path):
    seed = random.SystemRandom().randint(0, 2**31)
    print(f"seed {seed}")
    table = run_trials(5, 5, tmp_path, seed, num_steps=60, window=1.0, train=train_here)
    assert table.equal_at_the_end.all() and table.restored.sum() > 0, f"seed {seed}"


@pytest.mark.kill
def test_fifty_kills(tmp_path):
    """What experiments/results/operations/kill_trials.csv has."""
    table = run_trials(50, 10, tmp_path, seed=random.SystemRandom().randint(0, 2**31))
    assert len(table) == 50 and table.equal_at_the_end.all()
    assert (table.lost <= 10).all()  # the steps since the save before
