"""The smallest setting found in which natural data grok, late: three regimes, eight seeds each.

    grokjax sweep runs/small --config=experiments/small.py
    grokjax report runs/small

The quickstart's graph; its model with rotary positions, a tied head and four H cycles, so that both
hops can be read with the same attention pattern and a cycle is to spare between them.

Cost: some 110 minutes on 4 CPU cores (145 member-steps a second). Expected, of 8 seeds each: all
memorise by 3,000 steps. natural: the path is readable (0.5) between 9,000 and 20,500 steps in 6 of
8, the answer follows (0.5) between 18,500 and 37,500, and at the end 0.54 of the OOD compositions
are answered, 0.02 and 0.05 by the two seeds without a path. both_hop_full: 0.95 by 4,000 to 8,000
steps, half of the seeds without a bridge that can be read. second_hop_full goes natural's way,
faster: 0.88 at the end, the path first in all 8; it is not fake at this size.
`experiments/results/small` has such a run's tables and curves.
"""

from grokjax.settings import grid, product, read_experiment, seeds

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
