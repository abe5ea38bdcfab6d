"""One run: the place to start an experiment of your own.

    grokjax train --config=experiments/pretrain.py --workdir=runs/x --config.train.num_steps=2000

One seed of natural with the quickstart's model and graph; about 60 steps a second on one CPU core,
full training accuracy after about 2,500 steps. Any setting can be given on the command line, among
them `--config.data.regime=both_hop_full`, `--config.seeds.init=1` and `--config.data.folder=DIR`
for a dataset in the authors' format; `grokjax config experiments/pretrain.py` lists all of them.

    grokjax train --config=experiments/pretrain.py:small --workdir=runs/small

A smaller graph and model: a look at the whole path in a minute.
"""

from grokjax.settings import read_experiment

ARGUMENTS = ("small",)


def get_config(size=""):
    config, _ = read_experiment("experiments/quickstart.py")
    config.name = "pretrain"
    config.train.num_steps = 10_000
    if size == "small":
        config.data.update({"num_entities": 20, "num_relations": 8, "out_degree": 4})
        config.model.update({"hidden_size": 32, "mlp_multiple": 32})
        config.train.num_steps = 2000
    return config
