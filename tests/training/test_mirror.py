"""`train.mirror=wandb`, against a package of that name that notes what it is told."""

import json
import sys

import pytest
from conftest import tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.settings.identity import settings_hash
from grokjax.training.mirror import Mirror

FAKE = """
import json, os

class _Run:
    def __init__(self, options):
        self._options = options
        self._note("init", {k: options[k] for k in ("project", "name", "id", "resume")}
                   | {"swept": options["config"]["swept"], "mode": os.environ["WANDB_MODE"]})

    def _note(self, what, content):
        with open(os.environ["NOTES"], "a") as file:
            file.write(json.dumps([what, self._options["name"], content]) + "\\n")

    def log(self, values, step):
        self._note("log", {"step": step} | values)

    def finish(self):
        self._note("finish", None)


def init(**options):
    return _Run(options)
"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
    package = tmp_path / "packages"
    package.mkdir()
    (package / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    yield lambda: [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    sys.modules.pop("wandb", None)


def test_curves_are_mirrored(tmp_path, notes):
    config = tiny_config(train__mirror="wandb", train__num_steps=20, checkpoint__every=20)
    config.model.update({"H_cycles": 1, "L_cycles": 1, "num_layers": 1})
    config.runs = tuple({"optimizer.weight_decay": value} for value in (0.1, 1.0))
    results = grokjax.train_and_evaluate(config, tmp_path / "w")
    told = notes()
    begun = [content for what, _, content in told if what == "init"]
    assert [b["name"] for b in begun] == [
        "000 natural, weight_decay 0.1",
        "001 natural, weight_decay 1",
    ]
    assert [b["swept"]["optimizer.weight_decay"] for b in begun] == [0.1, 1.0]
    assert {(b["project"], b["mode"], b["resume"]) for b in begun} == {
        (config.name, "offline", "allow")
    }
    assert len({b["id"] for b in begun}) == 2
    sent = [content for what, name, content in told if what == "log" and name.startswith("001")]
    own = results.curves[results.curves.run_id == 1].set_index("step")
    assert [row["step"] for row in sent] == own.index.tolist() == [0, 10, 20]
    for row in sent:
        assert row["training_accuracy"] == pytest.approx(own.training_accuracy[row["step"]])
        assert "path_stage" not in row and ("loss" in row) == (row["step"] > 0)
    assert [what for what, *_ in told].count("finish") == 2


@pytest.mark.filterwarnings("default")  # its own are not ours
def test_the_package_itself_takes_them_offline(tmp_path, monkeypatch):
    """Where it is installed: `pip install -e '.[test,wandb]'`."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = tiny_config(train__mirror="wandb", train__num_steps=20, checkpoint__every=20)
    config.model.update({"H_cycles": 1, "L_cycles": 1, "num_layers": 1})
    config.runs = tuple({"optimizer.weight_decay": value} for value in (0.1, 1.0))
    results = grokjax.train_and_evaluate(config, tmp_path / "w")
    files = {path.name for path in (tmp_path / "w" / "wandb").glob("offline-run-*/*.wandb")}
    assert files == {f"run-w-{run_hash}.wandb" for run_hash in results.runs.run_hash}


def test_a_mirror_is_nobodys_identity():
    config = tiny_config()
    before = settings_hash(config)
    config.train.mirror = "wandb"
    assert settings_hash(config) == before


def test_without_the_package_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed; pip install 'grokjax\[wandb\]'"):
        grokjax.train_and_evaluate(tiny_config(train__mirror="wandb"), tmp_path / "w")
    assert not (tmp_path / "w").exists()
    with pytest.raises(UserError):
        Mirror(tiny_config(train__mirror="wandb"), tmp_path, [], [])
