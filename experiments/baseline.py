"""The ordinary transformer, the looped one and the recursive model on the same data.

    for model in ordinary looped recursive; do
      grokjax train runs/baseline/$model --config=experiments/baseline.py:$model
    done
    grokjax compare runs/baseline/ordinary runs/baseline/looped runs/baseline/recursive \\
      --out=runs/baseline/comparison.png

All three apply four blocks of width 64 to a question: four layers once, two layers twice, one layer
of two states four times. Natural and both_hop_full, three seeds each, on the quickstart's graph.
"""

from grokjax.settings import default_config, grid, product, read_experiment, seeds

REGIMES = ("natural", "both_hop_full")
NUM_SEEDS = 3
ARGUMENTS = ("ordinary", "looped", "recursive")

# Of GPT-2's shape; what differs between the two is how often the stack of layers runs.
DECODER = {
    "kind": "decoder",
    "hidden_size": 64,
    "num_heads": 4,
    "num_registers": 0,
    "register_size": 0,
    "dtype": "float32",
}
LAYERS = {
    "ordinary": {"num_layers": 4, "num_loops": 1},
    "looped": {"num_layers": 2, "num_loops": 2},
}


def get_config(model="recursive"):
    config, _ = read_experiment("experiments/quickstart.py")  # its graph, and the recursive model
    config.name = model
    config.train.num_steps = 6000
    if model != "recursive":
        config.model.update(default_config().model)
        config.model.update(DECODER | LAYERS[model])
        # The usual ones of a decoder: no decay of biases and norms, gradients clipped to 1.
        config.optimizer.update({"learning_rate": 1e-3, "decay_vectors": False, "clip_norm": 1.0})
    return config


def sweep(add, model="recursive"):
    for row in product(grid("data.regime", REGIMES), seeds(NUM_SEEDS)):
        add(row)
