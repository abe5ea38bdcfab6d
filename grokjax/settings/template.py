"""`grokjax new`: an experiment file to start from."""

from __future__ import annotations

import pathlib

from grokjax.base.errors import UserError
from grokjax.base.files import write_atomically

_TEXT = '''\
"""Does a higher weight decay bring grokking sooner?

    grokjax train runs/{name} --config={file}     trains; again: resumes or extends
    grokjax report runs/{name}                    one page of what came when

A few minutes on 2 CPU cores. `grokjax config {file}` prints every setting and what it means.
"""

from grokjax.settings import default_config, grid, product, seeds


def get_config():
    """What all runs share. Whatever is not named here has the study's value."""
    config = default_config()
    config.name = "{name}"

    # A graph of facts (head, relation) -> tail. Your own facts: config.data.folder, docs/data.md.
    config.data.num_entities = 40
    config.data.num_relations = 12
    config.data.out_degree = 8
    config.data.ood_fraction = 0.1  # facts that training composes with nothing
    config.data.iid_test_fraction = 0.05  # compositions that are held out
    config.data.phi = 3.6  # training compositions for each fact
    config.data.regime = "both_hop_full"  # natural: OOD facts are in no training composition

    # A small model: two states, refined in cycles by the same two blocks.
    config.model.hidden_size = 64
    config.model.H_cycles = 2
    config.model.L_cycles = 2
    config.model.num_registers = 0
    config.model.register_size = 0
    config.model.mlp_multiple = 32
    config.model.dtype = "float32"

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_rate = 0.99

    config.train.num_steps = 3000
    config.train.batch_size = 128
    config.train.eval_every = 100
    config.train.chunk_steps = 100
    config.checkpoint.every = 1000
    return config


def sweep(add):
    """A run for each row. Seeds, data and optimizer may differ inside one program; for widths,
    layers and the like use `grokjax sweep` in place of `grokjax train`."""
    for row in product(grid("optimizer.weight_decay", (0.1, 1.0)), seeds(2)):
        add(row)
'''


def write_experiment(file: str) -> list[str]:
    """Writes a commented experiment that trains as it is.

    Returns:
      What to do with it, in lines.

    Raises:
      UserError: the file exists, or is no Python file.
    """
    path = pathlib.Path(file)
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UserError(f"{file}: give a Python file, grokjax new my_experiment.py")
    if path.exists():
        raise UserError(f"{file}: exists already; give a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _TEXT.format(name=path.stem, file=file))
    return [f"{file}: change it, then", f"grokjax train runs/{path.stem} --config={file}"]
