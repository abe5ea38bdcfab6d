"""`grokjax parity` passes on the golden files and fails on files that were tampered with."""

import json

import jax
import numpy as np
import pytest
from conftest import DATA

from grokjax.cli import main
from grokjax.interop import golden
from grokjax.interop.weights import read_arrays
from grokjax.model import forward

GOLDEN = DATA / "golden"
FILES = ["a_mlpt_forward", "a64_mlpt_forward", "b_attn_rope_forward", "a_mlpt_bf16_forward"]


@pytest.mark.parametrize("name", [*FILES, "b_attn_rope_train", "a64_mlpt_train"])
def test_golden_files_pass(name, capsys):
    assert main(["parity", str(GOLDEN / f"{name}.npz")]) == 0
    printed = capsys.readouterr().out
    assert "BEYOND" not in printed
    wanted = ["step 1 param", "step 5 ema"] if "train" in name else ["stage_z_H", "lens_logits"]
    assert all(quantity in printed for quantity in wanted)


def test_gpt2_passes_and_a_change_is_seen(tmp_path, capsys):
    assert main(["parity", str(GOLDEN / "e_gpt2.npz")]) == 0
    assert "step 5 param" in capsys.readouterr().out
    value = read_arrays(GOLDEN / "e_gpt2.npz")["step5/param/lm.transformer.wpe.weight"] + 3e-3
    name = "step5/param/lm.transformer.wpe.weight"
    assert main(["parity", str(changed(tmp_path, "e_gpt2", **{name: value}))]) == 1


def changed(tmp_path, source, **arrays):
    z = read_arrays(GOLDEN / f"{source}.npz")
    np.savez(tmp_path / "changed.npz", **z | arrays)
    return tmp_path / "changed.npz"


@pytest.mark.parametrize("name, quantity", [
    ("logits", "logits"), ("stage_z_L", "stage_z_L"), ("lens_logits", "lens_logits"),
    ("loss_scaled", "loss_scaled"), ("grad/lm_head.weight", "gradients"),
    ("grad/puzzle_emb.local_weights", "gradients"),
])  # fmt: skip
def test_a_small_change_is_seen(tmp_path, name, quantity, capsys):
    value = read_arrays(GOLDEN / "b_attn_rope_forward.npz")[name].copy()
    value.flat[0] += 0.01 * np.abs(value).max()
    path = changed(tmp_path, "b_attn_rope_forward", **{name: value})
    assert main(["parity", str(path)]) == 1
    line = next(x for x in capsys.readouterr().out.splitlines() if "BEYOND" in x)
    assert quantity in line


@pytest.mark.parametrize("name", [
    "step1/param/lm_head.weight", "step5/ema/lm_head.weight", "step5/puzzle_emb.weights",
])  # fmt: skip
def test_a_changed_training_is_seen(tmp_path, name):
    value = read_arrays(GOLDEN / "b_attn_rope_train.npz")[name] + 3e-3
    path = changed(tmp_path, "b_attn_rope_train", **{name: value})
    assert main(["parity", str(path)]) == 1


def test_other_variants(tmp_path):
    """Learned positions, several identifiers, and no registers at all."""
    z = read_arrays(GOLDEN / "b_attn_rope_forward.npz")
    config = json.loads(str(z["config"]))
    config["arch"]["pos_encodings"] = "learned"
    rng = np.random.default_rng(0)
    z |= {
        "config": np.array(json.dumps(config)),
        "param/embed_pos.embedding_weight": rng.standard_normal((21, 32)).astype(np.float32),
        "buffer/puzzle_emb.weights": rng.standard_normal((3, 32)).astype(np.float32),
        "batch/puzzle_identifiers": np.array([0, 2, 1, 1, 0, 2, 2], np.int32),
    }
    z = {name: value for name, value in z.items() if not name.startswith("grad/")}
    model = golden.model_config(z)
    assert (model.positions, model.num_identifiers, model.num_registers) == ("learned", 3, 16)
    params, buffers = golden.params_and_buffers(z, "param/", model)
    output = forward(model, params, buffers, golden.batch(golden.arrays_under(z, "batch/")))
    # The rows of a batch are those of its identifiers.
    registers = output.embedding[:, 0] / (np.sqrt(32) * 0.707106781)
    registers = registers - z["param/embed_pos.embedding_weight"][:1]
    expected = z["buffer/puzzle_emb.weights"][z["batch/puzzle_identifiers"]]
    np.testing.assert_allclose(registers, expected, atol=1e-5)

    config["arch"] |= {"puzzle_emb_ndim": 0, "puzzle_emb_len": 0, "pos_encodings": "None"}
    bare = {n: v for n, v in z.items() if "puzzle_emb" not in n and "embed_pos" not in n}
    bare["config"] = np.array(json.dumps(config))
    model = golden.model_config(bare)
    assert (model.num_registers, model.length) == (0, 5)
    params, buffers = golden.params_and_buffers(bare, "param/", model)
    assert "registers" not in params
    output = forward(model, params, buffers, golden.batch(golden.arrays_under(bare, "batch/")))
    bare |= {"logits": np.asarray(output.logits), "stage_z_H": np.asarray(output.trace.z_H)}
    left = {n: v for n, v in bare.items() if n.split("/")[0] in ("param", "buffer", "batch")}
    np.savez(
        tmp_path / "bare.npz", **left, config=bare["config"], logits=bare["logits"],
        stage_z_H=bare["stage_z_H"],
    )  # fmt: skip
    assert main(["parity", str(tmp_path / "bare.npz")]) == 0


def test_gradients_of_several_identifiers_are_summed_per_row():
    z = read_arrays(GOLDEN / "b_attn_rope_forward.npz")
    z["batch/puzzle_identifiers"] = np.array([0, 1, 1, 0, 0, 0, 1], np.int32)
    z["buffer/puzzle_emb.weights"] = np.zeros((2, 32), np.float32)
    rows = z["grad/puzzle_emb.local_weights"]
    got = golden.gradients(z, golden.model_config(z))["registers"]
    np.testing.assert_allclose(got[1], rows[[1, 2, 6]].sum(0), rtol=1e-5)


def test_bad_files_are_one_line(tmp_path, capsys):
    (tmp_path / "x.npz").write_text("no")
    np.savez(tmp_path / "y.npz", a=np.ones(2))
    for name, message in [
        ("x.npz", "not named arrays"), ("y.npz", "no array 'config'"), ("z.npz", "no such file"),
    ]:  # fmt: skip
        assert main(["parity", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not jax.config.jax_enable_x64
