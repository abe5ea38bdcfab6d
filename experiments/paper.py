"""The five regimes of arXiv 2601.09049 at its exact settings, with seeds.

    grokjax train runs/paper --config=experiments/paper.py

One run is 44.6 M parameters (and 1,536 register values), bf16, batch 512, 1.3 M steps on 2,000
entities. Memory and time are worked out from the compiled program before anything starts; a laptop
gets one line that says why not. Expected from the paper's curves: natural memorises at 64 k steps
and answers 0.75 of OOD compositions by 1.3 M; both_hop_full answers 0.95 at 45 k.

    grokjax train runs/paper-reduced --config=experiments/paper.py:reduced

The same architecture, data and schedule at hidden size 32 and batch 64, to try the path on a CPU.
`:medium` is hidden size 256 and 400,000 steps: what the sweeps for accelerators start from.
"""

from grokjax.data.graph import REGIMES
from grokjax.settings import default_config, grid, product, seeds

NUM_SEEDS = 1
ARGUMENTS = ("reduced", "medium")


def get_config(size=""):
    config = default_config()  # the defaults are the paper's settings
    config.name = "paper"
    if size == "reduced":
        config.model.update({"hidden_size": 32, "register_size": 32})
        config.train.batch_size = 64
    if size == "medium":
        config.model.update({"hidden_size": 256, "register_size": 256})
        config.train.num_steps = 400_000
    # 15 stages x 5 positions x 2,207 tokens of float32 lens logits a query.
    config.evaluate.batch_size = 128
    return config


def sweep(add):
    for row in product(grid("data.regime", REGIMES), seeds(NUM_SEEDS)):
        add(row)
