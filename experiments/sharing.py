"""Loops against layers: does sharing parameters over depth bring the path?

    grokjax sweep runs/sharing --config=experiments/sharing.py:small
    grokjax report runs/sharing

Without `:small` it is for accelerators.

The same depth, four levels of blocks, from one block used four times to four blocks used once, in
the recursive model and in the decoder. `:small`: both_hop_full, 2 seeds, 10 runs of 6,000 steps on
the quickstart's graph in five populations (each shape is a program), 8 to 15 minutes on 4 cores.
The other: natural and both_hop_full on the paper's graph at width 256, 8 seeds. Expected of the
small one: the recursive model and the looped decoder answer more OOD compositions than the ordinary
transformer (`experiments/baseline.py` has such curves).
"""

from grokjax.settings import grid, product, read_experiment, seeds

ARGUMENTS = ("small",)
SHAPES = (
    *({"model.num_layers": n, "model.H_cycles": 2 // n} for n in (1, 2)),
    *(
        {"model.kind": "decoder", "model.num_layers": n, "model.num_loops": 4 // n}
        for n in (1, 2, 4)
    ),
)
REGIMES = {"small": ("both_hop_full",), "": ("natural", "both_hop_full")}


def get_config(size=""):
    if size == "small":
        config, _ = read_experiment("experiments/quickstart.py")
        config.train.num_steps = 6_000
    else:
        config, _ = read_experiment("experiments/paper.py:medium")
        config.model.update({"L_cycles": 1, "num_heads": 8})
    config.name = "sharing"
    return config


def sweep(add, size=""):
    settings = SHAPES, grid("data.regime", REGIMES[size])
    for row in product(*settings, seeds(2 if size == "small" else 8)):
        add(row)
