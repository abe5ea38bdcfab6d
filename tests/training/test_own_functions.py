"""Functions of people's own files: the docs' run, versions count, mistakes are one line."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from conftest import tiny_config
from own_examples import SMALL, forget, refused, write_examples

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.settings import load_experiment, own_functions
from grokjax.settings.identity import settings_hash
from grokjax.training.optim import Hyperparameters, OptimizerConfig, learning_rate, moments

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The page's experiment, trained."""
    folder = tmp_path_factory.mktemp("extending")
    file = write_examples(folder)
    assert main(["train", str(folder / "w"), f"--config={file}", *SMALL]) == 0
    return file


def test_the_page_trains_is_analysed_and_reported(example, capsys):
    workdir = example.parent / "w"
    forget()
    results = grokjax.load(workdir)
    entropy = results.curves["test_inferred_ood/answer_entropy"]
    assert entropy.between(0, np.log(results.vocab_size) + 1e-4).all()
    assert entropy.nunique() == 5  # of two runs at three steps, which begin alike
    assert set(results.config.model.kind.split("@")[0].split(":")) == {"blocks.py", "PreNormBlock"}
    assert main(["report", str(workdir)]) == 0
    assert "answer_entropy" in (workdir / "report.html").read_text()
    means = pd.read_csv(workdir / "own_metrics.csv")
    assert set(means.metric) == {"answer_entropy"} and means["mean"].notna().all()
    assert not own_functions._modules  # who reads a workdir executes nothing

    command = ["analyze", workdir, "--pairs=2", "--no-null"]
    assert "give the experiment that names it, --config=FILE" in refused(capsys, *command)
    assert main([*map(str, command), f"--config={example}"]) == 0
    blocks = pd.read_csv(workdir / "analysis/patching_runs.csv")
    assert {"mixer", "mlp"} <= set(blocks.component)


def test_the_pages_task_trains_is_analysed_and_reported(tmp_path, capsys):
    """By the same code as ours: curves, events, lens and patching have its names."""
    file, workdir = write_examples(tmp_path).with_name("sums_experiment.py"), tmp_path / "w"
    small = [text for text in SMALL if not text.startswith("--config.data.num")]
    assert main(["train", str(workdir), f"--config={file}", *small]) == 0
    forget()
    results = grokjax.load(workdir)
    assert results.task.question == ("a", "b", "c") and set(results.runs.regime) == {"times"}
    curves = results.curves
    assert curves["unseen/sum_found"].notna().all() and "known/sum_found_strict" in curves
    assert not any("inferred" in column or "bridge" in column for column in curves)
    assert main(["report", str(workdir)]) == 0
    page = (workdir / "report.html").read_text()
    assert "Accuracy is of products of sums that were never multiplied" in page
    assert "the path is" not in page and "The path is the sum read through the logit lens" in page
    text = re.sub(r'src="data:[^"]*"', "", page)  # pictures, whose letters mean nothing
    assert not any(word in text for word in ("bridge", "composition", "OOD"))
    outcomes = pd.read_csv(workdir / "outcomes.csv")
    assert len(outcomes) == 4 and outcomes["order_0.5"].notna().all()
    assert (outcomes.num_queries == 2 * 7 * 7).all()
    assert not own_functions._modules  # who reads a workdir executes nothing

    command = ["analyze", str(workdir), "--pairs=4", "--no-null", "--runs=0,3"]
    assert "give the experiment that names it, --config=FILE" in refused(capsys, *command)
    assert main([*command, f"--config={file}"]) == 0
    patched, read, asked = (
        pd.read_csv(workdir / "analysis" / f"{name}.csv")
        for name in ("patching_runs", "lens_runs", "questions")
    )
    assert set(patched.slot) == {"a", "b", "c"} and set(patched.position) >= {"a", "b", "c", "end"}
    assert set(read.token) == {"sum", "target", "a", "b", "c"}
    for row in asked.itertuples():
        a, b, c = map(int, row.question.split(", "))
        assert row.sum == (a + b) % 7 and row.answer == row.sum * c % 7


def test_another_version_is_another_run(example, capsys):
    workdir = example.parent / "w"
    before = load_experiment(str(example))
    file = example.parent / "schedules.py"
    content = file.read_text()
    file.write_text(content + "# changed\n")
    try:
        after = load_experiment(str(example))
        assert settings_hash(before) != settings_hash(after)
        more = ["train", workdir, f"--config={example}", *SMALL, "--config.train.num_steps=40"]
        error = refused(capsys, *more)
        assert "optimizer.schedule: schedules.py:linear@" in error and "another config" in error
        with pytest.raises(UserError, match="has changed since it was read"):
            own_functions._modules.clear()
            learning_rate(OptimizerConfig(schedule=before.optimizer.schedule), numbers())(0)
    finally:
        file.write_text(content)
    assert settings_hash(load_experiment(str(example))) == settings_hash(before)
    assert json.loads((workdir / "config.json").read_text())["config"]["optimizer"]["schedule"] == (
        before.optimizer.schedule
    )


def numbers(**changes) -> Hyperparameters:
    values = {"learning_rate": 1.0, "warmup_steps": 10.0, "weight_decay": 0.0, "beta1": 0.9}
    values |= {"beta2": 0.99, "eps": 1e-8, "register_learning_rate": 0.0, "ema_rate": 0.9}
    values |= {"register_weight_decay": 0.0, "decay_steps": 110.0}
    return Hyperparameters(**values | changes)


def test_the_pages_schedule_and_optimiser_are_what_they_say(example):
    config = load_experiment(str(example))
    rate = learning_rate(OptimizerConfig(schedule=config.optimizer.schedule), numbers())
    np.testing.assert_allclose([rate(n) for n in (4, 9, 60, 110, 500)], [0.5, 1, 0.5, 0, 0])
    params = {"w": jnp.arange(4.0).reshape(2, 2)}
    grads = {"w": jnp.array([[1.0, -2.0], [0.5, -0.1]])}
    ours = moments(config.optimizer.name, numbers())
    theirs = optax.scale_by_lion(0.9, 0.99)
    state, expected = ours.init(params), theirs.init(params)
    for _ in range(3):
        step, state = ours.update(grads, state, params)
        wanted, expected = theirs.update(grads, expected, params)
        np.testing.assert_array_equal(step["w"], wanted["w"])


def test_each_run_has_its_own_numbers(example, tmp_path):
    """One of them alone: schedule, optimiser and block of a population are those of one run."""
    both = grokjax.load(example.parent / "w")
    rates = both.runs["optimizer.learning_rate"].tolist()
    assert rates == [1e-4, 3e-4]
    weights = [jax.tree.leaves(both.parameters(i)["params"]) for i in (0, 1)]
    assert any(np.any(a != b) for a, b in zip(*weights, strict=True))
    config = load_experiment(str(example), SMALL)
    config.runs = config.runs[1:]
    alone = grokjax.train_and_evaluate(config, tmp_path / "alone")
    for a, b in zip(jax.tree.leaves(alone.parameters(0)["params"]), weights[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_experiment_of_another_folder_reads_one_and_keeps_its_functions(example, tmp_path):
    file = tmp_path / "other.py"
    file.write_text(
        "from grokjax.settings import read_experiment\n\n\ndef get_config():\n"
        f"    config, _ = read_experiment({str(example)!r})\n"
        "    config.train.num_steps = 30\n    return config\n"
    )
    forget()
    found, whole = load_experiment(str(file)), load_experiment(str(example))
    assert found.optimizer.schedule == whole.optimizer.schedule
    rate = learning_rate(OptimizerConfig(schedule=found.optimizer.schedule), numbers())
    assert float(rate(9)) == 1
    forget()
    stored = json.loads((example.parent / "w" / "config.json").read_text())["config"]
    file.write_text(
        "from grokjax.settings import default_config\n\n\ndef get_config():\n"
        "    config = default_config()\n"
        f"    config.optimizer.schedule = {stored['optimizer']['schedule']!r}\n    return config\n"
    )
    with pytest.raises(UserError, match=r"schedules.py.*no such file; the path is relative to"):
        load_experiment(str(file))  # which nobody has read here


def experiment(folder, setting: str, code: str, value: str = "own.py:f"):
    (folder / "own.py").write_text(code)
    file = folder / "x.py"
    file.write_text(
        "from tiny import fast\n\n\ndef get_config():\n"
        "    config = fast(model__H_cycles=1, model__L_cycles=1, model__num_layers=1)\n"
        f"    config.{setting} = '{value}'\n    return config\n"
    )
    return file


METRIC = "import jax.numpy as jnp\ndef f(output, batch, query):\n    return "
BLOCK = """
import flax.linen as nn, jax.numpy as jnp
from grokjax.model.layers import untapped
class f(nn.Module):
    config: object
    @nn.compact
    def __call__(self, x, rotary=None, tap=untapped):
        w = self.param("w", nn.initializers.ones, ({size},))
        return {result}
"""
TASK = """
import numpy as np
from grokjax.data.queries import dataset_of, vocabulary_of
from grokjax.data.task import GENERALISATION, TRAINED, ProbeType, Task
TASK = Task("t", ("a", "b"), (ProbeType("old", TRAINED), ProbeType("new", GENERALISATION)))
def f(data, seed):
    rows = np.array([[1, 2, 3], [2, 1, 3]])
    return dataset_of(TASK, vocabulary_of("pqr"), {train}, {probes}, seed)
"""
MISTAKES = {
    "task's nan": (
        "data.task",
        TASK.format(train="rows / np.nan", probes="{'new': rows}"),
        "line 8: ValueError: gives training queries that are not finite",
    ),
    "task's probes": (
        "data.task",
        TASK.format(train="rows", probes="{}"),
        "has no probes of the type new, which tells grokking",
    ),
    "task's length": (
        "data.task",
        TASK.format(train="np.ones((4, 5), int)", probes="{'new': rows}"),
        "gives training queries of shape (4, 5); t declares 3 columns: 2 of the question",
    ),
    "task's tokens": (
        "data.task",
        TASK.format(train="rows", probes="{'new': rows + 90}"),
        "new query 0 has the token 91, outside of the vocabulary's 1..9",
    ),
    "no data": ("data.task", "def f(data, seed):\n    return 3\n", "gives a int, not what"),
    "task's signature": ("data.task", "def f(seed):\n    return 3\n", "(data, seed)"),
    "task raises": ("data.task", "def f(data, seed):\n    return data.x\n", "line 2: Attr"),
    "missing": ("evaluate.metrics", None, "own.py:f: no such file; the path is relative to"),
    "raises": ("evaluate.metrics", "x = 1\n1 / 0\n", "line 2: ZeroDivisionError"),
    "syntax": ("evaluate.metrics", "def f(:\n", "line 1: SyntaxError"),
    "exits": ("evaluate.metrics", "import sys\nsys.exit(0)\n", "line 2: SystemExit"),
    "no such": ("evaluate.metrics", "g = 1\n", "the file has no function f"),
    "signature": ("evaluate.metrics", "def f(logits):\n    pass\n", "(output, batch, query)"),
    "inside": ("evaluate.metrics", METRIC + "output.logit\n", "line 3: AttributeError"),
    "shape": ("evaluate.metrics", METRIC + "output.logits\n", "gives the shape (2, 5, "),
    "nan": ("evaluate.metrics", METRIC + "jnp.nan * query[:, 0]\n", "gives nan for id_atomic"),
    "schedule's signature": ("optimizer.schedule", "def f(n):\n    return 1\n", "(count, h)"),
    "schedule's nan": (
        "optimizer.schedule",
        "def f(n, h):\n    return 0.0 / (n - n)\n",
        "gives nan at step 0 of run 0",
    ),
    "schedule's branch": (
        "optimizer.schedule",
        "def f(n, h):\n    return 1.0 if n < h.warmup_steps else 0.0\n",
        "line 2: TracerBoolConversionError",
    ),
    "no optimiser": ("optimizer.name", "def f(h):\n    return 3\n", "no optax.Gradient"),
    "optimiser's nan": (
        "optimizer.name",
        "import optax\ndef f(h):\n    return optax.scale(float('nan'))\n",
        "gives updates that are not finite",
    ),
    "optimiser's tree": (
        "optimizer.name",
        "import optax\ndef f(h):\n    return optax.GradientTransformation(lambda p: (),"
        " lambda g, s, p=None: (g, 1.0))\n",
        "its state have another tree",
    ),
    "block's shape": (
        "model.kind",
        BLOCK.format(size=1, result="tap('mixer', tap('mlp', x))[:1] * w[0]"),
        "gives ['float32[1, 2, 16]'] of",
    ),
    "block's taps": (
        "model.kind",
        BLOCK.format(size=1, result="x * w[0]"),
        "calls tap('mixer', x)",
    ),
    "block's nan": (
        "model.kind",
        BLOCK.format(size=1, result="tap('mixer', tap('mlp', x)) / (w[0] - 1)"),
        "gives states that are not finite",
    ),
    "block's tree": (
        "model.kind",
        "import itertools\nsizes = itertools.count(1)\n"
        + BLOCK.format(size="next(sizes)", result="tap('mixer', tap('mlp', x)) * w[0]"),
        "another tree of parameters for another seed",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_and_function(what, tmp_path, capsys, unchecked):
    setting, code, message = MISTAKES[what]
    file = experiment(tmp_path, setting, code or "")
    if code is None:
        (tmp_path / "own.py").unlink()
    error = refused(capsys, "train", tmp_path / "w", f"--config={file}")
    assert f"{setting}" in error and "own.py:f" in error and message in error
    assert not (tmp_path / "w").exists()


def test_a_tree_that_changes_between_two_processes_is_named(tmp_path, capsys):
    """The file reads something else that is not hashed."""
    code = f"import pathlib\nsize = int(pathlib.Path({str(tmp_path / 'size')!r}).read_text())\n"
    code += BLOCK.format(size="size", result="tap('mixer', tap('mlp', x)) * w[0]")
    file = experiment(tmp_path, "model.kind", code)
    (tmp_path / "size").write_text("1")
    command = ["train", str(tmp_path / "w"), f"--config={file}"]
    assert main(command) == 0
    capsys.readouterr()
    (tmp_path / "size").write_text("2")
    forget()
    error = refused(capsys, *command, "--config.train.num_steps=40")
    assert "own.py:f: draws another tree than was stored" in error


def test_names_are_checked_before_files_are(tmp_path, capsys):
    for setting, value, message in (
        ("evaluate.metrics", "answer_entropi", "none of answer_log_probability, answer_rank, or"),
        ("evaluate.metrics", "answer_rank,own.py:answer_rank", "names one twice"),
        ("optimizer.name", "sgd", "none of adamw, adam_atan2, or FILE.py:NAME"),
        ("model.mixer", "own.py:f", "none of mlp, attention"),
        ("evaluate.metrics", "own.py:exact_match", "the name of a metric of ours"),
    ):
        code = "def exact_match(output, batch, query):\n    return query[:, 0]\n"
        file = experiment(tmp_path, setting, code, value)
        assert message in refused(capsys, "train", tmp_path / "w", f"--config={file}")


def test_our_own_metrics(tmp_path):
    config = tiny_config(evaluate__metrics="answer_rank, answer_log_probability")
    config.train.num_steps = config.checkpoint.every = 20
    curves = grokjax.train_and_evaluate(config, tmp_path / "w").curves
    for kind in ("id_atomic", "test_inferred_ood"):
        accuracy, rank, log_p = (
            curves[f"{kind}/{name}"]
            for name in ("answer_accuracy", "answer_rank", "answer_log_probability")
        )
        assert (rank >= 0).all() and (log_p < 0).all()
        assert ((rank > 0) | (accuracy == 1)).all()
