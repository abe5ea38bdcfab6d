"""The paper's five regimes: who groks, when, and at what cost?

    grokjax sweep runs/regimes --config=experiments/regimes.py:small
    grokjax report runs/regimes

Without `:small` it is for accelerators.

`:small` is the quickstart's graph and model with 4 seeds a regime: 20 runs of 12,000 steps in one
population, about 15 to 25 minutes on 4 CPU cores. The other is the paper's graph at hidden size 256
with 16 seeds: 80 runs of 400,000 steps; `--dry-run` says what that takes where you are. Expected of
the small one: all memorise by about step 3,000; both_hop_full answers OOD compositions by 8,000 and
natural does not.
"""

from grokjax.data.graph import REGIMES
from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small",)


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
        config.train.num_steps = 12_000
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
    config.name = "regimes"
    return config


def sweep(add, size=""):
    for row in product(grid("data.regime", REGIMES), seeds(4 if size == "small" else 16)):
        add(row)
