"""The ordinary transformer, the looped one and the recursive model on the same data.

    for model in ordinary looped recursive; do
      grokjax train --config=experiments/baseline.py:$model --workdir=runs/baseline/$model
    done
    grokjax compare runs/baseline/ordinary runs/baseline/looped runs/baseline/recursive \\
      --out=runs/baseline/comparison.png

All three apply four blocks of width 64 to a question: four layers once, two layers twice, one layer
of two states four times. Natural and both_hop_full, three seeds each, on the quickstart's graph.
"""

from grokjax.settings import default_config, grid, product, seeds

REGIMES = ("natural", "both_hop_full")
NUM_SEEDS = 3

# Of GPT-2's shape; what differs between the two is how often the stack of layers runs.
DECODER = {
    "kind": "decoder",
    "hidden_size": 64,
    "num_heads": 4,
    "num_registers": 0,
    "register_size": 0,
    "dtype": "float32",
}
MODELS = {
    "ordinary": DECODER | {"num_layers": 4, "num_loops": 1},
    "looped": DECODER | {"num_layers": 2, "num_loops": 2},
    "recursive": {
        "kind": "recursive",
        "hidden_size": 64,
        "num_layers": 1,
        "H_cycles": 2,
        "L_cycles": 1,
        "gradient_cycles": 0,
        "mixer": "attention",
        "positions": "learned",
        "num_heads": 4,
        "mlp_multiple": 64,
        "num_registers": 0,
        "register_size": 0,
        "dtype": "float32",
    },
}
ARGUMENTS = tuple(MODELS)


def get_config(model="recursive"):
    config = default_config()
    config.name = model
    config.data.update(
        {
            "num_entities": 40,
            "num_relations": 16,
            "out_degree": 8,
            "ood_fraction": 0.15,
            "iid_test_fraction": 0.05,
            "phi": float("inf"),
            "max_probes": 500,
        }
    )
    config.model.update(MODELS[model])
    config.optimizer.update({"learning_rate": 3e-3, "warmup_steps": 200, "weight_decay": 0.6})
    if model != "recursive":
        # The usual ones of a decoder: no decay of biases and norms, gradients clipped to 1.
        config.optimizer.update({"learning_rate": 1e-3, "decay_vectors": False, "clip_norm": 1.0})
    config.train.update(
        {
            "num_steps": 6000,
            "batch_size": 64,
            "loss": "softmax",
            "eval_every": 100,
            "chunk_steps": 100,
        }
    )
    config.checkpoint.update({"every": 1000, "analysis_steps_per_decade": 6})
    return config


def sweep(add, model="recursive"):
    for row in product(grid("data.regime", REGIMES), seeds(NUM_SEEDS)):
        add(row)
