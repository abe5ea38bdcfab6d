"""A model of the official code in, the authors' result files out, all of it byte for byte."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA, PRETRAINING, tiny_config
from safetensors.numpy import save_file

import grokjax
from grokjax.cli import main
from grokjax.data.dataset import make_batch, make_dataset
from grokjax.data.folder import write_folder
from grokjax.interop import exports, golden, imports
from grokjax.interop.weights import bare_names, params_from_gpt2, read_arrays
from grokjax.model import ModelConfig, forward, forward_all_steps
from grokjax.training.resolve import model_config

OFFICIAL = DATA / "official_model"
STEP = 6400


def command(out, weights=OFFICIAL / "weights.npz", **changes):
    paths = {"weights": weights, "official-config": OFFICIAL / "config.json", "data": PRETRAINING}
    paths |= {name.replace("_", "-"): value for name, value in changes.items()}
    flags = [f"--{name}={value}" for name, value in paths.items()]
    return ["import-official", *flags, f"--out={out}", f"--step={STEP}"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("bridges") / "workdir"
    assert main(command(out)) == 0
    return out


def test_the_official_results_come_back_byte_for_byte(imported, tmp_path):
    assert main(["export-results", f"--workdir={imported}", "--run=0", f"--out={tmp_path}"]) == 0
    folder = tmp_path / f"checkpoint-{STEP}"
    for name in ("all_items.json", "logit_lens_ood.json"):
        assert (folder / name).read_bytes() == (OFFICIAL / name).read_bytes()


def test_the_imported_run_has_the_official_accuracies(imported):
    """The table of the files' README, by the official rule; and a lens rate of their notebook."""
    last = grokjax.load(imported).curves.iloc[-1]
    for kind, accuracy in [
        ("id_atomic", 0.798), ("ood_atomic", 0.66), ("train_inferred", 0.524),
        ("test_inferred_iid", 6 / 41), ("test_inferred_ood", 8 / 23),
    ]:  # fmt: skip
        assert last[f"{kind}/exact_match"] == pytest.approx(accuracy, abs=1e-6)
    assert last["training_accuracy"] == pytest.approx(0.660667, abs=1e-6)
    assert last["test_inferred_ood/bridge_found"] == pytest.approx(0.130435, abs=1e-6)
    assert last["test_inferred_ood/target_found"] == pytest.approx(0.391304, abs=1e-6)
    assert last.step == STEP


def test_the_workdir_is_whole(imported):
    results = grokjax.load(imported)
    assert results.config.model.vocab_size == 146 and results.config.model.hidden_size == 48
    assert results.config.optimizer.learning_rate == 2e-3
    assert results.runs.status.tolist() == ["done"] and results.checkpoint_steps() == [STEP]
    assert not [p for p in imported.parent.iterdir() if p.name.startswith(".")]


def test_an_imported_run_is_not_trained_over(imported):
    before = (imported / "curves.csv").read_bytes()
    with pytest.raises(grokjax.UserError, match=r"holds weights of .*weights\.npz"):
        grokjax.train_and_evaluate(grokjax.load(imported).config, imported)
    assert (imported / "curves.csv").read_bytes() == before


@pytest.mark.parametrize("prefix", ["_orig_mod.model.inner.", "model.inner."])
def test_prefixes_are_dropped(prefix, imported, tmp_path):
    arrays = bare()
    np.savez(tmp_path / "w.npz", **{prefix + name: value for name, value in arrays.items()})
    assert main(command(tmp_path / "w", tmp_path / "w.npz")) == 0
    ours, theirs = (grokjax.load(w).parameters(0)["params"] for w in (tmp_path / "w", imported))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def bare():
    return bare_names(read_arrays(OFFICIAL / "weights.npz"))


def edited(tmp_path, change):
    arrays = bare()
    change(arrays)
    np.savez(tmp_path / "w.npz", **arrays)
    return tmp_path / "w.npz"


BAD_WEIGHTS = {
    "'q_head.bias' is missing": lambda a: a.pop("q_head.bias"),
    "unknown array 'extra.weight'": lambda a: a.update({"extra.weight": np.ones(2)}),
    "lm_head is (40, 146)": lambda a: a.update({"lm_head.weight": a["lm_head.weight"][:, :40]}),
    "'embed_tokens.embedding_weight' is missing": lambda a: a.pop("embed_tokens.embedding_weight"),
}


@pytest.mark.parametrize("message", BAD_WEIGHTS)
def test_bad_weights_are_named(message, tmp_path, capsys):
    weights = edited(tmp_path, BAD_WEIGHTS[message])
    assert main(command(tmp_path / "w", weights)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.npz"]


def test_other_bad_input(imported, tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no")
    config = json.loads((OFFICIAL / "config.json").read_text())
    config["model_config"]["rms_norm_eps"] = 1e-3
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "short.json").write_text("{}")
    small = tmp_path / "small"
    assert main(["data", f"--config={DATA.parent.parent}/experiments/pretrain.py:small",
                 f"--out={small}"]) == 0  # fmt: skip
    for arguments, message in [
        (command(tmp_path / "w", "nowhere.npz"), "nowhere.npz: no such file"),
        (command(tmp_path / "w", tmp_path / "text.npz"), "not named arrays"),
        (
            command(tmp_path / "w", official_config=tmp_path / "config.json"),
            "rms_norm_eps is 0.001",
        ),
        (command(tmp_path / "w", official_config=tmp_path / "short.json"), "no setting 'mlp_t'"),
        (command(tmp_path / "w", data=tmp_path / "none"), "no such folder"),
        (command(tmp_path / "w", data=small), "does not go with a model of 146"),
        (command(imported), "exists already"),
        (
            ["export-results", f"--workdir={imported}", "--run=7", f"--out={tmp_path}/e"],
            "runs 0 to",
        ),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "w").exists() and not (tmp_path / "e").exists()


def test_every_checkpoint_of_a_trained_run_is_exported(tmp_path):
    config = tiny_config(train__num_steps=20)
    config.runs = ({"seeds.init": 0}, {"seeds.init": 1})
    results = grokjax.train_and_evaluate(config, tmp_path / "w")
    folders = exports.export_results(tmp_path / "w", 1, tmp_path / "e")
    assert [f.name for f in folders] == [f"checkpoint-{s}" for s in results.checkpoint_steps()]
    items = json.loads((folders[-1] / "all_items.json").read_text())
    right = [i["model_output"].split("</a>")[0] == i["target_text"].split("</a>")[0] for i in items]
    last = results.curves[(results.curves.run_id == 1) & (results.curves.step == 20)].iloc[0]
    for kind in ("id_atomic", "train_inferred"):
        mean = np.mean([r for r, i in zip(right, items, strict=True) if i["type"] == kind])
        assert mean == pytest.approx(last[f"{kind}/exact_match"], abs=1e-6)
    with pytest.raises(grokjax.UserError, match="exists already"):
        exports.export_results(tmp_path / "w", 1, tmp_path / "e")
    shutil.rmtree(tmp_path / "e")


def test_predictions_do_not_depend_on_the_batch(imported):
    results = grokjax.load(imported)
    dataset, stored = results.dataset(0), results.parameters(0)
    model = model_config(results.config, dataset.vocabulary.size)
    predicted, top = exports.predictions(model, stored["ema_params"], stored["buffers"], dataset)
    batch = make_batch(dataset.probes.table.query[700:703], dataset.vocabulary.end_id)
    output = forward_all_steps(model, stored["ema_params"], stored["buffers"], batch)
    np.testing.assert_array_equal(output.logits.argmax(-1), predicted[700:703])
    assert top.shape == (7, 1114, 5)


@pytest.fixture
def gpt2(tmp_path):
    """The golden GPT-2 in Hugging Face's layout, its 48 rows given to a small dataset's tokens."""
    z = read_arrays(DATA / "golden" / "e_gpt2.npz")
    folder = tmp_path / "gpt2"
    folder.mkdir()
    arrays = {
        name.removeprefix("lm."): value.astype(np.float32)
        for name, value in golden.arrays_under(z, "step0/param/").items()
    }
    arrays["transformer.h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float32)  # a mask, no weight
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(str(z["config"]))
    write_folder(make_dataset(tiny_config().data, 0), tmp_path / "data")
    tokens = json.loads((tmp_path / "data" / "vocab.json").read_text())
    ids = np.random.default_rng(0).permutation(47)[: len(tokens)].tolist()
    added = dict(zip(tokens, ids, strict=True))
    (folder / "vocab.json").write_text(json.dumps({"hello": 3}))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder, tmp_path / "data", added


@pytest.mark.parametrize("loops, flag", [(1, []), (2, ["--num-loops=2"])])
def test_a_gpt2_says_the_same_here(gpt2, loops, flag, tmp_path):
    folder, data, added = gpt2
    out = tmp_path / "w"
    command = ["import-gpt2", f"--model={folder}", f"--data={data}", f"--out={out}", *flag]
    assert main(command) == 0
    results = grokjax.load(out)
    dataset, params = results.dataset(0), results.parameters(0)["params"]
    model = model_config(results.config, dataset.vocabulary.size)
    assert (model.kind, model.num_loops, model.num_layers) == ("decoder", loops, 2)
    batch = make_batch(dataset.train.query[-4:], dataset.vocabulary.end_id)
    ours = forward(model, params, {}, batch).logits
    # The same in GPT-2's own vocabulary, of which we keep some columns.
    full = ModelConfig(48, 32, 2, 1, 1, kind="decoder", num_heads=4, seq_len=16, num_loops=loops)
    whole = params_from_gpt2(read_arrays(folder / "model.safetensors"), full)
    rows = np.array([47, *(added[token] for token in dataset.vocabulary.tokens)])
    other = dataclasses.replace(
        batch, inputs=jnp.asarray(rows[np.asarray(batch.labels)]), labels=batch.labels * 0
    )
    theirs = forward(full, jax.tree.map(jnp.asarray, whole), {}, other).logits
    np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:, rows], atol=1e-5)
    assert main(["export-results", f"--workdir={out}", f"--out={tmp_path}/e"]) == 0
    items = json.loads((tmp_path / "e/checkpoint-0/all_items.json").read_text())
    assert all(i["model_output"].startswith(i["input_text"]) for i in items)


def test_recurrence_is_read_from_the_config(gpt2, tmp_path):
    folder, data, _ = gpt2
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"add_recurrence": True}))
    results = imports.import_gpt2(folder, data, tmp_path / "w", step=7)
    assert results.config.model.num_loops == 2 and results.checkpoint_steps() == [7]


def test_bad_gpt2_directories_are_one_line(gpt2, tmp_path, capsys):
    folder, data, added = gpt2
    command = ["import-gpt2", f"--model={folder}", f"--data={data}", f"--out={tmp_path}/w"]
    config = json.loads((folder / "config.json").read_text())
    steps = [
        ("added_tokens.json", json.dumps({t: i for t, i in added.items() if t != "<e_5>"}),
         "no token <e_5>"),
        ("config.json", json.dumps(config | {"n_layer": 3}), "h.2.ln_1.weight' is missing"),
        ("config.json", json.dumps(config | {"activation_function": "relu"}), "only gelu_new"),
        ("config.json", "{}", "no setting 'n_embd'"),
    ]  # fmt: skip
    for name, text, message in steps:
        before = (folder / name).read_text()
        (folder / name).write_text(text)
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        (folder / name).write_text(before)
    (folder / "model.safetensors").unlink()
    assert main(command) == 2 and "pytorch_model.bin: no such file" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
