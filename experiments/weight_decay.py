"""What does weight decay do to the delay between memorising and grokking?

    grokjax sweep runs/weight_decay --config=experiments/weight_decay.py:small
    grokjax report runs/weight_decay

Without `:small` it is for accelerators.

`:small`: weight decay 0.1, 0.3, 0.6 and 1.0 in natural and both_hop_full, 3 seeds each on the
quickstart's graph and model, 24 runs of 8,000 steps, 10 to 20 minutes on 4 CPU cores. The other:
the paper's graph at hidden 256, decay 0.03 to 3, 8 seeds. Expected of the small one: stronger decay
memorises later; with 1.0 not all facts are learned.
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small",)
DECAYS = {"small": (0.1, 0.3, 0.6, 1.0), "": (0.03, 0.1, 0.3, 1.0, 3.0)}
REGIMES = ("natural", "both_hop_full")


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
    config.name = "weight_decay"
    return config


def sweep(add, size=""):
    settings = grid("data.regime", REGIMES), grid("optimizer.weight_decay", DECAYS[size])
    for row in product(*settings, seeds(3 if size == "small" else 8)):
        add(row)
