"""Populations: run by run the same numbers, wherever a run is placed and whoever is beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from jax.sharding import PartitionSpec

from grokjax.base.errors import UserError
from grokjax.base.names import DIVERGED, RUNNING
from grokjax.data.loading import load_dataset
from grokjax.instruments.counts import Program
from grokjax.model import num_parameters
from grokjax.settings.rows import expand
from grokjax.training.mesh import make_mesh, over_runs, pad_runs
from grokjax.training.population import Population
from grokjax.training.step import status_code

STEPS = 20


def population(rows, devices=4, **changes):
    config = tiny_config(**changes)
    config.runs = tuple(rows)
    runs = expand(config)
    datasets = [load_dataset(run) for run in runs]
    return Population(config, runs, datasets, jax.devices()[:devices])


def by_seed(num):
    return [{"seeds.data": i, "seeds.init": i, "seeds.order": i} for i in range(num)]


def trained(p, num_steps=STEPS):
    """Final state on the host, without the copies that fill up the mesh."""
    state, _ = p.train(p.init(), num_steps)
    return jax.device_get(real_runs(p, (state.params, state.ema_params, state.status)))


def real_runs(p, tree):
    return jax.tree.map(lambda x: x[: p.num_runs], tree)


def assert_same(a, b, rtol=0.0, atol=0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize("num_runs, batch_devices, shape", [
    (8, 1, (4, 1)), (3, 1, (3, 1)), (5, 1, (3, 1)), (1, 1, (1, 1)), (1, 4, (1, 4)), (2, 2, (2, 2)),
])  # fmt: skip
def test_the_mesh_leaves_few_places_idle(num_runs, batch_devices, shape):
    assert make_mesh(num_runs, batch_devices).devices.shape == shape


def test_what_no_machine_has_is_refused():
    with pytest.raises(UserError, match="batch_devices: 8, of 4 devices"):
        make_mesh(1, 8)
    with pytest.raises(UserError, match=r"must stay below 2\*\*32"):
        population(by_seed(1), train__batch_size=2**26)


def test_eight_runs_on_four_devices_are_eight_runs_on_one():
    spread, single = population(by_seed(8), 4), population(by_seed(8), 1)
    assert spread.mesh.size == 4 and single.mesh.size == 1
    assert_same(trained(spread), trained(single), rtol=1e-5, atol=1e-6)


def test_a_run_does_not_depend_on_its_place():
    rows = by_seed(8)
    forwards, backwards = trained(population(rows)), trained(population(rows[::-1]))
    assert_same(forwards, jax.tree.map(lambda x: x[::-1], backwards))


def test_runs_with_different_data_share_a_program():
    """Each run of a mixed population equals the same run among its own kind."""
    rows = [
        {"data.regime": "natural", "data.phi": 1.0},
        {"data.regime": "both_hop_full"},
        {"data.regime": "natural", "optimizer.learning_rate": 1e-2, "optimizer.weight_decay": 0.0},
        {"data.regime": "second_hop_full", "optimizer.warmup_steps": 1, "optimizer.ema_rate": 0.9},
    ]
    mixed = population(rows)
    sizes = np.asarray(mixed.tables.size)
    assert len(set(sizes.tolist())) == 4 and mixed.tables.query.shape[1] == sizes.max()
    together = trained(mixed)
    for i, row in enumerate(rows):
        alone = trained(population([row], 1))
        own = jax.tree.map(lambda x, i=i: x[i : i + 1], together)
        assert_same(own, alone, rtol=1e-5, atol=1e-6)
    assert not np.allclose(*[together[0]["embed"][i] for i in (0, 2)], atol=1e-3)


def test_nothing_is_communicated():
    p = population(by_seed(8))
    text = p.train_program(p.init(), STEPS).as_text()
    assert "while" in text
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-sc"):
        assert collective not in text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model__mixer": "mlp"},
        {"model__halt_max_steps": 3, "model__halt_exploration": 0.5},
        {"model__kind": "decoder"},
    ],
    ids=["attention", "mlp", "halting", "decoder"],
)
def test_a_split_batch_gives_the_same_run(settings):
    whole = population(by_seed(1), 1, **settings)
    split = population(by_seed(1), 4, train__batch_devices=4, **settings)
    assert dict(split.mesh.shape) == {"run": 1, "batch": 4}
    assert "all-reduce" in split.train_program(split.init(), STEPS).as_text()
    assert_same(trained(whole), trained(split), rtol=1e-5, atol=1e-5)


def test_a_split_batch_has_the_dropout_of_a_whole_one():
    dropout = {"model__kind": "decoder", "model__dropout": 0.2}
    whole = population(by_seed(1), 1, **dropout)
    split = population(by_seed(1), 4, train__batch_devices=4, **dropout)
    assert_same(trained(whole, 5), trained(split, 5), rtol=1e-5, atol=1e-5)


def test_devices_that_share_a_batch_exchange_gradients_and_sums_alone():
    """Each number of the gradient once, in float32: no activations, no weights."""
    split = population(by_seed(1), 4, train__batch_devices=4)
    counts = Program(split.train_program(split.init(), STEPS).as_text()).counts().per(STEPS)
    assert {opcode for opcode, _, _ in counts.collectives} == {"all-reduce"}
    assert counts.collective_bytes < 1.1 * 4 * num_parameters(split.train_config.model)


def test_a_batch_that_does_not_divide_is_refused():
    split = population(by_seed(1), 4, train__batch_devices=4, train__batch_size=18)
    with pytest.raises(UserError, match=r"train\.batch_size: 18 is no multiple of the 4 devices"):
        split.train_program(split.init(), STEPS)


def test_a_diverged_run_leaves_its_neighbours_alone():
    rows = by_seed(4)
    healthy = population(rows)
    # Infinite after one step, whatever the model makes of finite ones.
    broken = population([*rows[:1], rows[1] | {"optimizer.learning_rate": 1e38}, *rows[2:]])
    states = [p.train(p.init(), STEPS)[0] for p in (healthy, broken)]
    metrics = [
        jax.device_get(p.evaluate(s)) for p, s in zip((healthy, broken), states, strict=True)
    ]
    running, diverged = status_code(RUNNING), status_code(DIVERGED)
    assert states[0].status.tolist() == [running] * 4
    assert states[1].status.tolist() == [running, diverged, running, running]
    others = np.array([0, 2, 3])
    for a, b in zip(*map(jax.tree.leaves, ((s.params, s.opt_state) for s in states)), strict=True):
        np.testing.assert_array_equal(a[others], b[others])
    for name, values in metrics[0].items():
        np.testing.assert_array_equal(values[others], metrics[1][name][others], err_msg=name)
    stopped = jax.tree.map(lambda x: x[1], states[1])
    assert int(stopped.step) < STEPS
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(stopped.params))


def test_padding_is_no_run():
    p = population(by_seed(5))
    assert p.mesh.shape["run"] == 3
    state = p.init()
    assert state.step.shape == (6,) and real_runs(p, state).step.shape == (5,)
    assert_same(p.place(real_runs(p, state)).params, state.params)
    np.testing.assert_array_equal(pad_runs(jnp.arange(5), p.mesh), [0, 1, 2, 3, 4, 4])


def test_whole_runs_lie_on_each_device():
    p = population(by_seed(8))
    state, _ = p.train(p.init(), 2)
    for leaf in jax.tree.leaves((state, p.tables, p.hyper)):
        assert leaf.sharding.spec == PartitionSpec("run")
        assert len(leaf.addressable_shards) == 4


def test_over_runs_maps_one_run():
    mesh = make_mesh(8)
    doubled = over_runs(lambda x, y: {"sum": x + y}, mesh)(jnp.arange(8.0), jnp.ones((8, 3)))
    np.testing.assert_array_equal(doubled["sum"], np.arange(8.0)[:, None] + np.ones((8, 3)))


def test_evaluation_at_another_depth():
    """Same weights, more cycles: as a model of that depth evaluates them."""
    p = population(by_seed(2), 2, evaluate__H_cycles=2)
    deep = population(by_seed(2), 2, model__H_cycles=2)
    assert p.train_config.model.H_cycles == 1 and p.evaluate_config.model.H_cycles == 2
    state = p.init()
    metrics, expected = p.evaluate(state), deep.evaluate(state)
    assert set(metrics) == set(expected)
    for name in metrics:
        np.testing.assert_array_equal(metrics[name], expected[name], err_msg=name)
    plain = population(by_seed(2), 2).evaluate(state)
    assert any(not np.array_equal(plain[n], metrics[n], equal_nan=True) for n in metrics)


def test_accelerators_are_per_run():
    """Grokfast, OrthoGrad and clipping of one run leave the others as they were."""
    rows = by_seed(4)
    plain = trained(population(rows))
    helped = [rows[0] | {"optimizer.grokfast_lambda": 2.0}, rows[1] | {"optimizer.orthograd": True}]
    helped += [rows[2] | {"optimizer.clip_norm": 0.01}, rows[3]]
    mixed = trained(population(helped))
    for i in range(3):
        assert np.abs(mixed[0]["embed"][i] - plain[0]["embed"][i]).max() > 1e-3
    own = [jax.tree.map(lambda x: x[3], tree) for tree in (plain, mixed)]
    assert_same(*own, rtol=1e-5, atol=1e-6)
