"""Which half of a two-hop circuit fails on new facts: states put from one query into another.

A model that was finetuned on new facts gets `old_then_new` queries (h, r1, r2) wrong although it
knows both facts. Either the state that should hold the bridge does not, or what follows cannot use
the new second fact. Both are asked of one site, chosen on other old queries alone: the one that
carries the head and relation 1 and does not carry relation 2. For an old query O with the same h
and r1, and another old query R that differs from O in its head:

- first half: the new query's state put into R; does R then answer as O? O's own state is the
  ceiling. The state of another old query with the same h and r1 is the baseline: the first fact is
  the same old one in all three, and a state that depends on h and r1 alone passes by construction.
- second half: O's state, known to be good, put into R with the new second relation; does it then
  answer the new fact's tail? R itself, which O's state makes answer as O, is the control.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Int

from grokjax.analysis.effects import patch_effects
from grokjax.analysis.onset import holds_hidden
from grokjax.analysis.pairs import SLOTS, Pool, draw_pairs
from grokjax.analysis.patching import Donor, Patching, Readings, Weights
from grokjax.analysis.sites import STREAMS, Site, all_sites, components, single_shares
from grokjax.base.draws import random_stream
from grokjax.base.files import write_atomically
from grokjax.base.names import END, OLD_THEN_NEW, SATURATION
from grokjax.data.dataset import Dataset
from grokjax.data.graph import QUERY, fact_numbers
from grokjax.data.new_facts import trained_compositions
from grokjax.model import ModelConfig
from grokjax.results import Results
from grokjax.workdir.tables import usable_runs

HALVES = "halves.csv"


def measure_halves(results: Results) -> None:
    """Writes `halves.csv`: `circuit_halves` of runs' last checkpoints, by run_id.

    Of the runs that the report compares: those finetuned from `end` or, natural ones, from
    `saturation`.
    """
    found = []
    for run_id in usable_runs(results.runs).run_id:
        run = results.run_config(run_id).transfer
        names = run.checkpoint.split("+")
        if END in names or (run.group == "natural" and SATURATION in names):
            dataset = results.dataset(run_id)
            if len(dataset.new_facts):
                halves = circuit_halves(results.model, results.weights(run_id), dataset)
                found.append({"run_id": run_id} | halves)
    text = pd.DataFrame(found).to_csv(index=False, lineterminator="\n")
    write_atomically(results.workdir / HALVES, text)


def circuit_halves(
    model: ModelConfig, weights: Weights, dataset: Dataset, num_pairs: int = 64, seed: int = 0
) -> dict[str, Any]:
    """The two halves of one finetuned run.

    Args:
      model, weights: as `Results.model` and `Results.weights` give them.
      dataset: of the finetuning; old queries are those that it trains on.
      num_pairs: at most.
      seed: of their draw.

    Returns:
      component, place, position: the site; score: how well it holds the bridge on old queries (the
      smaller effect of head and relation 1, less that of relation 2); old_effect (the ceiling),
      same_effect (the baseline) and new_effect: share of the logit difference between O and R that
      each donor brings into R;
      accuracy of the new queries; with O's state, old_patched: share of R that answer as O, and
      new_patched: share of R with the new relation that answer the new tail; num_pairs. NaN where
      the model does not tell old queries apart.
    """
    old = trained_compositions(dataset)
    is_new = fact_numbers(dataset.new_facts)
    both_old = (is_new(old[:, 0], old[:, 1]) < 0) & (is_new(old[:, 2], old[:, 3]) < 0)
    old = old[both_old]
    pool = Pool(old, tuple(QUERY), np.full(len(old), "id", object))
    pairs = [draw_pairs(dataset, slot, "id", num_pairs, seed, pool) for slot in SLOTS]
    sites = all_sites(model, [c for c in components(model) if c in STREAMS])
    effect = patch_effects(model, weights, pairs, direction="denoising", sites=sites).effect
    head, relation1, relation2 = effect.to_numpy()[:, 0]
    score = holds_hidden((head, relation1), (relation2,))
    nothing = dict.fromkeys(
        (
            "score", "old_effect", "same_effect", "new_effect",
            "accuracy", "old_patched", "new_patched",
        ),
        math.nan,
    )  # fmt: skip
    if not np.isfinite(score).any():
        return {"component": "", "place": "", "position": ""} | nothing | {"num_pairs": 0}
    best = int(np.nanargmax(score))
    # Other queries than those that chose the site.
    asked = draw_pairs(dataset, "head", "id", num_pairs, seed + 1, pool)
    triples = _triples(dataset, old, asked.clean, asked.corrupted, seed)
    site = sites[best]
    named = {"component": site.component, "place": site.place, "position": site.position}
    if not len(triples[0]):
        return named | nothing | {"score": float(score[best]), "num_pairs": 0}
    return named | {"score": float(score[best])} | _ask(model, weights, site, num_pairs, *triples)


def _triples(
    dataset: Dataset,
    known: Int[np.ndarray, "K 5"],
    clean: Int[np.ndarray, "N 5"],
    corrupted: Int[np.ndarray, "N 5"],
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """O, R, another old query and a new one with O's head and relation 1, where there are both."""
    probes = dataset.probes
    is_asked = np.asarray(probes.kind) == probes.names.index(OLD_THEN_NEW)
    asked = np.asarray(probes.table.query)[is_asked]
    rng = random_stream(seed, "circuit halves")
    known = known[:, QUERY]
    kept, same, new = [], [], []
    for i, query in enumerate(clean[:, QUERY]):
        h, r1, r2 = query[:3]
        rows = np.flatnonzero((asked[:, 0] == h) & (asked[:, 1] == r1))
        others = np.flatnonzero((known[:, 0] == h) & (known[:, 1] == r1) & (known[:, 2] != r2))
        if len(rows) and len(others):
            kept.append(i)
            new.append(asked[rng.choice(rows)])
            same.append(known[rng.choice(others)])
    same_rows, new_rows = (np.array(x).reshape(-1, 4) for x in (same, new))
    return clean[kept][:, QUERY], corrupted[kept][:, QUERY], same_rows, new_rows


def _ask(
    model: ModelConfig,
    weights: Weights,
    site: Site,
    num_pairs: int,
    old: np.ndarray,
    other: np.ndarray,
    same: np.ndarray,
    new: np.ndarray,
) -> dict[str, Any]:
    program = Patching.compiled(model, (site.component,), 1)
    num = len(old)
    # Always the same shape: one program for all runs.
    o, r, s, d = (jnp.asarray(np.resize(x, (num_pairs, 4)))[None] for x in (old, other, same, new))
    own = jax.tree.map(lambda x: jnp.asarray(x)[None], weights)
    answers = o[..., 3], r[..., 3]
    shares = single_shares(model, [site])

    def difference(readings: Readings) -> np.ndarray:
        return np.asarray(readings.logit_difference).reshape(-1)[:num]

    def right(readings: Readings) -> float:
        return float(np.mean(np.asarray(readings.rank).reshape(-1)[:num] == 0))

    clean, from_old = program.unpatched(own, o, answers)
    corrupted, _ = program.unpatched(own, r, answers)
    _, from_same = program.unpatched(own, s, answers)
    _, from_new = program.unpatched(own, d, answers)
    total = np.mean(difference(clean) - difference(corrupted))

    def effect(donor: Donor) -> float:
        into_other = program.patched(own, r, answers, donor, shares)
        return float(np.mean(difference(into_other) - difference(corrupted)) / total)

    wanted = d[..., 3], r[..., 3]
    asked = r.at[..., 2:].set(d[..., 2:])  # R with the new relation and tail
    return {
        "old_effect": effect(from_old),
        "same_effect": effect(from_same),
        "new_effect": effect(from_new),
        "accuracy": right(program.unpatched(own, d, wanted)[0]),
        "old_patched": right(program.patched(own, r, answers, from_old, shares)),
        "new_patched": right(program.patched(own, asked, wanted, from_old, shares)),
        "num_pairs": num,
    }
