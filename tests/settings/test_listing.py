"""`grokjax config`: what an experiment file resolves to."""

import pytest
from tiny import ROOT

from grokjax.cli import main
from grokjax.settings.declarations import SETTINGS


def line_of(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()


def test_every_setting_with_its_value_and_who_shares_it(capsys):
    file = f"{ROOT}/experiments/optimizers.py:small"
    assert main(["config", file, "--config.train.num_steps", "30"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["setting", "value", "kind", "what", "it", "is"]
    for name, setting in SETTINGS.items():
        assert " ".join(line_of(text, name)).endswith(setting.help)
    assert line_of(text, "train.num_steps")[1:3] == ["30", "static"]
    assert line_of(text, "train.loss")[1:5] == ["softmax,", "stablemax", "static,", "swept"]
    assert line_of(text, "data.folder")[1] == "''"
    rate = line_of(text, "optimizer.learning_rate")
    assert rate[1:7] == ["0.001,", "0.003,", "0.005", "per", "run,", "swept"]
    assert "runs: 24; the sweep varies train.loss, optimizer.learning_rate, seeds.data" in text


@pytest.mark.parametrize("arguments, message", [
    (["--config.optimizer.lr=1"], "did you mean 'optimizer.learning_rate'?"),
    (["--train.num_steps=300"], "did you mean --config.train.num_steps=VALUE?"),
    (["--config.model.num_heads=3"], "3 heads do not divide hidden_size 64"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(arguments, message, capsys):
    assert main(["config", f"{ROOT}/experiments/quickstart.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
