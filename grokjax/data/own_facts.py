"""A dataset from facts of one's own: what `make_dataset` draws, on a graph that is given.

Definitions are those of docs/protocol.md, sections 2.2 and 2.3; the draws are others, for a graph
may have more compositions than memory holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.base.files import MAX_JSON_BYTES, given_path, write_atomically
from grokjax.data.chains import Chains, shuffled
from grokjax.data.dataset import Dataset, dataset_of_splits
from grokjax.data.folder import Told, most_items, refuse_existing, write_folder
from grokjax.data.graph import (
    Augmentation,
    FactRows,
    Splits,
    compose,
    resolve_augmentation,
)
from grokjax.data.triples import (
    CONTRADICTION,
    DUPLICATE,
    LONELY,
    NOTES,
    Triples,
    read_triples,
)

_SHOWN = 3  # rows named on the terminal; all of them are in the notes
_SAID = {
    DUPLICATE: "repeat a row before: dropped",
    CONTRADICTION: "give another tail than a row before: dropped",
    LONELY: "are half of no composition: trained on as facts alone",
}


def folder_from_csv(
    path: str | os.PathLike,
    columns: Sequence[str],
    config: ConfigDict,
    folder: str | os.PathLike,
    told: Told,
    *,
    at_most: bool,
) -> list[str]:
    """`grokjax data --from-csv`: a data folder, and in its notes.csv every row that was noted.

    Args:
      path, columns: as in `read_triples`.
      config: settings.
      folder: as in `write_folder`.
      told: as there.
      at_most: as in `dataset_of_triples`.

    Returns:
      Lines that say what has come of it.

    Raises:
      UserError: bad input; nothing has been written then.
    """
    out = given_path(folder, "--out")
    refuse_existing(out)
    triples = read_triples(path, columns)
    dataset = dataset_of_triples(triples, config.data, config.seeds.data, at_most=at_most)
    write_folder(dataset, out, told)
    write_atomically(out / NOTES, triples.notes.to_csv(index=False))
    lines = describe(triples, dataset)
    noted = f"noted rows: {out / NOTES}"
    return [*lines, noted, f"{out}: train on it with --config.data.folder={out}"]


def dataset_of_triples(
    triples: Triples, data: ConfigDict, seed: int, *, at_most: bool = False
) -> Dataset:
    """Splits, augmentation and probes of a graph of one's own.

    Args:
      triples: the facts.
      data: settings; those of the graph itself (entities, relations, out-degree) are not looked at.
      seed: of every draw.
      at_most: takes fewer compositions than phi asks for where there are fewer.

    Raises:
      UserError: phi asks for more than there is, or there is nothing to test on.
    """
    augmentation = resolve_augmentation(data)
    facts = triples.facts
    is_ood = np.zeros(len(facts), bool)
    order = random_stream(seed, "own ood facts").permutation(len(facts))
    is_ood[order[: round(data.ood_fraction * len(facts))]] = True
    id_rows, ood_rows = np.flatnonzero(~is_ood), np.flatnonzero(is_ood)
    both_id, both_ood = (Chains(facts, rows, rows) for rows in (id_rows, ood_rows))
    if not both_ood.size:
        raise UserError(
            f"{triples.name}: no two of its {len(ood_rows):,} OOD facts make a composition, so"
            " there is nothing to test on; raise data.ood_fraction, or give more facts"
        )

    # One order of the pool: a larger phi adds compositions and takes none away.
    held_out = round(data.iid_test_fraction * both_id.size)
    room = most_items(triples.vocabulary, facts) - len(facts)
    if room < 0:
        raise UserError(
            f"{triples.name}: its {len(facts):,} facts are over the {room + len(facts):,} that a"
            f" folder's files hold at {MAX_JSON_BYTES >> 20} MiB each; give fewer, or shorter names"
        )
    num_base = _num_base(data.phi, len(id_rows), both_id.size - held_out, room, at_most)
    pool = random_stream(seed, "own pool order").integers(2**63)

    def of_pool(start: int, stop: int) -> np.ndarray:
        return both_id.at(shuffled(both_id.size, start, stop, pool))

    num_ood = min(both_ood.size, data.max_probes)
    ood_key = random_stream(seed, "own ood probes").integers(2**63)
    ood = both_ood.at(shuffled(both_ood.size, 0, num_ood, ood_key))
    hop1, hop2 = _added(facts, ood, id_rows, augmentation, seed)
    pairs = {
        "train_base": of_pool(held_out, held_out + num_base),
        "hop1_added": hop1,
        "hop2_added": hop2,
        "test_inferred_iid": of_pool(0, min(held_out, data.max_probes)),
        "test_inferred_ood": ood,
    }
    splits = Splits(**{n: compose(facts[p[:, 0]], facts[p[:, 1]]) for n, p in pairs.items()})
    return dataset_of_splits(
        triples.name,
        triples.vocabulary,
        facts[id_rows],
        facts[ood_rows],
        splits,
        data.max_probes,
        seed,
    )


def describe(triples: Triples, dataset: Dataset) -> list[str]:
    """Lines that say what was read, what was dropped, what has come of it."""
    vocabulary, notes = triples.vocabulary, triples.notes
    lines = [
        f"{triples.num_rows:,} rows: {len(triples.facts):,} facts,"
        f" {len(vocabulary.entity_ids):,} entities, {len(vocabulary.relation_ids):,} relations"
    ]
    for what, text in _SAID.items():
        own = notes[notes.what == what]
        if len(own):
            named = [f"row {x.row}: {x.head}, {x.relation}, {x.tail}" for x in own.itertuples()]
            named = named[:_SHOWN] + ["..."] * (len(named) > _SHOWN)
            lines.append(f"{len(own):,} {text} ({'; '.join(named)})")
    phi = dataset.parts["num_base"] / max(len(dataset.id_facts), 1)
    counts = ", ".join(f"{n.removeprefix('num_')} {c:,}" for n, c in dataset.counts.items())
    return [*lines, f"phi {phi:.3g}; {counts}"]


def _num_base(phi: float, num_id: int, pool: int, room: int, at_most: bool) -> int:
    """Training compositions of two ID facts."""
    if not phi >= 0:  # true for NaN too
        raise UserError(f"data.phi: {phi} is no ratio; give compositions per ID fact, or inf")
    wanted = pool if math.isinf(phi) else phi * num_id
    most = min(pool, room)
    if wanted < most + 0.5 or at_most:
        return min(round(wanted), most)
    largest = math.floor(1000 * most / num_id) / 1000
    held = f"; a folder's files hold {room:,}" * (room < pool)
    raise UserError(
        f"data.phi: {phi:g} asks for {wanted:,.0f} training compositions, there are"
        f" {pool:,}{held}; give at most {largest:g}"
    )


def _added(
    facts: FactRows, ood: np.ndarray, id_rows: np.ndarray, a: Augmentation, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compositions that put OOD facts of the probes next to ID facts, at either hop."""
    hop1 = _after(facts, ood[:, 0], id_rows, a.hop1_ratio, a.hop1_k, (seed, "own hop 1"))
    # What comes before a fact is what comes after it in the graph turned round.
    turned = facts[:, ::-1]
    hop2 = _after(turned, ood[:, 1], id_rows, a.hop2_ratio, a.hop2_k, (seed, "own hop 2"))
    return hop1, hop2[:, ::-1]


def _after(
    facts: FactRows,
    ood: np.ndarray,
    id_rows: np.ndarray,
    ratio: float,
    k: int,
    stream: tuple[int, str],
) -> np.ndarray:
    """A share of OOD facts, each with at most k ID facts that may follow it."""
    universe = np.unique(ood)
    rng = random_stream(*stream)
    keys = rng.integers(2**63, size=len(universe))
    chosen = rng.permutation(len(universe))[: round(ratio * len(universe))]
    chains = Chains(facts, universe, id_rows)
    found = [chains.of(int(row), k, keys[row]) for row in chosen]
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)
