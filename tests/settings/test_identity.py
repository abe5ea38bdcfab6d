"""Who a run is, and in what two configs differ."""

import hashlib
import json

import pytest
from tiny import ROOT, tiny_config

from grokjax.settings import read_experiment
from grokjax.settings.config import from_json, with_settings
from grokjax.settings.identity import config_difference, run_hashes, settings_hash
from grokjax.settings.rows import expand

STORED = ROOT / "tests/data/workdirs"
HASHES = json.loads((STORED / "15fac09_hashes.json").read_text())


@pytest.mark.parametrize("experiment", HASHES)
def test_bundled_experiments_have_the_hashes_of_before(experiment):
    """Of every run, in order."""
    config, rows = read_experiment(experiment)
    hashes = [settings_hash(with_settings(config, row)) for row in rows or [{}]]
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    assert HASHES[experiment] == {
        "num_runs": len(hashes), "first": hashes[0], "last": hashes[-1], "sha256": digest
    }  # fmt: skip


def test_the_quickstart_is_that_of_before():
    config, rows = read_experiment("experiments/quickstart.py")
    config.runs = tuple(rows)
    before = from_json(json.loads((STORED / "15fac09_quickstart.json").read_text()))
    assert config_difference(before, config) == []


def test_identity():
    config = tiny_config()
    config.runs = ({"seeds.init": 0}, {"seeds.init": 1})
    a, b = expand(config)
    assert settings_hash(a) != settings_hash(b)
    assert len(settings_hash(a)) == 12
    longer = tiny_config(train__num_steps=1000)
    assert settings_hash(expand(longer)[0]) == settings_hash(a)
    # Of finetuning alone: whose weights, but not where they lie.
    assert settings_hash(with_settings(a, {"transfer.step": 20})) == settings_hash(a)
    tuned = with_settings(a, {"transfer.source": "x"})
    assert settings_hash(tuned) != settings_hash(a)
    assert settings_hash(with_settings(tuned, {"transfer.source": "y"})) == settings_hash(tuned)
    assert settings_hash(with_settings(tuned, {"transfer.step": 20})) != settings_hash(tuned)


def test_a_setting_that_came_later():
    """Runs of before keep their name, others have one of their own."""
    before = tiny_config()
    with before.evaluate.unlocked():
        del before.evaluate["path_position"]
    assert settings_hash(before) == settings_hash(tiny_config())
    asked = tiny_config(evaluate__path_position="best")
    assert settings_hash(asked) != settings_hash(before)


def test_differences_name_settings():
    before, after = tiny_config(), tiny_config(optimizer__learning_rate=0.5)
    before.runs = ({"seeds.init": 0}, {"seeds.init": 1})
    after.runs = ({"seeds.init": 0}, {"seeds.init": 2})
    assert config_difference(before, after) == [
        "optimizer.learning_rate: 0.003 -> 0.5",
        "runs[1].seeds.init: 1 -> 2",
    ]
    assert config_difference(before, before) == []


@pytest.mark.parametrize("folder", ["", "some/folder"])
def test_all_runs_have_the_hashes_of_each(folder):
    config = tiny_config(data__folder=folder)
    config.runs = (
        {"optimizer.weight_decay": 1, "seeds.data": 3},
        {"data.regime": "both_hop_full", "seeds.init": 2},
        {"data.regime": "natural", "seeds.init": 2},
        {},
    )
    assert run_hashes(config) == [settings_hash(run) for run in expand(config)]
    config.runs = ()
    assert run_hashes(config) == [settings_hash(config)]
