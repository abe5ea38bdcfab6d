"""Do methods that promise faster grokking bring it, at an equal tuning budget?

    grokjax sweep --config=experiments/optimizers.py:small --workdir=runs/optimizers
    grokjax report runs/optimizers

Without `:small` it is for accelerators.

AdamW, Grokfast (Lee et al. 2024), OrthoGrad and stablemax (both Prieto et al. 2025): each gets the
same three learning rates and the same seeds, so that none is tuned better. `:small`: both_hop_full,
2 seeds, 24 runs of 6,000 steps on the quickstart's graph and model in two populations (the loss
shapes the program), 8 to 15 minutes on 4 CPU cores. The other: natural on the paper's graph at
hidden 256, 8 seeds. The report has a group for each method and rate: compare each one's best.
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small",)
METHODS = (
    {"train.loss": "softmax"},
    {"train.loss": "softmax", "optimizer.grokfast_lambda": 2.0},
    {"train.loss": "softmax", "optimizer.orthograd": True},
    {"train.loss": "stablemax"},
)
RATES = {"small": (1e-3, 3e-3, 5e-3), "": (2e-5, 4e-5, 1e-4)}


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
        config.data.regime = "both_hop_full"
        config.train.num_steps = 6_000
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
    config.name = "optimizers"
    return config


def sweep(add, size=""):
    rates = grid("optimizer.learning_rate", RATES[size])
    for row in product(METHODS, rates, seeds(2 if size == "small" else 8)):
        add(row)
