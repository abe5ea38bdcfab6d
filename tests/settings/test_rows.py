"""Sweep rows, and the runs that they resolve to."""

import pytest
from conftest import tiny_config

from grokjax.base.errors import UserError
from grokjax.settings import grid, product, seeds
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


def test_rows_are_checked_when_they_are_added():
    add = Sweep()
    with pytest.raises(UserError, match=r"did you mean 'optimizer\.learning_rate'"):
        add({"seeds.init": 1}, {"optimizer.lr": 1.0})
    with pytest.raises(UserError, match="'fast' is not of type float"):
        add({"optimizer.learning_rate": "fast"})
    assert not add.rows
