"""What makes natural data grok at a small size? The search so far.

    grokjax sweep --config=experiments/natural.py --workdir=runs/natural
    grokjax report runs/natural

Natural data on the quickstart's graph and model, one thing changed at a time: tied head, three H
cycles, two L cycles, identity bridge (arXiv 2509.24653), that with a tied head, a larger out-degree
(24 relations). 2 seeds and two weight decays each, 40,000 steps: 28 runs, some 90 minutes on 4 CPU
cores. Of trials of 15,000 to 40,000 steps none answers more than 0.21 of the OOD compositions;
`experiments/results/search/natural.csv` has their last rows.
"""

from grokjax.experiment import read_experiment
from grokjax.sweep import grid, product, seeds

VARIANTS = (
    {"model.tied_head": True},
    {"model.H_cycles": 3},
    {"model.L_cycles": 2},
    {"data.identity_bridge": True},
    {"model.tied_head": True, "data.identity_bridge": True},
)
WIDER = {"data.num_relations": 24, "data.ood_fraction": 0.1}


def get_config():
    config, _ = read_experiment("experiments/quickstart.py")
    config.name = "natural"
    config.train.update({"num_steps": 40_000, "eval_every": 500})
    config.checkpoint.every = 2000
    return config


def sweep(add):
    for row in product(VARIANTS, grid("optimizer.weight_decay", (0.3, 0.6)), seeds(2)):
        add(row)
    degrees = grid("data.out_degree", (12, 20))
    for row in product(degrees, grid("optimizer.weight_decay", (0.3, 0.8)), seeds(2)):
        add(WIDER, row)
