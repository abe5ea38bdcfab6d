"""Names that there are none of: what they mean goes before how they look."""

import pytest

from grokjax.settings.declarations import SETTINGS
from grokjax.settings.suggestions import nearest_setting, unknown_setting


@pytest.mark.parametrize("name, meant", [
    ("optimizer.lr", "optimizer.learning_rate"), ("lr", "optimizer.learning_rate"),
    ("train.learning_rate", "optimizer.learning_rate"), ("optimizer.wd", "optimizer.weight_decay"),
    ("data.seed", "seeds.data"), ("seed", "seeds.init"), ("train.seed", "seeds.order"),
    ("batch", "train.batch_size"), ("evaluate.batch", "evaluate.batch_size"),
    ("eval.batch_size", "evaluate.batch_size"), ("steps", "train.num_steps"),
    ("train.epochs", "train.num_steps"), ("warmup", "optimizer.warmup_steps"),
    ("optimizer.type", "optimizer.name"), ("model.heads", "model.num_heads"),
    ("model.hiden_size", "model.hidden_size"), ("train.num_stepz", "train.num_steps"),
    ("data.fi", "data.phi"), ("learning_rate", "optimizer.learning_rate"),
    ("optimiser.eps", "optimizer.eps"), ("save-every", "checkpoint.every"),
    ("transfer.seeds", "transfer.seed"), ("foo", ""),
])  # fmt: skip
def test_the_nearest_setting(name, meant):
    assert nearest_setting(name) == meant


def test_what_nobody_means_is_not_guessed():
    assert unknown_setting("foo") == (
        "config: unknown setting 'foo'; grokjax config FILE lists them all"
    )


def test_a_synonym_is_no_setting_itself():
    for setting in SETTINGS.values():
        assert not set(setting.also.split()) & SETTINGS.keys()
