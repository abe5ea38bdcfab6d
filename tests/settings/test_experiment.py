"""Experiment files: every config builds; overrides and settings are checked."""

import json
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT, tiny_config

from grokjax.base.errors import UserError
from grokjax.data.graph import resolve_augmentation
from grokjax.settings import load_experiment, read_experiment
from grokjax.settings.rows import expand
from grokjax.sweeps.plan import Plan
from grokjax.sweeps.planner import extend_plan

FILES = sorted((ROOT / "experiments").glob("*.py"))
SIZES = {"quickstart": ["", "smoke"], "pretrain": ["", "small"], "paper": ["", "reduced", "medium"]}
SWEEPS = ("regimes", "data_ratio", "fake_grokking", "weight_decay", "sharing")
SIZES["small"] = SIZES["confirmatory"] = SIZES["comparison"] = [""]
SIZES["modular"] = ["", "operations", "shares"]
SIZES["optimizers"] = ["", "small", "modular"]
SIZES["natural"] = ["", "small", "graph", "model", "changes"]
SIZES["transfer"] = ["", "small", "dose"]  # of a run that is trained already
SIZES["baseline"] = ["", "ordinary", "looped", "recursive"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_config_builds(file):
    for size in SIZES.get(file.stem, ["", "small"]):
        source = tiny_config() if file.stem == "transfer" else None
        config, rows = read_experiment(f"{file}:{size}" if size else str(file), (), source)
        config.sweep.runs_per_population = 64
        config.transfer.source = "runs/x" if source else ""  # which the command fills in
        plan = extend_plan(Plan(), config, rows)
        runs = [run for population in plan.populations for run in expand(population.config)]
        assert len(runs) == len(plan.run_hashes) == max(len(rows), 1)  # no row twice
        assert all(resolve_augmentation(run.data) is not None for run in runs)
    assert (file.stem in SIZES) != (file.stem in SWEEPS)
    assert "grokjax" in file.read_text().split('"""')[1]  # its docstring has the command


def test_quickstart_is_one_population_of_three_regimes():
    runs = expand(load_experiment(str(ROOT / "experiments/quickstart.py")))
    regimes = [run.data.regime for run in runs]
    for regime in ("natural", "both_hop_full", "second_hop_full"):
        assert regimes.count(regime) >= 3


def test_paper_settings():
    """The study's: docs/model.md, and docs/protocol.md, section 2."""
    config = load_experiment(str(ROOT / "experiments/paper.py"))
    assert {run.data.regime for run in expand(config)} == {
        "natural",
        "both_hop_full",
        "both_hop_half",
        "first_hop_full",
        "second_hop_full",
    }
    m, o, t = config.model, config.optimizer, config.train
    assert (m.hidden_size, m.num_layers, m.H_cycles, m.L_cycles) == (1536, 2, 2, 6)
    assert (m.num_registers, m.register_size, m.mixer, m.dtype) == (16, 1536, "mlp", "bfloat16")
    assert (o.learning_rate, o.warmup_steps, o.weight_decay) == (4e-5, 2000, 1.0)
    assert (o.beta1, o.beta2, o.ema_rate) == (0.9, 0.95, 0.999)
    assert (t.batch_size, t.num_steps, t.loss) == (512, 1_300_000, "stablemax")
    assert config.data.phi == 18.0 and m.gradient_cycles == 1


def test_overrides():
    file = str(ROOT / "experiments/pretrain.py")
    config = load_experiment(
        file,
        [
            "--config.train.num_steps=2_000",
            "--config.data.phi=inf",
            "--config.data.regime=both_hop_full",
            "--config.evaluate.raw_weights",
            "--config.optimizer.weight_decay=1",
        ],
    )
    assert config.train.num_steps == 2000 and config.data.phi == float("inf")
    assert config.evaluate.raw_weights is True and config.optimizer.weight_decay == 1.0
    assert load_experiment(file, {"seeds.init": 3}).seeds.init == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.num_stepz=1", "did you mean 'train.num_steps'"),
        ("--config.train.num_steps=many", "num_steps=many: .*'many'"),
        ("--config.evaluate.raw_weights=perhaps", "raw_weights=perhaps: .*Non-boolean"),
        ("--config.train.num_steps", "Missing value for flag"),
        ("--config.runs=3", "unknown setting 'runs'"),
        ("--config.optimizer.lr=1", "did you mean 'optimizer.learning_rate'"),
        ("--config.data.seed=1", "did you mean 'seeds.data'"),
        ("--train.num_steps=300", "did you mean --config.train.num_steps=VALUE"),
        ("--train.steps=300", "did you mean --config.train.num_steps=VALUE"),
        ("--seed=3", "unknown argument '--seed'; did you mean --config.seeds.init=VALUE"),
        ("--wrkdir=3", "unknown argument '--wrkdir'; see grokjax --help"),
        ("stray", "unknown argument 'stray'"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(UserError, match=message):
        load_experiment(str(ROOT / "experiments/pretrain.py"), [override])


def test_an_override_of_what_the_sweep_varies_is_refused():
    with pytest.raises(UserError, match=r"data.regime: the sweep of .* varies it"):
        load_experiment(str(ROOT / "experiments/quickstart.py"), ["--config.data.regime=natural"])


def test_a_file_knows_its_arguments():
    with pytest.raises(UserError, match=r"unknown ':huge'; .*pretrain\.py knows :small"):
        load_experiment(str(ROOT / "experiments/pretrain.py") + ":huge")


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_experiment(str(tmp_path / "x.py"))
    (tmp_path / "x.py").write_text("def get_config(:\n")
    with pytest.raises(UserError, match="line 1"):
        load_experiment(str(tmp_path / "x.py"))
    (tmp_path / "y.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="no get_config"):
        load_experiment(str(tmp_path / "y.py"))
    pathlib.Path(tmp_path / "z.py").write_text("def get_config():\n    return None\n")
    with pytest.raises(UserError, match="takes no argument"):
        load_experiment(str(tmp_path / "z.py") + ":small")


LOADING = """
import sys
from grokjax.settings import load_experiment, read_experiment

load_experiment("experiments/quickstart.py")
sys.exit("jax" in sys.modules)
"""


UNLOCKED = {
    "config.train.num_stepss = 3": "config: unknown setting 'train.num_stepss'; did you mean",
    "del config.train['num_steps']": "config: lacks the setting 'train.num_steps'; start from",
}


@pytest.mark.parametrize("code", UNLOCKED)
def test_what_an_unlocked_config_has_is_told_with_its_file(code, tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "from grokjax.settings import default_config\n\n\ndef get_config():\n"
        f"    config = default_config()\n    with config.unlocked():\n        {code}\n"
        "    return config\n"
    )
    with pytest.raises(UserError) as refused:
        read_experiment(str(path))
    assert str(refused.value).startswith(f"--config={path}: {UNLOCKED[code]}")


def test_reading_an_experiment_needs_no_jax():
    subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, check=True)


def test_a_workdirs_config_is_an_experiment(tmp_path):
    stored = ROOT / "tests" / "data" / "workdirs" / "15fac09_quickstart.json"
    config = load_experiment(str(stored), ["--config.train.batch_size=32"])
    assert config.train.batch_size == 32 and len(config.runs) == 12
    whole = tmp_path / "config.json"
    whole.write_text(json.dumps({"schema_version": 1, "config": json.loads(stored.read_text())}))
    assert load_experiment(str(whole)).runs == config.runs
    with pytest.raises(UserError, match=r"the sweep of .* varies it"):
        load_experiment(str(stored), ["--config.data.regime=natural"])


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"hidden": 3}}'])
def test_a_json_file_that_is_no_config(tmp_path, content):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"x\.json: not a config that a workdir has"):
        load_experiment(str(file))
    with pytest.raises(UserError, match="no such file"):
        load_experiment(str(tmp_path / "y.json"))
