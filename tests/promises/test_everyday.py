"""Everyday commands: one way to name a workdir, sweeps taken by all, help that helps."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from launching import ENVIRONMENT
from tiny import ROOT, fast, rows

import grokjax
import launch.__main__
from grokjax.arguments import make_parser
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.settings import load_experiment
from grokjax.settings.declarations import SETTINGS
from grokjax.workdir.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two widths with two seeds each: two populations."""
    workdir = tmp_path_factory.mktemp("everyday") / "sweep"
    return grokjax.run_sweep(fast(), rows(2, (16, 32)), workdir)


def refused(capsys, *arguments) -> str:
    assert main(list(map(str, arguments))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_bare_grokjax_helps(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "grokjax quickstart" in text and "grokjax new" in text and "COMMAND --help" in text
    assert "train a population" in text


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    declared = (ROOT / "pyproject.toml").read_text().split('version = "')[1].split('"')[0]
    assert stop.value.code == 0 and capsys.readouterr().out == f"grokjax {declared}\n"


@pytest.mark.parametrize("command", ["train", "sweep", "transfer", "analyze", "export-results"])
def test_the_workdir_is_the_first_argument_everywhere(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = {
        "train": [f"--config={ROOT}/experiments/pretrain.py:small"],
        "sweep": [f"--config={ROOT}/experiments/pretrain.py:small"],
        "transfer": [f"--config={ROOT}/experiments/transfer.py", "--from=nowhere"],
        "export-results": ["--out=out"],
    }.get(command, [])
    assert "required: WORKDIR" in refused(capsys, command, *needed)
    assert "a already; give one" in refused(capsys, command, "a", "--workdir=b", *needed)
    for given in (["w.txt"], ["--workdir=w.txt"], ["--workdir", "w.txt"]):
        for arguments in ([*given, *needed], [*needed, *given]):
            parsed = make_parser().parse_known_args([command, *arguments])[0]
            assert "w.txt" in (parsed.workdir, parsed.workdir_option)


def test_the_value_of_a_setting_is_not_a_workdir(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--config", f"{ROOT}/experiments/pretrain.py:small"]
    setting = ["--config.train.num_steps", "300"]
    assert "required: WORKDIR" in refused(capsys, *command, *setting)
    assert "README.md is a file" in refused(capsys, *command, *setting, f"{ROOT}/README.md/x")
    flag = "--config.data.identity_bridge"
    assert "README.md is a file" in refused(capsys, *command, flag, f"{ROOT}/README.md/x")


@pytest.mark.parametrize(
    "argument, hint",
    [
        ("--train.num_steps=300", "--config.train.num_steps=VALUE"),
        ("train.num_steps=300", "--config.train.num_steps=VALUE"),
        ("--optimizer.lr=1", "--config.optimizer.learning_rate=VALUE"),
        ("optimizer.lr=1", "--config.optimizer.learning_rate=VALUE"),
        ("--config.optimizer.lr=1", "'optimizer.learning_rate'"),
        ("--lr=1", "--config.optimizer.learning_rate=VALUE"),
    ],
)
def test_hints_are_right(argument, hint, capsys, tmp_path):
    config = f"--config={ROOT}/experiments/pretrain.py:small"
    assert f"did you mean {hint}?" in refused(capsys, "train", tmp_path / "w", config, argument)


def test_a_new_experiment_is_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine.py"]) == 0
    assert "grokjax train runs/mine --config=mine.py" in capsys.readouterr().out
    config = load_experiment("mine.py")
    assert config.name == "mine" and len(config.runs) == 4
    small = ["num_steps=20", "eval_every=10", "chunk_steps=10", "batch_size=16"]
    options = [f"--config.train.{option}" for option in small]
    options += ["--config.checkpoint.every=20", "--config.model.hidden_size=16"]
    options += ["--config.model.H_cycles=1", "--config.model.L_cycles=1"]
    assert main(["train", "runs/mine", "--config=mine.py", *options]) == 0
    assert set(grokjax.load("runs/mine").runs["optimizer.weight_decay"]) == {0.1, 1.0}
    assert "exists already" in refused(capsys, "new", "mine.py")
    assert "give a Python file" in refused(capsys, "new", "mine")


def completed(line: str, cwd) -> set[str]:
    """What bash offers at the end of a line, its words split as bash does."""
    words = line.replace("=", " = ").split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    code = (
        f'eval "$({sys.executable} -m grokjax completion bash)"\n'
        f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}\n"
        '_grokjax 2> /dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path):
    (tmp_path / "my_sweep.py").touch()
    assert completed("grokjax qu", tmp_path) == {"quickstart"}
    assert completed("grokjax train --config.train.num", tmp_path) == {"--config.train.num_steps="}
    assert completed("grokjax train --config=my", tmp_path) == {"my_sweep.py"}
    assert completed("grokjax completion ", tmp_path) == {"bash", "zsh", "--help"}
    assert completed("grokjax report my", tmp_path) == {"my_sweep.py"}


def test_completion_knows_every_command_and_setting(capsys):
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("autoload -Uz bashcompinit")
    assert all(f"--config.{name}=" in text for name in SETTINGS)


@pytest.fixture
def restores(monkeypatch):
    """The runs of every restore of stored weights from now on."""
    restored, restore = [], Checkpoints.restore_analysis

    def counted(self, step, like, runs=None):
        restored.append(runs)
        return restore(self, step, like, runs)

    monkeypatch.setattr(Checkpoints, "restore_analysis", counted)
    return restored


def test_a_sweeps_results_are_like_a_populations(sweep, restores):
    public = {n for n in dir(grokjax.Results) if not n.startswith("_")}
    assert public <= {n for n in dir(grokjax.SweepResults) if not n.startswith("_")}
    assert len(sweep.run_configs) == 4
    assert [run.model.hidden_size for run in sweep.run_configs] == [16, 16, 32, 32]
    assert sweep.checkpoint_steps() == sweep.population("000").checkpoint_steps()
    assert sweep.vocab_size == sweep.population("001").vocab_size
    with pytest.raises(UserError, match=r"differ in their model; \.locate"):
        _ = sweep.model
    with pytest.raises(UserError, match=r"runs \[0, 2\] are of different models"):
        sweep.stacked_weights([0, 2])
    restores.clear()
    both, _ = sweep.stacked_weights([3, 2])
    assert restores == [[1, 0]]  # together
    own, _ = sweep.population("001").stacked_weights([1, 0])
    assert all(map(np.array_equal, jax.tree.leaves(both), jax.tree.leaves(own)))


def test_what_python_shows_of_results_fits_a_screen(sweep):
    for results in (sweep, sweep.population("000")):
        shown = repr(results)
        assert len(shown) < 320 and "\n" not in shown
        assert f"{len(results.runs)} runs" in shown and "natural" in shown and "20" in shown


def test_sweeps_are_compared_exported_and_analysed(sweep, tmp_path, capsys):
    whole, part = sweep.workdir, sweep.workdir / "populations" / "000"
    figure = tmp_path / "compared.png"
    assert main(["compare", f"all widths={whole}", f"narrow={part}", f"--out={figure}"]) == 0
    assert set(pd.read_csv(figure.with_suffix(".csv")).model) == {"all widths", "narrow"}
    assert "call them NAME=WORKDIR" in refused(capsys, "compare", whole, part, f"--out={figure}")

    assert main(["export-results", str(whole), "--run=3", f"--out={tmp_path}/theirs"]) == 0
    assert (tmp_path / "theirs/checkpoint-20/all_items.json").exists()

    capsys.readouterr()
    options = ["--pairs=2", "--no-null", f"--out={tmp_path}/analysis"]
    assert main(["analyze", str(whole), "--runs=1,2", *options]) == 0
    text = capsys.readouterr().out
    assert "population 000:" in text and "population 001:" in text
    stored = {str(p.relative_to(tmp_path)) for p in tmp_path.glob("analysis/*/lens/*.nc")}
    assert len(stored) == 2
    assert set(pd.read_csv(tmp_path / "analysis/000/lens_runs.csv").run) == {1}
    assert set(pd.read_csv(tmp_path / "analysis/001/lens_runs.csv").run) == {0}
    assert "--runs=9: no such run" in refused(capsys, "analyze", whole, "--runs=9", *options)


def test_a_dry_run_shows_what_is_done(sweep, tmp_path, capsys, workers_environment):
    file = tmp_path / "x.py"
    file.write_text(
        "from tiny import fast as get_config, rows\n\n\n"
        "def sweep(add):\n    for row in rows(2, (16, 32, 48)):\n        add(row)\n"
    )
    command = ["local", str(sweep.workdir), f"--config={file}", "--dry-run"]
    assert launch.__main__.main(command) == 0
    told = capsys.readouterr().err
    lines = [line.split()[:2] for line in told.splitlines()]
    assert ["000", "done"] in lines and ["001", "done"] in lines and ["002", "pending"] in lines
    assert "2 done, 1 pending" in told and "1 row to submit" in told
