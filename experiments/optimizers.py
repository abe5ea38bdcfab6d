"""Do methods that promise faster grokking bring it, at an equal tuning budget?

    grokjax sweep runs/optimizers --config=experiments/optimizers.py:modular
    grokjax report runs/optimizers

`:small` is the same on a small graph; without an argument it is for accelerators.

AdamW, Grokfast (Lee et al. 2024), OrthoGrad and stablemax (both Prieto et al. 2025): each gets the
same three learning rates and the same seeds, so that none is tuned better. `:small`: both_hop_full,
2 seeds, 24 runs of 6,000 steps on the quickstart's graph and model in two populations (the loss
shapes the program), 8 to 15 minutes on 4 CPU cores. The other: natural on the paper's graph at
hidden 256, 8 seeds. The report has a group for each method and rate: compare each one's best.

`:modular` asks where the speed-ups were published, on modular addition (`experiments/modular.py`):
AdamW, Grokfast, OrthoGrad and no weight decay (as Prieto et al. have it) with stablemax and with
softmax, Adam-atan2 (Everett et al. 2024) and stablemax with AdamW, three rates and 4 seeds each, 72
runs of 3,000 steps in some 25 minutes on 2 CPU cores. `costs.csv` of the report has what
grokking cost each, runs that did not by the end as censored ones; docs/tasks.md has what came.
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small", "modular")
METHODS = (
    {"train.loss": "softmax"},
    {"train.loss": "softmax", "optimizer.grokfast_lambda": 2.0},
    {"train.loss": "softmax", "optimizer.orthograd": True},
    {"train.loss": "stablemax"},
)
ON_MODULAR = (
    {"optimizer.name": "adamw"},
    {"optimizer.grokfast_lambda": 2.0},
    {"train.loss": "stablemax", "optimizer.orthograd": True, "optimizer.weight_decay": 0.0},
    {"optimizer.name": "adam_atan2"},
    {"optimizer.orthograd": True, "optimizer.weight_decay": 0.0},
    {"train.loss": "stablemax"},
)
RATES = {"small": (1e-3, 3e-3, 5e-3), "modular": (1e-3, 2e-3, 4e-3), "": (2e-5, 4e-5, 1e-4)}
SEEDS = {"small": 2, "modular": 4, "": 8}


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
        config.data.regime = "both_hop_full"
        config.train.num_steps = 6_000
    elif size == "modular":
        config, _ = read_experiment("experiments/modular.py")
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
    config.name = "optimizers"
    return config


def sweep(add, size=""):
    rates = grid("optimizer.learning_rate", RATES[size])
    methods = ON_MODULAR if size == "modular" else METHODS
    for row in product(methods, rates, seeds(SEEDS[size])):
        add(row)
