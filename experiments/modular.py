"""Grokking where it was first seen: arithmetic modulo p (Power et al. 2022, arXiv 2201.02177).

    grokjax sweep runs/modular --config=experiments/modular.py
    grokjax report runs/modular

A decoder of one layer, 31,440 parameters, on 40 % of all additions modulo 47: 8 seeds of 3,000
steps. Every run first knows what it trains on and nothing of the rest, and much later all of it;
the report says when each did, and how long it took in between. All 8 memorise by step 750 and
answer 95 % of the held-out equations 150 to 1,800 steps later, by step 2,550
(`experiments/results/modular`). 24,000 member-steps took 4 minutes on 2 CPU cores that had other
work as well.

`:operations` trains the five operations, 2 seeds each; `:shares` addition at four shares of the
equations, 2 seeds each: the fewer there are, the longer the delay.
"""

from grokjax.settings import default_config, grid, product, seeds

ARGUMENTS = ("operations", "shares")


def get_config(what=""):
    config = default_config()
    config.name = f"modular_{what}" if what else "modular"
    config.data.update({"task": "modular", "modulus": 47, "train_share": 0.4, "max_probes": 600})
    config.model.update({"kind": "decoder", "hidden_size": 48, "num_layers": 1, "num_heads": 4})
    config.model.update({"num_registers": 0, "register_size": 0, "dtype": "float32"})
    config.optimizer.update({"learning_rate": 2e-3, "weight_decay": 0.7, "warmup_steps": 10})
    config.optimizer.update({"beta2": 0.98, "ema_rate": 0.0})
    config.train.update({"num_steps": 3_000, "batch_size": 256, "loss": "softmax"})
    config.train.update({"eval_every": 50, "chunk_steps": 50})
    config.checkpoint.every = 500
    return config


def sweep(add, what=""):
    if what == "operations":
        operations = ("add", "subtract", "multiply", "divide", "quadratic")
        rows = product(grid("data.operation", operations), seeds(2))
    elif what == "shares":
        rows = product(grid("data.train_share", (0.35, 0.4, 0.45, 0.5)), seeds(2))
    else:
        rows = seeds(8)
    for row in rows:
        add(row)
