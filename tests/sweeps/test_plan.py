"""`plan.json` as somebody may have left it."""

import json

import pytest
from launching import planned
from tiny import ROOT

from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.sweeps.plan import Plan, read_plan, require_plan


@pytest.fixture
def content(tmp_path):
    planned(tmp_path, widths=(16, 32), num_seeds=2)
    return json.loads((tmp_path / "plan.json").read_text())


def twice(populations):
    populations[1]["name"] = "000"


def a_gap(populations):
    populations[1]["name"] = "007"


def other_hashes(populations):
    populations[1]["run_hashes"][0] = "0123456789ab"


def few_hashes(populations):
    populations[0]["run_hashes"].pop()


def a_run_of_another(populations):
    populations[1] |= {k: populations[0][k] for k in ("config", "run_hashes")}


def nothing(populations):
    populations.clear()


DAMAGES = {
    twice: "its population 1 is called '000'",
    a_gap: "its population 1 is called '007'",
    other_hashes: "the runs of population 001 are not those of its hashes",
    few_hashes: "the runs of population 000 are not those of its hashes",
    a_run_of_another: "population 001 has a run of another one",
    nothing: "it has no populations",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plan_that_contradicts_itself_is_one_line(damage, content, tmp_path, capsys):
    damage(content["populations"])
    (tmp_path / "plan.json").write_text(json.dumps(content))
    for command in (["report", str(tmp_path)], ["sweep", f"--workdir={tmp_path}"]):
        given = [f"--config={ROOT}/experiments/pretrain.py:small"] if command[0] == "sweep" else []
        assert main([*command, *given]) == 2
        error = capsys.readouterr().err
        assert f"damaged ({DAMAGES[damage]})" in error and error.count("\n") == 1, error
    assert json.loads((tmp_path / "plan.json").read_text()) == content


def test_one_that_is_older_than_its_hashes_is_read(content, tmp_path):
    """Those of before the hash was settled lack settings; their runs have other hashes."""
    for population in content["populations"]:
        del population["config"]["transfer"]
        population["run_hashes"] = [h[::-1] for h in population["run_hashes"]]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert len(read_plan(tmp_path).run_hashes) == 4


def test_no_plan_is_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        require_plan(tmp_path)
    assert read_plan(tmp_path) == Plan()
