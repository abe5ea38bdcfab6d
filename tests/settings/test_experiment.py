"""Experiment files: every config builds; overrides and settings are checked."""

import pathlib

import pytest
from conftest import ROOT, tiny_config

from grokjax.base.errors import UserError
from grokjax.data.graph import resolve_augmentation
from grokjax.settings.experiment import load_experiment, read_experiment, validate
from grokjax.settings.rows import expand
from grokjax.sweeps.planner import Plan, extend_plan

FILES = sorted((ROOT / "experiments").glob("*.py"))
SIZES = {"quickstart": ["", "smoke"], "pretrain": ["", "small"], "paper": ["", "reduced", "medium"]}
SWEEPS = ("regimes", "data_ratio", "fake_grokking", "weight_decay", "optimizers", "sharing")
SIZES["natural"] = SIZES["small"] = [""]
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
        ("--seed=3", "unknown argument '--seed'"),
        ("stray", "unknown argument 'stray'"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(UserError, match=message):
        load_experiment(str(ROOT / "experiments/pretrain.py"), [override])


def test_an_override_of_what_the_sweep_varies_is_refused():
    with pytest.raises(UserError, match=r"data.regime: the sweep of .* varies it"):
        load_experiment(str(ROOT / "experiments/quickstart.py"), ["--config.data.regime=natural"])


def test_path_stages_go_with_the_evaluated_depth():
    validate(tiny_config(evaluate__path_stage="H2_Commit", evaluate__H_cycles=3))
    validate(tiny_config(evaluate__path_stage="S1_H0_Commit", model__halt_max_steps=2))
    validate(tiny_config(evaluate__path_stage="Loop1_Layer0", model__kind="decoder",
                         model__num_loops=2))  # fmt: skip
    with pytest.raises(UserError, match="'H1_Commit' is none of best, S0_Init"):
        validate(tiny_config(evaluate__path_stage="H1_Commit", model__halt_max_steps=2))


def test_numbers_of_the_sweep_are_checked_too():
    config = tiny_config()
    config.runs = ({"seeds.init": 0}, {"optimizer.ema_rate": 1.5})
    with pytest.raises(UserError, match=r"ema_rate: 1\.5 must be at least 0 and below 1"):
        validate(config)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__num_heads": 3}, "3 heads do not divide hidden_size 16"),
        ({"model__num_heads": 16, "model__positions": "rotary"}, "even head size"),
        ({"model__mixer": "mlp", "model__positions": "rotary"}, "attention mixer"),
        ({"model__mixer": "conv"}, "'conv' is none of mlp, attention"),
        ({"model__register_size": 5}, "5 values do not fit 0 registers"),
        ({"model__gradient_cycles": 3}, r"3 is outside 0..2"),
        ({"train__chunk_steps": 3}, "does not divide eval_every"),
        ({"train__batch_size": 0}, "must be at least 1"),
        ({"checkpoint__every": 15}, "no multiple of train.eval_every"),
        ({"evaluate__path_stage": "H7_Commit"}, "path_stage"),
        ({"evaluate__path_position": "bridge"}, "head, relation1, relation2, answer, end"),
        ({"evaluate__path_position": "best", "model__kind": "decoder"}, "not of a decoder"),
        ({"evaluate__H_cycles": -1}, "H_cycles: -1 must be finite and at least 0"),
        ({"optimizer__learning_rate": float("nan")}, "learning_rate: nan must be finite"),
        ({"optimizer__beta2": 1.0}, "beta2: 1.0 must be at least 0 and below 1"),
        ({"optimizer__schedule": "cosine"}, "decay_steps: 0 is not beyond the warm-up"),
        ({"model__expansion": 0.0}, "expansion: 0.0 must be finite and above 0"),
        ({"model__dropout": 1.0}, "dropout: 1.0 must be at least 0 and below 1"),
        ({"model__kind": "decoder", "model__num_heads": 3}, "3 heads do not divide"),
        ({"seeds__init": -1}, "seeds.init: -1 must be a whole number"),
        ({"checkpoint__analysis_steps_per_decade": 0}, "must be at least 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        validate(tiny_config(**changes))
