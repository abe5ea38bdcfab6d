"""`grokjax compile`: this machine's programs counted; what cannot be compiled is one line."""

import dataclasses
import importlib.util
import json

import pytest
from conftest import ROOT, tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.instruments import compile as compiler
from grokjax.instruments.targets import Chip, find_target, machine
from grokjax.model import num_parameters
from grokjax.model.cost import train_flops
from grokjax.settings import grid
from grokjax.training.resolve import planned_model


def test_training_counts_what_is_counted_on_paper():
    config = tiny_config()
    (training,) = grokjax.compile_for(config, "here", programs=("training",))
    step = training.counts.per(training.num_steps)
    on_paper = train_flops(planned_model(config)) * config.train.batch_size
    assert on_paper <= step.flops < 1.1 * on_paper  # the first layers' inputs need no gradient
    assert training.num_steps == config.train.chunk_steps
    assert step.unknown_loops == step.host_transfers == 0 and not step.collectives
    assert training.bytes_needed > training.temporary_bytes > 0
    assert training.floor.flops == on_paper
    state = 4 * 4 * num_parameters(planned_model(config))  # weights, average and two moments
    assert 2 * state <= training.floor.bytes < 2.05 * state


def test_work_grows_with_the_runs_and_is_divided_among_devices():
    config = tiny_config()
    config.runs = tuple(grid("seeds.init", (0, 1)))

    def flops(**options):
        (found,) = grokjax.compile_for(config, "here", programs=("training",), **options)
        return found.counts.flops

    assert flops(num_runs=4) == pytest.approx(2 * flops())
    assert flops(num_devices=2) == pytest.approx(flops() / 2)


def test_a_batch_split_over_devices_splits_the_work():
    """Flattened products did not: each device gathered the whole batch and computed all of it."""
    config = tiny_config(train__batch_devices=4)
    config.model.update({"mixer": "mlp", "positions": "none"})
    whole = tiny_config()
    whole.model.update({"mixer": "mlp", "positions": "none"})
    (split,) = grokjax.compile_for(config, "here", num_devices=4, programs=("training",))
    (alone,) = grokjax.compile_for(whole, "here", programs=("training",))
    assert split.counts.flops < 1.1 * alone.counts.flops / 4
    gathered = [shape for op, shape, _ in split.counts.collectives if op == "all-gather"]
    assert split.counts.per(split.num_steps).collective_bytes > 0
    assert not any(f"[{config.train.batch_size}," in shape for shape in gathered)


def test_remat_trades_memory_for_flops():
    def training(remat):
        config = tiny_config(model__remat=remat)
        return next(grokjax.compile_for(config, "here", num_runs=1, programs=("training",)))

    plain, again = training("none"), training("blocks")
    assert 1.1 * plain.counts.flops < again.counts.flops < 1.4 * plain.counts.flops


def test_the_command_writes_text_and_numbers(tmp_path, capsys):
    experiment = f"--config={ROOT}/experiments/quickstart.py:smoke"
    command = ["compile", experiment, "--target=here", "--runs=2", f"--dump={tmp_path / 'd'}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "estimates of a compiler, no measurements" in said
    counts = json.loads((tmp_path / "d" / "counts.json").read_text())
    assert [p["program"] for p in counts["programs"]] == [
        "training", "evaluation", "lens", "patching"
    ]  # fmt: skip
    assert counts["num_steps"] == 50 and counts["programs"][0]["num_runs"] == 2
    assert "ENTRY" in (tmp_path / "d" / "training.hlo.txt").read_text()


BAD = {
    "tpu-v9": "unknown; give one of v5e, v6e, v5p, h100, h200, a100, here",
    "h200:2x2": "unknown",
    "v5e:": "unknown",
    "v5e:2x2:0": "unknown",
    "here:2": "unknown",
}


@pytest.mark.parametrize("name", BAD)
def test_an_unknown_target_names_the_known_ones(name):
    with pytest.raises(UserError, match=BAD[name]):
        find_target(name)


def test_a_program_that_does_not_fit_is_told_with_its_mends(monkeypatch, tmp_path, capsys):
    """The others are compiled and written all the same."""
    config = tiny_config(train__batch_size=512, evaluate__batch_size=16)
    (alone,) = grokjax.compile_for(config, "here", num_runs=1, programs=("training",))
    memory = alone.bytes_needed - 1
    small = dataclasses.replace(find_target("here"), chip=Chip(1e12, 1e12, memory))
    monkeypatch.setattr(compiler, "find_target", lambda name, num_devices: small)
    with pytest.raises(UserError, match=r"training: .* do not fit here's .*; largest: ") as told:
        compiler.main(config, "here", 1, None, tmp_path, ("training", "evaluation"))
    assert "model.remat=" in str(told.value) and "train.batch_size" in str(told.value)
    training, evaluation = json.loads((tmp_path / "counts.json").read_text())["programs"]
    assert not training["fits"] and training["bytes_needed"] > memory
    assert evaluation["fits"] and evaluation["bound_seconds"] >= evaluation["floor_seconds"] > 0
    assert "training: " in capsys.readouterr().out


def test_the_analysis_has_some_runs_of_many_and_the_targets_own_budgets():
    """As `grokjax analyze` would call it there; on a CPU it takes a run for each device."""
    config = tiny_config()
    (lens,) = grokjax.compile_for(config, "here", num_runs=6, num_devices=2, programs=("lens",))
    assert (lens.num_runs, lens.num_devices) == (2, 2)


def test_a_workdirs_settings_can_be_compiled(capsys):
    frozen = f"--config={ROOT}/tests/data/workdirs/15fac09_quickstart.json"
    assert main(["compile", frozen, "--target=here", "--programs=lens", "--runs=0"]) == 2
    assert "--runs=0: must be at least 1" in capsys.readouterr().err
    assert main(["compile", frozen, "--target=here", "--programs=lense"]) == 2
    assert "choose of training, evaluation, lens, patching" in capsys.readouterr().err


def test_what_a_target_has_is_known_without_its_compiler():
    def had(name):
        chip, num_devices = machine(name)
        return chip.memory, num_devices

    assert had("h100:8") == (84_900_000_000, 8)
    assert had("v5e") == (16_911_433_728, 4) and had("v5e:4x4:2") == (16_911_433_728, 32)
    with pytest.raises(UserError, match="leave it out for this one"):
        machine("here")


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match="--devices=99: here has"):
        find_target("here", 99)
    with pytest.raises(UserError, match="--devices=0"):
        find_target("here", 0)


@pytest.mark.parametrize(("name", "module", "extra"), [
    ("v5e:2x2", "libtpu", "tpu"),
    ("h200", "jax_cuda13_plugin", "cuda"),
])  # fmt: skip
def test_a_compiler_that_is_not_installed(name, module, extra, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == module else real(n, *a)
    )
    with pytest.raises(UserError, match=rf"not installed; run pip install 'grokjax\[{extra}\]'"):
        find_target(name)
