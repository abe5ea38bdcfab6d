"""Three regimes on a graph of 40 entities: who answers OOD compositions, and who only memorises.

    grokjax quickstart                 (is: grokjax train --config=experiments/quickstart.py)
    grokjax quickstart --smoke         (the same path in half a minute; its numbers mean nothing)

Trains natural, both_hop_full and second_hop_full with four seeds each in one program; a seed
changes data, initialisation and order alike. Cost: 5 to 7 minutes on 4 CPU cores, under 10 on 2.
Expected at the end, as means over four seeds: all have memorised by about step 2,900; of OOD
compositions both_hop_full answers 0.97, second_hop_full 0.24 and natural 0.04; the bridge becomes
readable in some seeds of each. `experiments/results/quickstart` has the curves of such a run.
"""

from grokjax.settings import default_config, grid, product, seeds

REGIMES = ("natural", "both_hop_full", "second_hop_full")
NUM_SEEDS = 4
ARGUMENTS = ("smoke",)


def get_config(size=""):
    config = default_config()
    config.name = "quickstart"
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
    config.model.update(
        {
            "hidden_size": 64,
            "num_layers": 1,
            "H_cycles": 2,
            "L_cycles": 1,
            "gradient_cycles": 0,  # through all cycles
            "mixer": "attention",
            "positions": "learned",
            "num_heads": 4,
            "mlp_multiple": 64,
            "num_registers": 0,
            "register_size": 0,
            "dtype": "float32",
        }
    )
    config.optimizer.update({"learning_rate": 3e-3, "warmup_steps": 200, "weight_decay": 0.6})
    config.train.update(
        {
            "num_steps": 8000,
            "batch_size": 64,  # half the step of 128, and no later in steps
            "loss": "softmax",
            "eval_every": 100,
            "chunk_steps": 100,
        }
    )
    config.checkpoint.update({"every": 1000, "analysis_steps_per_decade": 6})
    if size == "smoke":
        config.data.update({"num_entities": 20, "num_relations": 8, "out_degree": 4})
        config.model.update({"hidden_size": 32, "mlp_multiple": 32})
        config.train.update({"num_steps": 200, "eval_every": 50, "chunk_steps": 50})
        config.checkpoint.update({"every": 100})
    return config


def sweep(add, size=""):
    for row in product(grid("data.regime", REGIMES), seeds(NUM_SEEDS)):
        add(row)
