"""Rule 5: every epoch visits every item exactly once, in a fresh order, for any traced size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from grokjax.training.order import batch_indices, permute

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 65, 100, 127, 255, 1000, 4097, 8215, 65_537]


@functools.cache
def epoch_of(padded):
    """Items of one epoch; positions beyond the size are masked, so that one program serves all."""

    @jax.jit
    def run(key, epoch, size):
        position = jnp.minimum(jnp.arange(padded, dtype=jnp.uint32), size - 1)
        round_keys = jax.random.bits(key, (6,), jnp.uint32)
        return permute(round_keys, jnp.full(padded, epoch, jnp.uint32), position, size)

    return run


@pytest.mark.parametrize("size", SIZES)
def test_bijection(size):
    padded = 1024 if size <= 1024 else 65_537
    for epoch in (0, 1, 2**31):
        items = epoch_of(padded)(jax.random.key(3), jnp.uint32(epoch), jnp.uint32(size))[:size]
        assert sorted(np.asarray(items).tolist()) == list(range(size))


def test_batches_cover_epochs_without_replacement():
    """Sizes that the batch does not divide: batches straddle epochs and nothing is dropped."""
    size, batch_size = 37, 8
    draw = jax.jit(batch_indices, static_argnums=2)
    stream = np.concatenate([
        draw(jax.random.key(0), jnp.int32(step), batch_size, jnp.int32(size)) for step in range(37)
    ])  # fmt: skip
    epochs = stream.reshape(8, size)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(size))
    assert len({tuple(e) for e in epochs.tolist()}) == 8


def test_a_batch_larger_than_the_data():
    indices = batch_indices(jax.random.key(0), jnp.int32(1), 10, jnp.int32(4))
    # Positions 10..19: the second half of epoch 2, epoch 3, epoch 4.
    assert sorted(indices[2:6].tolist()) == [0, 1, 2, 3]
    assert sorted(indices[6:].tolist()) == [0, 1, 2, 3]


def test_late_steps_do_not_overflow():
    """Position 1.3 M steps x 512 and far beyond 2**32 examples, against Python's integers."""
    size, batch_size = 768_189, 512
    for step in (1_299_999, 123_456_789):
        got = batch_indices(jax.random.key(0), jnp.int32(step), batch_size, jnp.int32(size))
        position = [step * batch_size + i for i in range(batch_size)]
        bits = jax.random.bits(jax.random.key(0), (6,), jnp.uint32)
        want = permute(
            bits,
            jnp.array([p // size for p in position], jnp.uint32),
            jnp.array([p % size for p in position], jnp.uint32),
            jnp.uint32(size),
        )
        np.testing.assert_array_equal(got, want)


def test_orders_look_random():
    """The first item is uniform over epochs, and neighbours are uncorrelated."""
    size = 50
    first = np.array([
        epoch_of(1024)(jax.random.key(1), jnp.uint32(epoch), jnp.uint32(size))[:size]
        for epoch in range(1000)
    ])  # fmt: skip
    for position in (0, 1, 25, 49):
        counts = np.bincount(first[:, position], minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.12
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 0.12


def test_keys_give_different_orders():
    a, b = (epoch_of(1024)(jax.random.key(k), 0, jnp.uint32(500))[:500] for k in (0, 1))
    assert np.mean(np.asarray(a) == np.asarray(b)) < 0.02
