"""The table that everything about settings is made from."""

import json

import pytest
from tiny import ROOT, tiny_config

from grokjax.base.errors import UserError
from grokjax.data.graph import REGIMES
from grokjax.settings import default_config
from grokjax.settings.config import from_json, to_json
from grokjax.settings.declarations import SECTIONS, SETTINGS, TRACED, traced
from grokjax.settings.identity import settings_hash
from grokjax.settings.page import page
from grokjax.settings.validation import validate
from grokjax.training.optim import HYPERPARAMETERS
from grokjax.workdir.layout import open_workdir

FIRST = json.loads((ROOT / "tests/data/workdirs/15fac09_quickstart.json").read_text())


def test_defaults_and_help():
    validate(default_config())
    for setting in SETTINGS.values():
        assert setting.help and "\n" not in setting.help and "|" not in setting.help


def test_what_other_parts_read_is_declared():
    assert {f"optimizer.{name}" for name in HYPERPARAMETERS} <= TRACED
    assert SETTINGS["data.regime"].allowed == tuple(REGIMES)
    assert {"seeds.init", "data.phi", "data.hop1_k", "optimizer.ema_rate"} <= TRACED
    assert not {"model.hidden_size", "data.num_entities", "train.batch_size"} & TRACED


def test_what_came_after_the_first_workdirs_is_marked():
    """A new setting is declared with `added=True`, or every hash changes."""
    first = {f"{section}.{name}" for section in SECTIONS for name in FIRST.get(section, ())}
    first |= {"name"}
    added = {name for name, setting in SETTINGS.items() if setting.added}
    assert SETTINGS.keys() - added == first - {"evaluate.path_position"}


def test_a_setting_that_is_added_changes_nothing_of_before(tmp_path, monkeypatch):
    """It is declared and known everywhere; older workdirs are the same, and go on."""
    quickstart, tiny = from_json(FIRST), tiny_config()
    before = settings_hash(quickstart)
    (tmp_path / "config.json").write_text(
        json.dumps({"schema_version": 1, "config": to_json(tiny)})
    )
    new = traced(0.25, "made up", added=True, also="glitter")
    monkeypatch.setitem(SECTIONS["optimizer"], "sparkle", new)
    monkeypatch.setitem(SETTINGS, "optimizer.sparkle", new)
    quickstart = from_json(FIRST)
    assert quickstart.optimizer.sparkle == 0.25 and settings_hash(quickstart) == before
    open_workdir(tmp_path, tiny_config())
    with pytest.raises(UserError, match=r"optimizer\.sparkle: 0\.25 -> 0\.5"):
        open_workdir(tmp_path, tiny_config(optimizer__sparkle=0.5))
    quickstart.optimizer.sparkle = 0.5
    assert settings_hash(quickstart) != before
    with pytest.raises(UserError, match=r"did you mean 'optimizer\.sparkle'"):
        quickstart.optimizer.glitter = 1.0
    assert "| `optimizer.sparkle` | `0.25` | a number | per run, added | made up |" in page()


def test_the_reference_page_is_of_these_declarations():
    """When it fails: python -m grokjax.settings.page > docs/settings.md"""
    assert (ROOT / "docs/settings.md").read_text() == page()
