"""The config: locked, of declared names and types; copied, and as JSON."""

import copy
import json

import pytest
from ml_collections import ConfigDict
from tiny import tiny_config

from grokjax.base.errors import UserError
from grokjax.settings import default_config
from grokjax.settings.config import from_json, set_setting, to_json, with_settings
from grokjax.settings.identity import config_difference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.optimizer, "lr", 0.5), "did you mean 'optimizer.learning_rate'"),
        (lambda c: c.data.update({"seed": 5}), "'data.seed'; did you mean 'seeds.data'"),
        (lambda c: c.update({"train": {"steps": 5}}), "did you mean 'train.num_steps'"),
        (lambda c: setattr(c.optimizer, "learning_rate", "fast"), "'fast' is not of type float"),
        (lambda c: setattr(c.train, "num_steps", 1e4), r"num_steps: 10000\.0 is not of type int"),
        (lambda c: setattr(c.train, "num_steps", True), "num_steps: True is not of type int"),
        (lambda c: setattr(c.data, "phi", None), "data.phi: has no value"),
        (lambda c: setattr(c, "data", {"phi": 1.0}), r"data: a section; .*config\.data\.update"),
        (lambda c: setattr(c, "runs", 3), "runs: 3 is not of type tuple"),
    ],
)
def test_a_config_takes_what_is_declared_alone(change, message):
    row = {"optimizer.learning_rate": 1e-3}
    config = default_config()
    for made in (
        config,
        copy.deepcopy(config),
        with_settings(config, row),
        from_json(to_json(config)),
    ):
        before = to_json(made)
        with pytest.raises(UserError, match=message):
            change(made)
        assert to_json(made) == before


def test_whole_numbers_are_fractions_too():
    config = default_config()
    config.data.phi = 3
    assert isinstance(config.data.phi, float)
    set_setting(config, "optimizer.learning_rate", 1)
    assert isinstance(config.optimizer.learning_rate, float)


def test_reading_a_name_that_there_is_none_of():
    with pytest.raises(AttributeError, match=r"did you mean 'optimizer\.learning_rate'"):
        _ = default_config().optimizer.lr


def test_json_round_trip():
    config = tiny_config(data__phi=float("inf"))
    config.runs = ({"data.phi": float("inf")}, {"seeds.init": 1})
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert config_difference(config, back) == []
    assert back.data.phi == float("inf")


@pytest.mark.parametrize("content, message", [
    ({"optimizer": {"lr": 1.0}}, "'optimizer.lr'; did you mean 'optimizer.learning_rate'"),
    ({"runs": 3}, "runs: not a list"), ({"data": 3}, "unknown setting 'data'"),
    ({"data": {"phi": "much"}}, "data.phi: 'much' is not of type float"),
])  # fmt: skip
def test_json_is_checked(content, message, unchecked):
    with pytest.raises(UserError, match=message):
        from_json(content)


def test_a_config_of_another_making_has_the_rest_from_the_defaults():
    config = from_json(ConfigDict({"optimizer": {"learning_rate": 1}}).to_dict())
    assert config.optimizer.learning_rate == 1.0 and config.train == default_config().train
