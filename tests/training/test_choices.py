"""What is chosen for which target, and that groups of runs are the same runs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ROOT

from grokjax.model import Layout, ModelConfig
from grokjax.settings import load_experiment
from grokjax.training.choices import choose_layout, evaluation_bytes, runs_at_once, training_bytes
from grokjax.training.mesh import group_size, map_runs
from grokjax.training.resolve import model_config


def model_of(name):
    return model_config(load_experiment(str(ROOT / "experiments" / f"{name}.py")), 63)


def layout(name, platform, batch_size, whole=True, **changes):
    model = dataclasses.replace(model_of(name), **changes)
    return choose_layout(model, platform, batch_size, whole).layout


@pytest.mark.parametrize("name", ["quickstart", "paper"])
def test_a_cpu_computes_as_it_always_did(name):
    assert layout(name, "cpu", 512) == Layout()


def test_a_gpu_has_kernels_for_narrow_gated_mlps():
    assert layout("quickstart", "gpu", 64) == Layout(attention="rows", mlp="kernel", mixer="kernel")
    assert layout("paper", "gpu", 512) == Layout(mixer="kernel")
    assert layout("paper", "gpu", 512, dtype="float64").mixer == "blocks"
    # XLA cannot divide a kernel.
    divided = layout("quickstart", "gpu", 16, whole=False)
    assert divided == Layout(flat=False, attention="rows")


def test_a_tpu_has_wide_columns_and_mixes_in_blocks():
    assert layout("quickstart", "tpu", 64) == Layout(attention="columns")
    assert layout("quickstart", "tpu", 64, positions="rotary") == Layout(attention="rows")
    assert layout("paper", "tpu", 512) == Layout(flat=False, mixer="blocks")
    assert layout("paper", "tpu", 16) == Layout(flat=False)


def test_a_decoder_is_left_alone():
    decoder = ModelConfig(63, 64, 2, 1, 1, kind="decoder")
    assert choose_layout(decoder, "gpu", 64) == decoder


def test_groups_of_runs_fit_a_tpu():
    quickstart, paper = model_of("quickstart"), model_of("paper")
    assert runs_at_once("tpu", training_bytes(quickstart, 64)) == 16
    assert runs_at_once("tpu", training_bytes(paper, 512)) == 1
    assert 1 < runs_at_once("tpu", evaluation_bytes(quickstart, 1024)) < 64
    for platform in ("cpu", "gpu"):
        assert runs_at_once(platform, training_bytes(quickstart, 64)) is None


@pytest.mark.parametrize(
    "num_runs, at_most, size", [(64, 16, 16), (100, 16, 10), (17, 16, 16), (12, 5, 4), (7, 3, 3)]
)
def test_groups_leave_no_small_rest(num_runs, at_most, size):
    assert group_size(num_runs, at_most) == size


@pytest.mark.parametrize("at_once", [None, 1, 3, 4, 8])
def test_groups_give_the_same_numbers(at_once):
    def one_run(x, y):
        return {"product": x @ x.T, "sum": jnp.sum(y)}

    x, y = np.random.default_rng(0).normal(size=(2, 7, 4, 4)).astype(np.float32)
    got = map_runs(one_run, at_once)(x, y)
    np.testing.assert_allclose(got["product"], x @ x.transpose(0, 2, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["sum"], y.sum(axis=(1, 2)), rtol=1e-5, atol=1e-6)
