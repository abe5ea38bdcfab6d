"""both_hop_full of experiments/small.py, one seed alone, measured every 100 steps to 13,000.

    grokjax train runs/seed3 --config=experiments/results/small/one_seed.py:3
    python experiments/results/small/dips.py runs/seed*

For `dips.csv`: what a fall of training accuracy is made of. Cost: 7 minutes of one CPU core. With a
device's arithmetic as in the runs of `small`: NPROC=4, JAX_NUM_CPU_DEVICES=1.
"""

from grokjax.settings import read_experiment, seeds

ARGUMENTS = tuple("01234567")


def get_config(seed="0"):
    config, _ = read_experiment("experiments/small.py")
    config.train.update({"num_steps": 13_000, "eval_every": 100})
    config.checkpoint.update({"every": 500, "keep": 2})
    return config


def sweep(add, seed="0"):
    add({"data.regime": "both_hop_full"}, seeds(1, int(seed))[0])
