"""What makes natural data grok at a small size? The search so far.

    grokjax sweep --config=experiments/natural.py --workdir=runs/natural
    grokjax report runs/natural

Natural data on the quickstart's graph and model, one thing changed at a time: tied head, three H
cycles, two L cycles, identity bridge (arXiv 2509.24653), that with a tied head, rotary positions
with a tied head and three H cycles, a larger out-degree (24 relations). 2 seeds and two weight
decays each, 45,000 steps: 32 runs, some two hours on 4 CPU cores. In trials of 9,000 to 44,500
steps (`experiments/results/search/natural.csv` has their last rows, other shapes too) only the
rotary model grokked: of four runs of 44,500 steps one answers 0.86 of the OOD compositions, two
0.44 and 0.46 and rising, one 0.04; none of the others more than 0.28. With four H cycles it is
about twice as fast (0.41, 0.65 and 0.07 at 20,000): that is `experiments/small.py`. With three, 24
relations, 30 entities of out-degree 14, identity bridge and Grokfast do not help.
"""

from grokjax.settings import grid, product, read_experiment, seeds

VARIANTS = (
    {"model.tied_head": True},
    {"model.H_cycles": 3},
    {"model.L_cycles": 2},
    {"data.identity_bridge": True},
    {"model.tied_head": True, "data.identity_bridge": True},
    {"model.positions": "rotary", "model.tied_head": True, "model.H_cycles": 3},
)
WIDER = {"data.num_relations": 24, "data.ood_fraction": 0.1}


def get_config():
    config, _ = read_experiment("experiments/quickstart.py")
    config.name = "natural"
    config.train.update({"num_steps": 45_000, "eval_every": 500})
    config.checkpoint.every = 2000
    return config


def sweep(add):
    for row in product(VARIANTS, grid("optimizer.weight_decay", (0.3, 0.6)), seeds(2)):
        add(row)
    degrees = grid("data.out_degree", (12, 20))
    for row in product(degrees, grid("optimizer.weight_decay", (0.3, 0.8)), seeds(2)):
        add(WIDER, row)
