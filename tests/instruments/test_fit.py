"""How many runs fit a machine that is not here: by what its compiler says of a few numbers."""

import json
import sys

import pytest
from conftest import tiny_config
from tiny import ROOT

from grokjax import cli
from grokjax.base.errors import UserError
from grokjax.instruments import fit, targets
from grokjax.instruments.fit import runs_that_fit
from grokjax.runtime import devices
from grokjax.settings import grid, product, seeds
from grokjax.sweeps import planner, runner
from grokjax.sweeps.plan import Plan
from grokjax.sweeps.planner import describe_plan, extend_plan

H100 = int(0.72 * targets.machine("h100")[0].memory)  # that a population may take


def compiler(base, slope, curve=0.0):
    """Of a machine where n runs a device take base + n slope + n^2 curve; and what it was asked."""
    asked = []

    def needed(config, target, num_runs):
        runs = num_runs / targets.machine(target)[1] * config.train.batch_devices
        asked.append(num_runs)
        return int(base + runs * slope + runs**2 * curve)

    return needed, asked


def test_all_that_there_are_when_they_fit():
    needed, asked = compiler(0, H100 / 100)
    assert runs_that_fit(tiny_config(), "h100", 12, needed) == 12 and asked == [12]


@pytest.mark.parametrize("curve", [0.0, 1e6])
def test_as_many_as_fit_otherwise(curve):
    needed, asked = compiler(2e9, H100 / 50, curve)
    found = runs_that_fit(tiny_config(), "h100", 400, needed)
    assert needed(tiny_config(), "h100", found) <= H100
    assert needed(tiny_config(), "h100", int(1.15 * found)) > H100
    assert len(asked) <= 10


def test_each_device_has_its_own():
    needed, asked = compiler(0, H100 / 3.5)
    assert runs_that_fit(tiny_config(), "h100:8", 100, needed) == 24
    asked.clear()
    split = tiny_config(train__batch_devices=4)
    assert runs_that_fit(split, "h100:8", 100, needed) == 6 and asked[0] == 100


def test_one_that_does_not_fit_and_machines_that_do_not_share_out():
    needed, _ = compiler(0, 1.5 * H100)
    with pytest.raises(UserError, match=r"one run takes .* of a device of h100, of"):
        runs_that_fit(tiny_config(), "h100", 9, needed)
    with pytest.raises(UserError, match="3 does not divide the 8 devices of h100:8"):
        runs_that_fit(tiny_config(train__batch_devices=3), "h100:8", 9, needed)
    with pytest.raises(UserError, match="--target=abacus: unknown; give one of v5e"):
        runs_that_fit(tiny_config(), "abacus", 9, needed)


def test_the_plan_is_cut_for_the_target_and_not_for_this_machine(monkeypatch):
    """The compiler sees a row of each kind, the target's name and how many runs there are."""
    seen = []

    def fits(config, target, most):
        seen.append((len(config.runs), target, most))
        return 3

    monkeypatch.setattr(planner, "runs_that_fit", fits)
    config = tiny_config(sweep__target="h100")
    rows = list(product(grid("optimizer.learning_rate", (1e-3, 1e-2)), seeds(4)))
    plan = extend_plan(Plan(), config, rows)
    assert [len(p.run_hashes) for p in plan.populations] == [3, 3, 2] and seen == [(2, "h100", 8)]
    assert "989,000 GFLOP/s that h100 has by its maker" in describe_plan(
        plan, {p.name: "pending" for p in plan.populations}
    )
    here = extend_plan(Plan(), tiny_config(), rows)
    assert here.run_hashes == plan.run_hashes and len(seen) == 1
    chosen = tiny_config(sweep__target="h100", sweep__runs_per_population=8)
    assert len(extend_plan(Plan(), chosen, rows).populations) == 1 and len(seen) == 1


@pytest.mark.parametrize("command", ["--dry-run", "--plan-only", ""])
def test_a_plan_for_another_machine_does_not_look_for_this_ones_cards(
    tmp_path, monkeypatch, command
):
    done = []
    monkeypatch.setattr(devices, "use_cpu", lambda: done.append("cpu"))
    monkeypatch.setattr(runner, "run_sweep", lambda *args, **given: done.append("sweep"))
    words = ["sweep", str(tmp_path / "w"), f"--config={ROOT}/experiments/small.py", "--target=h100"]
    assert cli.main([*words, *command.split()]) == 0
    assert done == (["cpu", "sweep"] if command else ["sweep"])


COMPILER = """#!{python}
import json, sys
given = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
with open(given["--config"]) as file:
    given["batch_size"] = json.load(file)["train"]["batch_size"]
rows = [
    {{"program": "training", "fits": {fitting}, "bytes_needed": 7}},
    {{"program": "evaluation", "fits": True, "bytes_needed": 9}},
]
with open(given["--dump"] + "/counts.json", "w") as file:
    json.dump({{"programs": rows}}, file)
with open("{seen}", "w") as file:
    json.dump(given, file)
"""


@pytest.mark.parametrize("fitting", [True, False])
def test_the_compiler_is_another_process(tmp_path, monkeypatch, fitting):
    """It gets the settings as a file, and its counts are read."""
    script, seen = tmp_path / "python", tmp_path / "seen.json"
    script.write_text(COMPILER.format(python=sys.executable, fitting=fitting, seen=seen))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    memory = targets.machine("v5e")[0].memory
    assert fit.bytes_needed(tiny_config(), "v5e", 5) == (9 if fitting else memory)
    given = json.loads(seen.read_text())
    assert (given["--target"], given["--runs"], given["batch_size"]) == ("v5e", "5", 16)
    script.write_text("#!/bin/sh\necho 'grokjax: error: no compiler' >&2\nexit 2\n")
    with pytest.raises(UserError, match=r"^no compiler$"):
        fit.bytes_needed(tiny_config(), "v5e", 5)
