"""Hidden-state patching: which states, put into another run, carry the answer with them.

Denoising puts a clean state into the corrupted run (is it sufficient?), noising a corrupted state
into the clean run (is it necessary?). An intervention is a `Patch`, so that sites are vmapped over
one program; the unpatched baseline is that program with all shares 0. Definitions:
docs/protocol.md, section 4.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from grokjax.analysis.sites import share_shape
from grokjax.data.dataset import make_batch
from grokjax.data.vocabulary import PAD
from grokjax.model import Buffers, ModelConfig, Params, Patch, forward_all_steps
from grokjax.training.mesh import make_mesh, over_runs

DIRECTIONS = ("denoising", "noising")
Weights = tuple[Params, Buffers]
Shares = dict[str, np.ndarray]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readings:
    """What a run says about a pair at the answer position; any leading axes, then N pairs."""

    logit_difference: Float[Array, "*F N"]  # of the clean answer less the corrupted one
    log_probability: Float[Array, "*F N"]  # of the clean answer
    rank: Int[Array, "*F N"]  # of the clean answer, 0 is first
    kl: Float[Array, "*F N"]  # from the donor's distribution to this one, nats


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Donor:
    """What a patch takes: states by component, and its log-probabilities for the distance."""

    states: dict[str, Array]
    log_probabilities: Float[Array, "*R N V"]


class Patching:
    """Compiled patching programs of one model, for R runs at once.

    Args:
      config: of the evaluated model.
      components: that the patches replace.
      patches_at_once: patches per call, to bound the memory.
      mesh: runs are spread over its "run" axis; one device when None.
    """

    def __init__(
        self,
        config: ModelConfig,
        components: Sequence[str],
        patches_at_once: int,
        mesh: Mesh | None = None,
    ):
        self.config, self.components = config, tuple(components)
        self.patches_at_once = patches_at_once
        self._mesh = mesh or make_mesh(1, devices=jax.devices()[:1])
        self._nobody: dict[int, Donor] = {}  # shapes of one run's states, by number of pairs
        run = functools.partial(_run, config)
        self.program = over_runs(run, self._mesh)
        self._attribute = over_runs(functools.partial(_attribute, config), self._mesh)

    @classmethod
    @functools.lru_cache(maxsize=16)
    def compiled(cls, *args: Any) -> Patching:
        """The same programs for the same arguments."""
        return cls(*args)

    def unpatched(
        self, weights: Any, queries: Array, answers: tuple[Array, Array]
    ) -> tuple[Readings, Donor]:
        """Readings [R, N] and the states of plain runs, through the same program as patched ones.

        A state that another program computed differs in its last bits; taken from this one, a run
        patched with itself is that run exactly.
        """
        num_runs, num_pairs = queries.shape[:2]
        if num_pairs not in self._nobody:
            self._nobody[num_pairs] = jax.eval_shape(
                functools.partial(_states, self.config, self.components),
                *jax.tree.map(shape_of_one_run, (weights, queries)),
            )
        nobody = jax.tree.map(
            lambda x: np.zeros((num_runs, *x.shape), x.dtype), self._nobody[num_pairs]
        )
        readings, donor = self.program(
            weights, queries, answers, nobody, self._for_runs(self._nothing(), num_runs)
        )
        return jax.tree.map(lambda x: x[:, 0], readings), donor

    def shapes(self, weights: Any, num_pairs: int) -> tuple[Any, ...]:
        """What `program` takes after the weights, as shapes; each with a run axis of 1.

        Args:
          weights: of one run, or their shapes.
          num_pairs: N.
        """

        def arguments(weights: Any) -> tuple[Any, ...]:
            queries = jnp.zeros((num_pairs, 4), jnp.int32)
            donor = _states(self.config, self.components, weights, queries)
            return queries, (queries[:, 0], queries[:, 0]), donor, self._nothing()

        one_run = jax.eval_shape(arguments, weights)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), one_run)

    def patched(
        self,
        weights: Any,
        queries: Array,
        answers: tuple[Array, Array],
        donor: Donor,
        shares: Shares,
    ) -> Readings:
        """Readings [R, F, N] of F patches; the queries are the host's."""
        num_runs, num_patches = queries.shape[0], len(next(iter(shares.values())))
        nothing, chunks = self._nothing(), []
        for start in range(0, num_patches, self.patches_at_once):
            end = min(start + self.patches_at_once, num_patches)
            chunk = {name: share.copy() for name, share in nothing.items()}
            for name in shares:
                chunk[name][: end - start] = shares[name][start:end]
            readings, _ = self.program(
                weights, queries, answers, donor, self._for_runs(chunk, num_runs)
            )
            chunks.append(jax.tree.map(lambda x, n=end - start: np.asarray(x[:, :n]), readings))
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *chunks)

    def attributed(
        self, weights: Any, queries: Array, answers: tuple[Array, Array], donor: Donor
    ) -> dict[str, np.ndarray]:
        """First-order change of the logit difference for every whole share, [R, N, ...share]."""
        nothing = {name: share[0] for name, share in self._nothing().items()}
        slopes = self._attribute(
            weights, queries, answers, donor.states, self._for_runs(nothing, queries.shape[0])
        )
        return jax.device_get(slopes)

    def _nothing(self) -> Shares:
        shapes = ((c, share_shape(self.config, c)) for c in self.components)
        return {c: np.zeros((self.patches_at_once, *shape), np.float32) for c, shape in shapes}

    def _for_runs(self, shares: Shares, num_runs: int) -> Shares:
        return {n: np.broadcast_to(s, (num_runs, *s.shape)) for n, s in shares.items()}


def shape_of_one_run(x: Any) -> jax.ShapeDtypeStruct:
    """Of an array with a run axis, shape and dtype without it."""
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _run(
    config: ModelConfig,
    weights: Weights,
    queries: Int[Array, "N C"],
    answers: tuple[Int[Array, " N"], Int[Array, " N"]],
    donor: Donor,
    shares: dict[str, Array],
) -> tuple[Readings, Donor]:
    """One run: readings of F patches, and the first patch's states."""

    def one(share: dict[str, Array]) -> tuple[Readings, Donor]:
        patch = Patch(donor.states, share)
        logits, states = _answer_logits(config, tuple(share), weights, queries, patch)
        log_p = jax.nn.log_softmax(logits)
        right, wrong = (jnp.take_along_axis(logits, a[:, None], 1) for a in answers)
        kl = jnp.sum(jnp.exp(donor.log_probabilities) * (donor.log_probabilities - log_p), axis=-1)
        readings = Readings(
            logit_difference=(right - wrong)[:, 0],
            log_probability=jnp.take_along_axis(log_p, answers[0][:, None], 1)[:, 0],
            rank=jnp.sum(logits > right, axis=-1),
            kl=kl,
        )
        return readings, Donor(states, log_p)

    readings, donors = jax.vmap(one)(shares)
    return readings, jax.tree.map(lambda x: x[0], donors)


def _attribute(
    config: ModelConfig,
    weights: Weights,
    queries: Int[Array, "N C"],
    answers: tuple[Int[Array, " N"], Int[Array, " N"]],
    states: dict[str, Array],
    nothing: dict[str, Array],
) -> dict[str, Array]:
    """One run: the gradient of each pair's logit difference by all shares, at 0.

    The zero shares are an argument, a run's own: of a constant, shard_map would add up the
    gradients of all devices.
    """
    everywhere = dataclasses.replace(config, gradient_cycles=0)

    def difference(share, query, right, wrong, states):
        states = {n: jnp.expand_dims(x, 0 if n == "embedding" else 1) for n, x in states.items()}
        logits, _ = _answer_logits(everywhere, (), weights, query[None], Patch(states, share))
        return logits[0, right] - logits[0, wrong]

    pair_axes = {name: 0 if name == "embedding" else 1 for name in states}
    gradient = jax.vmap(jax.grad(difference), in_axes=(None, 0, 0, 0, pair_axes))
    return gradient(nothing, queries, *answers, states)


def _answer_logits(
    config: ModelConfig,
    components: tuple[str, ...],
    weights: Weights,
    queries: Array,
    patch: Patch | None,
) -> tuple[Float[Array, "N V"], dict[str, Array]]:
    """Logits at the answer position, and the states of some components."""
    params, buffers = weights
    batch = make_batch(queries, PAD)  # what comes after the answer is not looked at
    output = forward_all_steps(config, params, buffers, batch, patch=patch)
    at = batch.answer_position[:, None, None]
    logits = jnp.take_along_axis(output.logits, at, axis=1)[:, 0].astype(config.param_dtype)
    states = output.states()
    return logits, {name: states[name] for name in components}


def _states(
    config: ModelConfig, components: tuple[str, ...], weights: Weights, queries: Array
) -> Donor:
    logits, states = _answer_logits(config, components, weights, queries, None)
    return Donor(states, logits)
