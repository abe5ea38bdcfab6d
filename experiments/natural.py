"""What makes natural data grok at a small size? The search so far, and its next bracket.

    grokjax sweep runs/natural --config=experiments/natural.py
    grokjax report runs/natural

Default: eight heads, batches of 16, a graph of 30 entities with an OOD share of 0.25, two seeds
each, 60,000 steps at most (`train.stop_at` 0.95); hidden 32 with two weight decays (3.2e12 FLOP a
run: run to the end, 0.09 at most) and hidden 64 (1.3e13; 40,000 steps of `experiments/small.py`
are 3.3e13; broken off at 2,000 steps). Next, `:small`: small.py with eight heads, batches of 32 and
one change each, 15,000 steps, 8.8e13 FLOP in all; of these Muon (`results/search/muon.py`) is done,
the rest not begun. The best goes on with fresh seeds, from 110.

Before: `:graph` (which data a model of hidden 32 memorises, 4 heads), `:model` (heads, batch, loss,
cycles, width, OrthoGrad on the best of these data), `:changes` (learned positions, or one change to
the quickstart's model each: 32 runs of 45,000 steps, some two hours on 4 CPU cores). Their last
rows and those of other trials are in `experiments/results/search/natural.csv`; what was learned is
in `docs/results.md`, section 3.
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small", "graph", "model", "changes")

GRAPHS = (
    *product(
        grid("data.ood_fraction", (0.15, 0.25, 0.4)), grid("optimizer.weight_decay", (0.1, 0.3))
    ),
    {"optimizer.learning_rate": 0.02},
    {"optimizer.weight_decay": 1.0},
    {"optimizer.beta2": 0.99},
    {"data.out_degree": 6, "data.ood_fraction": 0.3},
    {"data.out_degree": 12, "data.ood_fraction": 0.4},
    {"data.out_degree": 12, "data.ood_fraction": 0.4, "optimizer.weight_decay": 0.3},
    {"data.out_degree": 16, "data.ood_fraction": 0.2},
    {"data.out_degree": 16, "data.ood_fraction": 0.2, "optimizer.weight_decay": 0.3},
)
SLOWER = {"optimizer.learning_rate": 0.005}
WIDE = {"model.hidden_size": 64, "model.mlp_multiple": 64, "train.batch_size": 16}
STEADY = {**WIDE, "optimizer.learning_rate": 0.003, "optimizer.weight_decay": 0.3}
MODELS = (
    {"model.num_heads": 2},
    {"model.num_heads": 2, "optimizer.orthograd": True},
    {"model.num_heads": 2, "train.loss": "stablemax"},
    {"model.num_heads": 2, "model.H_cycles": 6},
    {"model.num_heads": 8},
    {"model.num_heads": 8, **SLOWER, "optimizer.weight_decay": 0.3},
    {"train.batch_size": 16, **SLOWER},
    {"train.batch_size": 16, "optimizer.weight_decay": 0.05},
    {**WIDE, **SLOWER},
    STEADY,
)
NEXT = (*grid("optimizer.weight_decay", (0.1, 0.3)), STEADY)
CHANGES = (
    {"model.tied_head": True},
    {"model.H_cycles": 3},
    {"model.L_cycles": 2},
    {"data.identity_bridge": True},
    {"model.tied_head": True, "data.identity_bridge": True},
    {"model.positions": "rotary", "model.tied_head": True, "model.H_cycles": 3},
)
SMALL = tuple(
    {"model.num_heads": 8, "train.batch_size": 32, **change}
    for change in (
        {"optimizer.name": "results/search/muon.py:muon"},
        {},
        {"optimizer.learning_rate": 0.006},
        {"optimizer.weight_decay": 0.8},
        {"data.out_degree": 12},
        {"train.batch_size": 16},
        {"model.H_cycles": 6},
    )
)
WIDER = {"data.num_relations": 24, "data.ood_fraction": 0.1}


def get_config(bracket=""):
    if bracket == "small":
        return of_small()
    config, _ = read_experiment("experiments/quickstart.py")
    config.name = "natural"
    if bracket == "changes":
        config.train.update({"num_steps": 45_000, "eval_every": 500})
        config.checkpoint.every = 2000
        return config
    config.data.update({"num_entities": 30, "ood_fraction": 0.25})
    config.model.update({"positions": "rotary", "tied_head": True, "H_cycles": 4})
    config.model.update({"hidden_size": 32, "mlp_multiple": 32})
    config.optimizer.update({"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 500})
    config.train.update({"num_steps": 8000, "batch_size": 32, "eval_every": 500})
    config.train.update({"chunk_steps": 500, "stop_at": 0.95, "stop_margin": 1500})
    config.evaluate.path_position = "best"
    config.checkpoint.update({"every": 1000, "keep": 1, "analysis_steps_per_decade": 4})
    if not bracket:
        config.model.num_heads = 8
        config.optimizer.learning_rate = 0.005
        config.train.update({"num_steps": 60_000, "batch_size": 16, "eval_every": 1000})
        config.train.stop_margin = 3000
        config.checkpoint.every = 5000
    return config


def of_small():
    config, _ = read_experiment("experiments/small.py")
    config.name = "natural"
    config.train.update({"num_steps": 15_000, "chunk_steps": 500})
    config.train.update({"stop_at": 0.95, "stop_margin": 1500})
    config.checkpoint.update({"every": 5000, "keep": 1, "analysis_steps_per_decade": 4})
    return config


def sweep(add, bracket=""):
    if bracket == "changes":
        for row in product(CHANGES, grid("optimizer.weight_decay", (0.3, 0.6)), seeds(2)):
            add(row)
        degrees = grid("data.out_degree", (12, 20))
        for row in product(degrees, grid("optimizer.weight_decay", (0.3, 0.8)), seeds(2)):
            add(WIDER, row)
    else:
        rows = {"small": SMALL, "": NEXT, "graph": GRAPHS, "model": MODELS}[bracket]
        num_seeds = 1 if bracket == "graph" else 2
        for row in product(rows, seeds(num_seeds, 100)):
            add(row)
