"""Patching: the controls that hold for any weights."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import PYTHONPATH, ROOT

from grokjax.analysis import all_sites, patch_effects
from grokjax.analysis.effects import measure_effects
from grokjax.analysis.pairs import Pairs, stack_pairs
from grokjax.analysis.patching import Patching
from grokjax.analysis.sites import STREAMS, components, share_shape, single_shares
from grokjax.base.errors import UserError
from grokjax.data.dataset import make_batch
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, forward_all_steps, init
from grokjax.training.mesh import make_mesh

RECURSIVE = ModelConfig(
    31, 16, 1, 2, 1, mixer="attention", positions="learned", num_heads=2, mlp_multiple=16,
    num_registers=2, register_size=16,
)  # fmt: skip
HALTING = ModelConfig(31, 16, 1, 1, 1, mlp_multiple=16, halt_max_steps=2)
DECODER = ModelConfig(31, 16, 2, 1, 1, kind="decoder", num_heads=2, num_loops=2)
NETWORKS = (RECURSIVE, HALTING, DECODER)
QUERY = [0, 1, 3, 4]


def weights_of(config, seed=0):
    params, buffers = init(config, jax.random.key(seed))
    # Wide enough apart for float32: a fresh readout hardly tells tokens from each other.
    return jax.tree.map(lambda x: 3 * x, params), buffers


def make_pairs(config, weights):
    """Queries that differ in the head; as answers, what the network itself tells apart best."""
    clean = np.array([[1, 21, 0, 22, 0], [2, 23, 0, 24, 0], [3, 21, 0, 24, 0], [4, 25, 0, 22, 0]])
    corrupted = clean.copy()
    corrupted[:, 0] += 6
    batches = (make_batch(jnp.asarray(rows[:, QUERY]), PAD) for rows in (clean, corrupted))
    forward = jax.jit(forward_all_steps, static_argnums=0)
    said = [forward(config, *weights, batch).logits[:, 3] for batch in batches]
    clean[:, 4] = np.argmax(said[0] - said[1], axis=-1)
    corrupted[:, 4] = np.argmin(said[0] - said[1], axis=-1)
    return Pairs("head", "id", clean, corrupted)


@pytest.fixture(scope="module", params=NETWORKS, ids=["recursive", "halting", "decoder"])
def network(request):
    weights = weights_of(request.param)
    return request.param, weights, make_pairs(request.param, weights)


def of_one_run(*arrays):
    return jax.tree.map(lambda x: jnp.asarray(x)[None], arrays)


def one_run(weights, pairs):
    """Weights, clean and corrupted queries, and both answers, with a run axis."""
    answers = pairs.clean[:, 4], pairs.corrupted[:, 4]
    return of_one_run(weights, pairs.queries, answers)


def program(config, only, patches_at_once=4):
    return Patching(config, only, patches_at_once)


@pytest.mark.parametrize("inside", [False, True], ids=["streams", "blocks"])
def test_patching_a_run_with_itself_changes_not_a_bit(network, inside):
    """Against the same program with all shares 0."""
    config, weights, pairs = network
    blocks = ("heads", "mixer", "mlp")
    only = [c for c in components(config) if (c in blocks) == inside]
    sites = all_sites(config, only)
    shares = single_shares(config, sites)
    patching = program(config, only)
    weights, (queries, _), answers = one_run(weights, pairs)
    plain, donor = patching.unpatched(weights, queries, answers)
    patched = patching.patched(weights, queries, answers, donor, shares)
    assert patched.logit_difference.shape == (1, len(sites), 4)
    for name, value in vars(patched).items():
        if name != "kl":  # whose reference the plain run does not have
            expected = np.broadcast_to(np.asarray(getattr(plain, name))[:, None], value.shape)
            np.testing.assert_array_equal(value, expected)
    assert np.abs(patched.kl).max() < 1e-6


def whole_stage(config, stage):
    """One patch of all that a stage holds: every stream, and the embedding from it on."""
    streams = [c for c in components(config) if c in STREAMS]
    shares = {c: np.zeros((1, *share_shape(config, c)), np.float32) for c in streams}
    for share in shares.values():
        share[:, config.evaluation_stages.index(stage)] = 1.0
    return shares


def check_whole_stages(config):
    weights = weights_of(config)
    pairs = make_pairs(config, weights)
    streams = [c for c in components(config) if c in ("z_H", "z_L", "embedding")]
    patching = program(config, streams, 1)
    weights, both, answers = one_run(weights, pairs)
    unpatched = [patching.unpatched(weights, queries, answers) for queries in both]
    apart = np.asarray(unpatched[0][0].logit_difference - unpatched[1][0].logit_difference)
    assert np.abs(apart).min() > 1e-2
    stages = config.evaluation_stages
    for (donor, host), stage in itertools.product(((0, 1), (1, 0)), stages):  # denoising, noising
        own, state = unpatched[donor]
        shares = whole_stage(config, stage)
        patched = patching.patched(weights, both[host], answers, state, shares)
        np.testing.assert_array_equal(patched.logit_difference[:, 0], own.logit_difference)
        np.testing.assert_array_equal(patched.rank[:, 0], own.rank)


EXACTLY = """
import test_patching
for config in test_patching.NETWORKS[::2]:  # what halts has the stages of one that does not
    test_patching.check_whole_stages(config)
print("exact")
"""


def test_all_of_a_stage_is_the_donor():
    """To the last bit, in programs that XLA has compiled as users have them (conftest.py)."""
    environment = os.environ | {
        "XLA_FLAGS": "",
        "PYTHONPATH": f"{PYTHONPATH}:{ROOT}/tests/analysis",
    }
    command = [sys.executable, "-c", EXACTLY]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.stdout == "exact\n", done.stderr


def test_without_the_embedding_a_stage_is_not_all():
    """The recursive model injects its input again: both streams alone do not carry everything."""
    patching = program(RECURSIVE, ("z_H", "z_L"), 1)
    weights = weights_of(RECURSIVE)
    weights, both, answers = one_run(weights, make_pairs(RECURSIVE, weights))
    (_, donor), (host, _) = (patching.unpatched(weights, q, answers) for q in both)
    shares = {n: s for n, s in whole_stage(RECURSIVE, "Init").items() if n != "embedding"}
    patched = patching.patched(weights, both[1], answers, donor, shares)
    np.testing.assert_array_equal(patched.logit_difference[:, 0], host.logit_difference)


def test_readings_by_hand(network):
    config, (params, buffers), pairs = network
    sites = all_sites(config, ("z_H",))
    effects = patch_effects(config, (params, buffers), pairs, sites=sites)
    batch = make_batch(jnp.asarray(pairs.clean[:, QUERY]), PAD)
    logits = np.asarray(forward_all_steps(config, params, buffers, batch).logits)[:, 3]
    rows, clean = np.arange(4), pairs.clean[:, 4]
    expected = logits[rows, clean] - logits[rows, pairs.corrupted[:, 4]]
    np.testing.assert_allclose(effects.clean[0], expected, atol=1e-4)
    # At the last stage the head's place decides nothing: that patch leaves the clean run as it is.
    last = (effects.place == config.evaluation_stages[-1]) & (effects.position == "head")
    noising = effects.sel(direction="noising").isel(cell=0, site=int(np.flatnonzero(last)[0]))
    log_p = logits[rows, clean] - np.log(np.exp(logits).sum(axis=1))
    assert float(noising.log_probability) == pytest.approx(log_p.mean(), abs=1e-4)
    rank = (logits > logits[rows, clean, None]).sum(axis=1)
    assert float(noising["rank"]) == pytest.approx(rank.mean())
    assert float(noising.causal_strength) == pytest.approx((rank > 0).mean())
    assert float(noising.effect) == pytest.approx(0.0, abs=1e-5)
    # And the place of the answer brings the corrupted run's distribution over.
    place = "answer" if config.predicts_input else "relation2"
    last = (effects.place == config.evaluation_stages[-1]) & (effects.position == place)
    other = make_batch(jnp.asarray(pairs.corrupted[:, QUERY]), PAD)
    said = np.asarray(forward_all_steps(config, params, buffers, other).logits)[:, 3]
    noising = effects.sel(direction="noising").isel(cell=0, site=int(np.flatnonzero(last)[0]))
    log_p = said[rows, clean] - np.log(np.exp(said).sum(axis=1))
    assert float(noising.log_probability) == pytest.approx(log_p.mean(), abs=1e-4)
    rank = (said > said[rows, clean, None]).sum(axis=1)
    assert float(noising["rank"]) == pytest.approx(rank.mean())
    assert float(noising.causal_strength) == pytest.approx((rank > 0).mean())
    untouched = effects.sel(direction="denoising").isel(cell=0)
    untouched = untouched.isel(site=int(np.flatnonzero(effects.position == "head")[-1]))
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, said))
    assert float(untouched.kl) == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-3)


def test_a_pair_alone_has_no_stranger():
    weights = weights_of(RECURSIVE)
    pairs = make_pairs(RECURSIVE, weights)
    alone = Pairs("head", "id", pairs.clean[:1], pairs.corrupted[:1])
    sites = all_sites(RECURSIVE, ("z_L",))
    assert np.isnan(patch_effects(RECURSIVE, weights, alone, sites=sites, null=True).null).all()
    two = patch_effects(RECURSIVE, weights, pairs, sites=sites, null=True)
    assert np.isfinite(two.null).all() and not np.allclose(two.null, two.logit_difference)


def test_a_network_that_tells_nothing_apart_has_no_effects():
    """There is no difference to share: undefined, not a ratio of noise."""
    weights = weights_of(RECURSIVE)
    pairs = make_pairs(RECURSIVE, weights)
    turned = Pairs("head", "id", pairs.corrupted, pairs.clean)
    swapped = Pairs(
        "head",
        "id",
        np.concatenate([pairs.clean[:, :4], pairs.corrupted[:, 4:]], axis=1),
        np.concatenate([pairs.corrupted[:, :4], pairs.clean[:, 4:]], axis=1),
    )
    sites = all_sites(RECURSIVE, ("z_H",))
    for given, defined in ((pairs, True), (turned, True), (swapped, False)):
        effects = patch_effects(RECURSIVE, weights, given, sites=sites)
        assert np.isfinite(effects.effect).all() == np.isfinite(effects.effect).any() == defined


def test_the_place_of_the_answer_decides_at_the_last_stage(network):
    config, weights, pairs = network
    effects = patch_effects(config, weights, pairs, sites=all_sites(config, ("z_H",)))
    last = effects.isel(cell=0, site=np.flatnonzero(effects.place == config.evaluation_stages[-1]))
    place = "answer" if config.predicts_input else "relation2"
    for direction in ("denoising", "noising"):
        one = last.sel(direction=direction)
        expected = (one.position == place).astype(float)
        np.testing.assert_allclose(one.effect, expected, atol=1e-4)
        # The readout is linear, a decoder's norm before it is not.
        if config.predicts_input:
            np.testing.assert_allclose(one.attributed_effect, expected, atol=1e-4)
        kl = one.kl.to_numpy()
        assert kl[one.position == place].max() < 1e-5 < kl[one.position != place].min()


def test_attribution_is_the_slope_of_the_exact_change(network):
    """Against a small finite share, at every site; through cycles and halting steps, too, that
    have no gradient in training."""
    config = network[0]
    streams = [c for c in components(config) if c in ("z_H", "z_L", "embedding")]
    sites = all_sites(config, streams)
    weights = init(config, jax.random.key(0))
    pairs = make_pairs(config, weights)
    effects = patch_effects(config, weights, pairs, direction="noising", sites=sites)
    patching = program(config, streams)
    weights, both, answers = one_run(weights, pairs)
    (plain, _), (_, donor) = (patching.unpatched(weights, q, answers) for q in both)
    share = 1e-2
    shares = {n: share * s for n, s in single_shares(config, sites).items()}
    moved = patching.patched(weights, both[0], answers, donor, shares).logit_difference[0]
    slope = (moved - np.asarray(plain.logit_difference)) / share
    exact = effects.attribution.to_numpy()[0, 0]
    largest = np.abs(exact).max()
    assert largest > 0.01
    np.testing.assert_allclose(slope, exact, atol=0.05 * largest)


def test_runs_on_several_devices_are_each_its_own():
    """Nothing of a run, its gradients included, depends on who else is measured."""
    both = [weights_of(RECURSIVE, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    queries = tuple(
        np.stack(x)
        for x in zip(*(stack_pairs([make_pairs(RECURSIVE, w)], 5) for w in both), strict=True)
    )
    asked = {"null": True, "sites": all_sites(RECURSIVE, ("z_L", "mixer"))}
    together = measure_effects(RECURSIVE, stacked, queries, mesh=make_mesh(2), **asked)
    for i, weights in enumerate(both):
        alone = measure_effects(
            RECURSIVE, *of_one_run(weights, tuple(x[i] for x in queries)), **asked
        )
        for name, value in alone.items():
            np.testing.assert_allclose(
                together[name][i], value[0], rtol=1e-3, atol=1e-3, err_msg=name
            )


def test_a_missing_pair_is_nan_and_changes_no_mean():
    weights = weights_of(RECURSIVE)
    sites, pairs = all_sites(RECURSIVE, ("z_L",)), make_pairs(RECURSIVE, weights)
    fewer = Pairs("relation1", "ood", pairs.clean[:3], pairs.corrupted[:3])
    effects = patch_effects(RECURSIVE, weights, [pairs, fewer], sites=sites, null=True)
    alone = patch_effects(RECURSIVE, weights, fewer, sites=sites, null=True)
    assert effects.num_pairs.values.tolist() == [4, 3]
    assert np.isnan(effects.logit_difference[1, ..., 3]).all()
    for name in ("effect", "attributed_effect", "null_effect", "kl", "rank", "causal_strength"):
        assert np.isfinite(effects[name].sel(direction="noising")).all()
        np.testing.assert_allclose(effects[name][1], alone[name][0], atol=1e-3, err_msg=name)


def test_effects_are_ratios_of_means():
    weights = weights_of(RECURSIVE)
    effects = patch_effects(RECURSIVE, weights, make_pairs(RECURSIVE, weights))
    x = effects.isel(cell=0)
    total = float((x.clean - x.corrupted).mean())
    denoising = (x.logit_difference.sel(direction="denoising") - x.corrupted).mean("pair") / total
    noising = (x.clean - x.logit_difference.sel(direction="noising")).mean("pair") / total
    np.testing.assert_allclose(x.effect.sel(direction="denoising"), denoising, atol=1e-4)
    np.testing.assert_allclose(x.effect.sel(direction="noising"), noising, atol=1e-4)


def test_patches_at_once_changes_nothing(network):
    config, weights, pairs = network
    sites = all_sites(config, ("z_H",))
    few, many = (
        patch_effects(config, weights, pairs, sites=sites, patches_at_once=n) for n in (3, 100)
    )
    np.testing.assert_allclose(few.logit_difference, many.logit_difference, rtol=2e-3, atol=1e-3)


def test_sites_are_what_can_matter():
    config = DECODER
    assert {s.position for s in all_sites(config)} == {"head", "relation1", "relation2"}
    assert len(all_sites(config, ("heads",))) == 4 * 3 * 2
    assert len(all_sites(RECURSIVE)) == 5 * 7 * 3 + 4 * 7 * 2
    assert len({*all_sites(RECURSIVE)}) == len(all_sites(RECURSIVE))
    with pytest.raises(UserError, match="no component 'z_L'"):
        all_sites(config, ("z_L",))
    with pytest.raises(UserError, match="direction"):
        weights = weights_of(config)
        patch_effects(config, weights, make_pairs(config, weights), direction="sideways")
