"""The files of docs/extending.md, where a test can train them."""

import re

from tiny import ROOT

from grokjax.cli import main
from grokjax.settings import own_functions
from grokjax.training import population

SMALL = [
    "--config.model.H_cycles=1",
    "--config.model.L_cycles=1",
    "--config.model.num_layers=1",
    "--config.data.max_probes=24",
    "--config.model.hidden_size=16",
    "--config.data.num_entities=12",
    "--config.data.num_relations=6",
    "--config.data.ood_fraction=0.2",
    "--config.train.num_steps=20",
    "--config.train.batch_size=16",
    "--config.train.eval_every=10",
    "--config.train.chunk_steps=10",
    "--config.checkpoint.every=10",
]


def write_examples(folder):
    page = (ROOT / "docs" / "extending.md").read_text()
    found = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(found) == 9
    for name, text in found:
        (folder / name).write_text(text)
    return folder / "experiment.py"


def forget():
    """As a new process, that has been given no experiment."""
    own_functions._paths.clear()
    own_functions._modules.clear()
    for make in (population.make_init, population.make_train_chunk, population.make_evaluate):
        make.cache_clear()


def refused(capsys, *arguments) -> str:
    assert main(list(map(str, arguments))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("grokjax: error: ")
    return error
