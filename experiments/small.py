"""The smallest setting found in which natural data grok, late: three regimes, eight seeds each.

    grokjax sweep --config=experiments/small.py --workdir=runs/small
    grokjax report runs/small

The quickstart's graph; its model with rotary positions, a tied head and four H cycles, which read
both hops with the same attention pattern and leave cycles to spare between them. both_hop_full is
a population of its own, with a shorter budget: it has answered all OOD compositions by then.
"""

from grokjax.experiment import read_experiment
from grokjax.sweep import grid, product, seeds

NUM_SEEDS = 8
EARLY_STEPS = 12_000  # for both_hop_full


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
    early = {"data.regime": "both_hop_full", "train.num_steps": EARLY_STEPS}
    for row in product([early], seeds(NUM_SEEDS)):
        add(row)
    for row in product(grid("data.regime", ("natural", "second_hop_full")), seeds(NUM_SEEDS)):
        add(row)
