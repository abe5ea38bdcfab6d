"""A whole model of a file: the docs' trains and is looked into, mistakes are one line."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from own_examples import SMALL, forget, refused, write_examples

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.data.dataset import make_batch
from grokjax.model import Patch, forward, readout
from grokjax.settings import load_experiment, own_functions

pytestmark = pytest.mark.usefixtures("unpainted")

OPTIONS = [text for text in SMALL if "num_layers" not in text]  # the example has two


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory):
    """The page's whole model, trained."""
    folder = tmp_path_factory.mktemp("perceptron")
    file = write_examples(folder).with_name("perceptron_experiment.py")
    assert main(["train", str(folder / "w"), f"--config={file}", *OPTIONS]) == 0
    return file


def test_the_pages_model_trains_is_analysed_and_reported(perceptron, capsys):
    workdir = perceptron.parent / "w"
    forget()
    results = grokjax.load(workdir)
    assert results.config.model.kind.startswith("perceptron.py@")
    assert main(["report", str(workdir)]) == 0
    outcomes = pd.read_csv(workdir / "outcomes.csv")
    assert len(outcomes) == 2 and outcomes.final_ood_accuracy.notna().all()
    assert not own_functions._modules  # who reads a workdir executes nothing
    command = ["analyze", str(workdir), "--pairs=2", "--no-null"]
    assert "give the experiment that names it, --config=FILE" in refused(capsys, *command)
    assert main([*command, f"--config={perceptron}"]) == 0
    patched = pd.read_csv(workdir / "analysis" / "patching_runs.csv")
    assert set(patched.component) == {"z_H"}
    assert set(patched.place) == {"Init", "Loop0_Layer0", "Loop0_Layer1"}
    stored = grokjax.analysis.load_analysis(results)
    with pytest.raises(UserError, match="no state inside of a block was patched"):
        stored.patching.sel(run=0, step=20).grokjax.plot(blocks=True)
    again = ["train", str(workdir), f"--config={perceptron}", "--config.train.num_steps=30"]
    assert main([*again, *[option for option in OPTIONS if "num_steps" not in option]]) == 0


def test_a_run_of_a_whole_model_is_that_run_alone(perceptron):
    """One under vmap beside another is itself; what the lens reads last is what it says."""
    config = load_experiment(str(perceptron))
    results = grokjax.load(perceptron.parent / "w")
    model, dataset = results.model, results.dataset(1)
    batch = make_batch(dataset.probes.table.query[:4], results.vocab_size - 1)
    params, buffers = results.weights(1)
    output = forward(model, params, buffers, batch)
    read = readout(model, params, output.trace.z_H[-1])
    np.testing.assert_allclose(read, output.logits, rtol=1e-6)
    states = {"z_H": jnp.flip(output.trace.z_H, axis=1)}
    share = jnp.zeros((3, model.length)).at[2].set(1.0)
    patched = forward(model, params, buffers, batch, patch=Patch(states, {"z_H": share}))
    np.testing.assert_allclose(patched.logits, output.logits[::-1], rtol=1e-6)
    assert config.model.kind == results.config.model.kind


TOGGLE = """init.odd = not getattr(init, "odd", False)
    layers = {"x": embed_key} if init.odd else {}"""
WRONG_MODELS = [
    ("def forward(", "def forwards(", "has no function forward"),
    ("def readout(config, params, z)", "def readout(params, z)", "readout is to take (config,"),
    ("z = tap(params", "z = (params", "taps 2 states, not 3"),
    ("return readout(config, params, z)", "return readout(config, params, tap(z))", "more than 3"),
    (
        'z = tap(params["embed"][tokens])',
        'z = tap(params["embed"][tokens][:, 1:])',
        "not [B, T, D]",
    ),
    ("return readout(config, params, z)", "return z", "forward gives (2, 5, 16), not logits"),
    ("return z @ params", "return 0 / 0 * z @ params", "ZeroDivisionError"),
    (
        'return {"embed": normal',
        'return {"embed": float("inf") * normal',
        "init draws parameters that are not",
    ),
    ("layers = {}", TOGGLE, "another tree"),
]


@pytest.mark.parametrize(("good", "wrong", "said"), WRONG_MODELS)
def test_mistakes_of_whole_models_are_one_line(good, wrong, said, tmp_path, capsys):
    file = write_examples(tmp_path).with_name("perceptron_experiment.py")
    model = file.with_name("perceptron.py")
    assert good in model.read_text()
    model.write_text(model.read_text().replace(good, wrong))
    error = refused(capsys, "train", tmp_path / "w", f"--config={file}", *OPTIONS)
    assert "model.kind=perceptron.py: " in error and said in error
    assert not (tmp_path / "w" / "config.json").exists()


def test_a_model_that_is_missing_or_lacks_a_function_is_one_line(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "from tiny import fast\n\n\ndef get_config():\n    return fast(model__kind='nobody.py')\n"
    )
    with pytest.raises(UserError, match=r"model\.kind: nobody\.py: no such file; the path is"):
        load_experiment(str(file))
    (tmp_path / "nobody.py").write_text("def init(config, key):\n    return {}\n")
    with pytest.raises(UserError, match=r"nobody\.py.*: the file has no function forward") as error:
        grokjax.train_and_evaluate(load_experiment(str(file)), tmp_path / "w")
    assert "\n" not in str(error.value) and not (tmp_path / "w" / "config.json").exists()
