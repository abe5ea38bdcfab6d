"""Sweep rows, resolved runs, identity and differences of settings."""

import json

import pytest
from conftest import tiny_config

from grokjax.base.errors import UserError
from grokjax.settings import default_config, grid, product, seeds
from grokjax.settings.config import flatten, from_json, set_setting, to_json
from grokjax.settings.declarations import TRACED
from grokjax.settings.identity import config_difference, settings_hash
from grokjax.settings.rows import Sweep, expand, swept_settings


def with_rows(*rows, **changes):
    config = tiny_config(**changes)
    config.runs = tuple(rows)
    return config


def test_algebra():
    add = Sweep()
    for row in product(grid("data.phi", [1.0, 2.0]), seeds(2, start=5)):
        add(row, {"optimizer.ema_rate": 0.9})
    assert len(add.rows) == 4
    assert add.rows[1] == {
        "data.phi": 1.0,
        "seeds.data": 6,
        "seeds.init": 6,
        "seeds.order": 6,
        "optimizer.ema_rate": 0.9,
    }


def test_expand_resolves_rows():
    config = with_rows({"optimizer.learning_rate": 1}, {"data.regime": "both_hop_full"})
    first, second = expand(config)
    assert first.optimizer.learning_rate == 1.0 and isinstance(first.optimizer.learning_rate, float)
    assert second.data.regime == "both_hop_full" and first.data.regime == "natural"
    assert len(expand(tiny_config())) == 1
    assert swept_settings(config) == ["optimizer.learning_rate", "data.regime"]


def test_a_folder_keeps_only_init_and_order_seeds():
    rows = list(product(grid("data.regime", ["natural", "both_hop_full"]), seeds(3)))
    config = with_rows(*rows, data__folder="somewhere")
    runs = expand(config)
    assert [run.seeds.init for run in runs] == [0, 1, 2]
    assert {run.seeds.data for run in runs} == {0}
    assert swept_settings(config) == ["seeds.init", "seeds.order"]


def test_unknown_and_static_settings_are_refused():
    with pytest.raises(UserError, match=r"'data.fi'; did you mean 'data.phi'"):
        expand(with_rows({"data.fi": 1.0}))
    with pytest.raises(UserError, match=r"'model\.hidden_size' shapes the program"):
        expand(with_rows({"model.hidden_size": 8}))
    with pytest.raises(UserError, match="not of type"):
        expand(with_rows({"optimizer.learning_rate": "fast"}))


def test_traced_settings():
    """What may differ between runs is declared in one place."""
    known = flatten(default_config())
    assert set(known) >= TRACED
    assert {"seeds.init", "data.phi", "data.hop1_k", "optimizer.ema_rate"} <= TRACED
    assert not {"model.hidden_size", "data.num_entities", "train.batch_size"} & TRACED


def test_identity():
    a, b = expand(with_rows({"seeds.init": 0}, {"seeds.init": 1}))
    assert settings_hash(a) != settings_hash(b)
    assert len(settings_hash(a)) == 12
    longer = tiny_config(train__num_steps=1000)
    assert settings_hash(expand(longer)[0]) == settings_hash(a)
    # A setting that came later: runs of before keep their name, others have one of their own.
    before = tiny_config()
    with before.evaluate.unlocked():
        del before.evaluate["path_position"]
    assert settings_hash(before) == settings_hash(tiny_config())
    asked = tiny_config(evaluate__path_position="best")
    assert settings_hash(asked) != settings_hash(before)


def test_differences_name_settings():
    before = with_rows({"seeds.init": 0}, {"seeds.init": 1})
    after = with_rows({"seeds.init": 0}, {"seeds.init": 2}, optimizer__learning_rate=0.5)
    assert config_difference(before, after) == [
        "optimizer.learning_rate: 0.003 -> 0.5",
        "runs[1].seeds.init: 1 -> 2",
    ]
    assert config_difference(before, before) == []


def test_json_round_trip():
    config = with_rows({"data.phi": float("inf")}, {"seeds.init": 1}, data__phi=float("inf"))
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert config_difference(config, back) == []
    assert back.data.phi == float("inf")


def test_unknown_setting_names_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'optimizer.learning_rate'"):
        set_setting(tiny_config(), "learning_rate", 1.0)
    with pytest.raises(UserError, match=r"did you mean 'model.hidden_size'"):
        set_setting(tiny_config(), "model.hiden_size", 8)
