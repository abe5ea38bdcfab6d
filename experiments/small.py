"""The smallest setting found in which natural data grok, late: three regimes, eight seeds each.

    grokjax sweep --config=experiments/small.py --workdir=runs/small
    grokjax report runs/small

The quickstart's graph; its model with rotary positions, a tied head and four H cycles, so that both
hops can be read with the same attention pattern and a cycle is to spare between them.
"""

from grokjax.experiment import read_experiment
from grokjax.sweep import grid, product, seeds

REGIMES = ("natural", "both_hop_full", "second_hop_full")
NUM_SEEDS = 8


def get_config():
    config, _ = read_experiment("experiments/quickstart.py")
    config.name = "small"
    config.model.update({"positions": "rotary", "tied_head": True, "H_cycles": 4})
    config.optimizer.weight_decay = 0.3
    config.train.update({"num_steps": 40_000, "eval_every": 500})
    config.evaluate.path_position = "best"  # the bridge forms where the first relation stands
    config.checkpoint.update({"every": 1000, "analysis_steps_per_decade": 6})
    return config


def sweep(add):
    for row in product(grid("data.regime", REGIMES), seeds(NUM_SEEDS)):
        add(row)
