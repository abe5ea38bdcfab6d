"""Effects of patches: every site on every pair of queries, as labelled arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from grokjax.analysis.pairs import Pairs, stack_pairs
from grokjax.analysis.patching import DIRECTIONS, Donor, Patching, Readings, Weights
from grokjax.analysis.sites import Site, all_sites, single_shares, site_table
from grokjax.base.errors import UserError
from grokjax.model import BLOCK_COMPONENTS, ModelConfig

# Activations of a patched pass, as multiples of its states; found by measuring.
_ACTIVATIONS = 12
_CPU_BUDGET, _ACCELERATOR_BUDGET = 2**23, 2**32  # bytes; on a CPU what stays in its cache


def patch_effects(
    model: ModelConfig,
    weights: Weights,
    pairs: Pairs | Sequence[Pairs],
    *,
    direction: str | Sequence[str] = DIRECTIONS,
    sites: Sequence[Site] | None = None,
    null: bool = False,
    patches_at_once: int | None = None,
) -> xr.Dataset:
    """Patches every site of one model on every pair.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      pairs: of one slot and split, or several.
      direction: one of DIRECTIONS, or several.
      sites: of `all_sites`, which is also the default.
      null: also patch from another pair's donor, drawn at random.
      patches_at_once: to bound the memory; by default what fits a budget.

    Returns:
      Dimensions cell (a slot and a split, which is stored as `group`), direction, site and pair:
        `logit_difference`, `attribution` (the first-order change), `null` per pair,
        `clean` and `corrupted`, the unpatched runs' logit differences (cell, pair),
        `effect`, `attributed_effect`, `null_effect`: ratios of means, 0 nothing, 1 everything; NaN
        where the mean difference between clean and corrupted runs, which sites share, is not above
        twice its standard error (a network that does not tell them apart),
        `log_probability`, `rank` (of the clean answer), `kl` (nats, from the donor): means,
        `causal_strength`: of noising patches, the share whose answer is no longer first,
        `num_pairs`. Pairs that a cell lacks are NaN; no pair is dropped.

    Raises:
      UserError: a direction or site that there is not.
    """
    pairs = [pairs] if isinstance(pairs, Pairs) else list(pairs)
    directions = (direction,) if isinstance(direction, str) else tuple(direction)
    for name in directions:
        if name not in DIRECTIONS:
            raise UserError(f"direction: {name!a} is not one of {DIRECTIONS}")
    sites = all_sites(model) if sites is None else list(sites)
    queries = stack_pairs(pairs, max(len(p.clean) for p in pairs))
    one_run = jax.tree.map(lambda x: jnp.asarray(x)[None], (weights, queries))
    measured = measure_effects(
        model, *one_run, directions=directions, sites=sites, null=null,
        patches_at_once=patches_at_once,
    )  # fmt: skip
    cells = [(p.slot, p.split) for p in pairs]
    return label_effects(measured, 0, cells, directions, sites)


def measure_effects(
    model: ModelConfig,
    weights: Any,
    queries: tuple[
        Int[np.ndarray | Array, "R cells N C"],
        Int[np.ndarray | Array, "R cells N C"],
        Bool[np.ndarray | Array, "R cells N"],
    ],
    *,
    directions: Sequence[str] = DIRECTIONS,
    sites: Sequence[Site] | None = None,
    null: bool = False,
    patches_at_once: int | None = None,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """The same of R runs at once, unlabelled: [R, C, N] and [R, C, directions, F, N] by name.

    Args:
      model: shared by the runs.
      weights: with a leading run axis.
      queries: clean and corrupted ones of C cells, and which of them are there.
      directions, sites, null, patches_at_once: as in `patch_effects`.
      mesh: to spread the runs over.
    """
    sites = all_sites(model) if sites is None else list(sites)
    clean, corrupted, there = queries
    num_pairs = clean.shape[2]
    at_once = patches_at_once or patches_within_budget(model, num_pairs)
    # Streams and blocks go through programs of their own: what is patched nowhere costs nothing.
    in_block = [site.component in BLOCK_COMPONENTS for site in sites]
    parts = []
    for inside in dict.fromkeys(in_block):
        indices = [f for f, x in enumerate(in_block) if x == inside]
        own = [sites[f] for f in indices]
        names = dict.fromkeys(site.component for site in own)
        program = Patching.compiled(model, tuple(names), min(at_once, len(own)), mesh)
        parts.append((indices, single_shares(model, own), program))

    measured = []
    for cell in range(clean.shape[1]):
        both = jnp.asarray(clean[:, cell]), jnp.asarray(corrupted[:, cell])
        answers = both[0][..., -1], both[1][..., -1]
        present = np.asarray(there[:, cell])
        cell_parts = [
            _measure_cell(part, weights, both, answers, directions, present if null else None)
            for part in parts
        ]
        order = np.argsort(np.concatenate([indices for indices, _, _ in parts]))
        joined = {
            name: np.concatenate([p[name] for p in cell_parts], axis=2)[:, :, order]
            for name in cell_parts[0]
            if name not in ("clean", "corrupted")
        }
        unpatched = {name: cell_parts[0][name] for name in ("clean", "corrupted")}
        measured.append(joined | unpatched)
    stacked = {name: np.stack([m[name] for m in measured], axis=1) for name in measured[0]}
    missing = ~np.asarray(there)
    return {
        name: np.where(missing if x.ndim == 3 else missing[:, :, None, None], np.nan, x)
        for name, x in stacked.items()
    }


def _measure_cell(part, weights, both, answers, directions, present) -> dict[str, np.ndarray]:
    _, shares, program = part
    unpatched = [program.unpatched(weights, queries, answers) for queries in both]
    results: dict[str, list[np.ndarray]] = {}
    for direction in directions:
        donor, host = (0, 1) if direction == "denoising" else (1, 0)
        source, queries = unpatched[donor][1], both[host]
        readings: Readings = program.patched(weights, queries, answers, source, shares)
        values = {name: np.asarray(x, np.float32) for name, x in vars(readings).items()}
        slopes = program.attributed(weights, queries, answers, source)
        values["attribution"] = sum(
            np.einsum("rnx,fx->rfn", _flat(slope, 2), _flat(shares[name], 1))
            for name, slope in slopes.items()
        )
        if present is not None:
            other = _of_others(source, _strangers(present))
            null = program.patched(weights, queries, answers, other, shares).logit_difference
            values["null"] = _null_or_none(null, present)
        for name, value in values.items():
            results.setdefault(name, []).append(value)
    stacked = {name: np.stack(x, axis=1) for name, x in results.items()}
    differences = (np.asarray(readings.logit_difference) for readings, _ in unpatched)
    return stacked | dict(zip(("clean", "corrupted"), differences, strict=True))


def label_effects(
    measured: dict[str, np.ndarray],
    run: int,
    cells: Sequence[tuple[str, str]],
    directions: Sequence[str],
    sites: Sequence[Site],
) -> xr.Dataset:
    """One run of what `measure_effects` gave, with names, means and ratios."""
    table = site_table(sites)
    coordinates = {
        "slot": ("cell", [slot for slot, _ in cells]),
        "group": ("cell", [split for _, split in cells]),
        "direction": list(directions),
    } | {name: ("site", np.array(table[name].tolist())) for name in table}
    per_pair = {name: x[run] for name, x in measured.items()}
    sizes = np.isfinite(per_pair["clean"]).sum(axis=-1)
    kept = ("logit_difference", "attribution", "null", "clean", "corrupted")
    data: dict[str, Any] = {
        name: (_dims(x), x.astype(np.float32)) for name, x in per_pair.items() if name in kept
    }
    # A cell without pairs has NaN means, and nothing to warn of.
    mean = {
        name: np.nansum(x, axis=-1)
        / np.where(sizes, sizes, np.nan).reshape(-1, *(1,) * (x.ndim - 2))
        for name, x in per_pair.items()
    }
    for name in ("log_probability", "rank", "kl"):
        data[name] = (_dims(per_pair[name])[:-1], mean[name])
    total = _defined_total(per_pair["clean"] - per_pair["corrupted"])[:, None, None]
    host = np.stack(
        [mean["corrupted" if d == "denoising" else "clean"] for d in directions], axis=1
    )[:, :, None]
    sign = np.array([1.0 if d == "denoising" else -1.0 for d in directions])[:, None]
    dims = ("cell", "direction", "site")
    data["effect"] = (dims, sign * (mean["logit_difference"] - host) / total)
    data["attributed_effect"] = (dims, sign * mean["attribution"] / total)
    if "null" in mean:
        data["null_effect"] = (dims, sign * (mean["null"] - host) / total)
    ranks = per_pair["rank"]
    fell = np.where(np.isnan(ranks), np.nan, ranks > 0)
    strength = np.nansum(fell, axis=-1) / np.where(sizes, sizes, np.nan)[:, None, None]
    is_noising = np.array([d == "noising" for d in directions])[:, None]
    data["causal_strength"] = (dims, np.where(is_noising, strength, np.nan))
    data["num_pairs"] = ("cell", sizes)
    return xr.Dataset(data, coordinates)


def _defined_total(difference: Float[np.ndarray, "C N"]) -> Float[np.ndarray, " C"]:
    """Mean over the pairs, NaN where it is not above twice its standard error: nothing to share."""
    there = np.isfinite(difference)
    sizes = np.where(there.any(axis=-1), there.sum(axis=-1), np.nan)
    mean = np.nansum(difference, axis=-1) / sizes
    square = np.nansum((difference - mean[:, None]) ** 2, axis=-1)
    error = np.sqrt(square / np.maximum(sizes - 1, 1) / sizes)
    return np.where(mean > 2 * error, mean, np.nan)


def patches_within_budget(model: ModelConfig, num_pairs: int, platform: str | None = None) -> int:
    """Patches whose passes over the pairs fit the memory, or on a CPU its cache."""
    on_cpu = (platform or jax.default_backend()) == "cpu"
    budget = _CPU_BUDGET if on_cpu else _ACCELERATOR_BUDGET
    states = num_pairs * model.length * model.hidden_size * 4
    return max(budget // (_ACTIVATIONS * states), 1)


def _flat(x: np.ndarray, leading: int) -> np.ndarray:
    return np.asarray(x).reshape(*x.shape[:leading], -1)


def _dims(x: np.ndarray) -> tuple[str, ...]:
    return ("cell", "pair") if x.ndim == 2 else ("cell", "direction", "site", "pair")


def _strangers(there: Bool[np.ndarray, "R N"]) -> Int[np.ndarray, "R N"]:
    """Of each pair another one: the next, in an order that is random already."""
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    place = np.arange(there.shape[1])
    return np.where(place < n, (place + 1) % n, place)


def _null_or_none(null: np.ndarray, there: Bool[np.ndarray, "R N"]) -> np.ndarray:
    """A pair alone has no stranger."""
    return np.where((there.sum(axis=1) > 1)[:, None, None], null, np.nan)


def _of_others(donor: Donor, index: Int[np.ndarray, "R N"]) -> Donor:
    """The donor's states and log-probabilities, handed to other pairs."""

    def take(x, axis):
        shape = [1] * x.ndim
        shape[0], shape[axis] = index.shape
        return jnp.take_along_axis(x, jnp.asarray(index).reshape(shape), axis=axis)

    states = {n: take(x, 1 if n == "embedding" else 2) for n, x in donor.states.items()}
    return Donor(states, take(donor.log_probabilities, 1))
