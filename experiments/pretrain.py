"""One run, every setting at hand: the place to start an experiment of your own.

    grokjax train --config=experiments/pretrain.py --workdir=runs/x --config.train.num_steps=2000

One seed of natural with the quickstart's model and graph; about 60 steps a second on one CPU core,
full training accuracy after about 2,500 steps. Any setting can be given on the command line, among
them `--config.data.regime=both_hop_full`, `--config.seeds.init=1` and `--config.data.folder=DIR`
for a dataset in the authors' format.

    grokjax train --config=experiments/pretrain.py:small --workdir=runs/small

A smaller graph and model: a look at the whole path in a minute.
"""

from grokjax.settings import default_config

ARGUMENTS = ("small",)


def get_config(size=""):
    config = default_config()
    config.name = "pretrain"
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
            "gradient_cycles": 0,
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
            "num_steps": 10_000,
            "batch_size": 64,
            "loss": "softmax",
            "eval_every": 100,
            "chunk_steps": 100,
        }
    )
    config.checkpoint.update({"every": 1000, "analysis_steps_per_decade": 6})
    if size == "small":
        config.data.update({"num_entities": 20, "num_relations": 8, "out_degree": 4})
        config.model.update({"hidden_size": 32, "mlp_multiple": 32})
        config.train.update({"num_steps": 2000})
    return config
