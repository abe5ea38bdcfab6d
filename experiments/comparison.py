"""Does an ordinary transformer compare entities that it never compared in training?

    grokjax sweep runs/comparison --config=experiments/comparison.py
    grokjax report runs/comparison

Wang et al. 2024 (arXiv 2405.15071) find that it does, late, while it fails on compositions of OOD
facts. A decoder of two layers on 40 entities with 3 attributes of 5 values each; 12 of the entities
are never compared in training. 4 seeds of 3,000 steps. The report says when OOD comparisons are
answered, and whether both values can be read on the way.

At this size their finding shows in part: all 4 runs answer most OOD comparisons as soon as they
memorise, without a delay (0.78 to 0.89 at the end, held-out ID comparisons 0.97 to 0.99), none gets
to 0.95, and both values are never read at one site each (`experiments/results/comparison`). 12,000
member-steps are some minutes on 2 quiet cores.
"""

from grokjax.settings import default_config, seeds


def get_config():
    config = default_config()
    config.name = "comparison"
    config.data.update({"task": "comparison", "num_entities": 40, "num_attributes": 3})
    config.data.update({"num_values": 5, "ood_fraction": 0.3, "iid_test_fraction": 0.1})
    config.data.update({"phi": 8.0, "max_probes": 200})
    config.model.update({"kind": "decoder", "hidden_size": 32, "num_layers": 2, "num_heads": 4})
    config.model.update({"num_registers": 0, "register_size": 0, "dtype": "float32"})
    config.optimizer.update({"learning_rate": 2e-3, "weight_decay": 0.3, "warmup_steps": 10})
    config.optimizer.update({"beta2": 0.98, "ema_rate": 0.0})
    config.train.update({"num_steps": 3_000, "batch_size": 128, "loss": "softmax"})
    config.train.update({"eval_every": 100, "chunk_steps": 100})
    config.checkpoint.every = 500
    return config


def sweep(add):
    for row in seeds(4):
        add(row)
