"""Does more composition data per fact (phi) bring grokking sooner?

    grokjax sweep runs/data_ratio --config=experiments/data_ratio.py:small
    grokjax report runs/data_ratio

Without `:small` it is for accelerators.

`:small`: 4 ratios of natural data (1, 2, 4 and the whole pool, about 6.5 compositions a fact), 4
seeds each, 12,000 steps, 10 to 20 minutes on 4 CPU cores. The other: the paper's graph at hidden
256, phi 3.6 to 18 as in Wang et al. 2024, 16 seeds. A smaller phi trains on a prefix of a larger
one's compositions. Expected of the small one: with phi 1 held-out ID compositions are not answered
either; no ratio answers OOD ones within 12,000 steps.
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small",)
RATIOS = {"small": (1.0, 2.0, 4.0, float("inf")), "": (3.6, 5.4, 7.2, 9.0, 12.6, 18.0)}


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
        config.train.num_steps = 12_000
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
    config.name = "data_ratio"
    return config


def sweep(add, size=""):
    num_seeds = 4 if size == "small" else 16
    for row in product(grid("data.phi", RATIOS[size]), seeds(num_seeds)):
        add(row)
