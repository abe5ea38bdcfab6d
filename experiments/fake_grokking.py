"""Fake grokking: which augmentation brings answers without the path? The phase diagram.

    grokjax sweep runs/fake_grokking --config=experiments/fake_grokking.py:small
    grokjax report runs/fake_grokking

Without `:small` it is for accelerators.

Hop-1 ratio x hop-2 ratio (shares of the OOD facts that training composes as first and as second
hop) x k (compositions for each) x seeds: what arXiv 2601.09049 calls infeasible. `:small`: 3 x 3
ratios, k 18, 3 seeds on the quickstart's graph and model, 27 runs of 8,000 steps in one population,
12 to 25 minutes on 4 CPU cores. The other: 5 x 5 ratios, k 2, 6 and 18, 8 seeds on the paper's
graph at hidden 256, 600 runs. Expected of the small one: only cells with both ratios 1 answer
nearly all OOD compositions.
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small",)
RATIOS = {"small": (0.0, 0.5, 1.0), "": (0.0, 0.25, 0.5, 0.75, 1.0)}
COUNTS = {"small": (18,), "": (2, 6, 18)}


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
    config.name = "fake_grokking"
    return config


def sweep(add, size=""):
    counts = [{"data.hop1_k": k, "data.hop2_k": k} for k in COUNTS[size]]
    ratios = (grid(f"data.{hop}_ratio", RATIOS[size]) for hop in ("hop1", "hop2"))
    for row in product(*ratios, counts, seeds(3 if size == "small" else 8)):
        add(row)
