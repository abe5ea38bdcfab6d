"""One run: the place to start an experiment of your own.

    grokjax train runs/x --config=experiments/pretrain.py --config.train.num_steps=2000

One seed of natural with the quickstart's model and graph; about 60 steps a second on one CPU core,
full training accuracy after about 2,500 steps. Any setting can be given on the command line, among
them `--config.data.regime=both_hop_full` and `--config.seeds.init=1`; `grokjax config
experiments/pretrain.py` lists all of them.

    grokjax train runs/small --config=experiments/pretrain.py:small

A smaller graph and model: a look at the whole path in a minute.

    grokjax train runs/mine --config=experiments/pretrain.py:folder --config.data.folder=DIR

A dataset in the authors' format (docs/data.md). The quickstart's weight decay suits 2,000 items and
is too much for the 8,215 of `tests/data`'s folder, which the authors' generator made; with a sixth
of it and twice the batch the same model memorises them (0.99) by step 6,000, 2 minutes on 4 cores.
"""

from grokjax.settings import read_experiment

ARGUMENTS = ("small", "folder")


def get_config(size=""):
    config, _ = read_experiment("experiments/quickstart.py")
    config.name = "pretrain"
    config.train.num_steps = 10_000
    if size == "small":
        config.data.update({"num_entities": 20, "num_relations": 8, "out_degree": 4})
        config.model.update({"hidden_size": 32, "mlp_multiple": 32})
        config.train.num_steps = 2000
    if size == "folder":
        config.optimizer.weight_decay = 0.1
        config.train.update({"batch_size": 128, "num_steps": 6000})
    return config
