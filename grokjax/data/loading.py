"""A run's data: from the folder that it names, or drawn; for finetuning, new facts on top."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from grokjax.data.dataset import Dataset, make_dataset, with_identity_queries
from grokjax.data.folder import read_folder
from grokjax.data.new_facts import DRAWN_BY, finetuning_dataset, from_folder


def load_dataset(run: ConfigDict) -> Dataset:
    """The data of one run: from its folder if it names one, or drawn; for finetuning, on top."""
    data, transfer, seed = run.data, run.transfer, run.seeds.data
    dataset = read_folder(data.folder, seed) if data.folder else make_dataset(data, seed)
    if data.identity_bridge:
        dataset = with_identity_queries(dataset)
    if transfer.source and transfer.folder:
        return from_folder(dataset, read_folder(transfer.folder, seed), seed)
    return finetuning_dataset(dataset, transfer, seed) if transfer.source else dataset


def load_datasets(runs: Sequence[ConfigDict]) -> list[Dataset]:
    """Each run's data; runs with the same settings and data seed share one."""
    made: dict[tuple, Dataset] = {}
    keys = []
    for run in runs:
        own = {name: run.transfer[name] for name in DRAWN_BY} if run.transfer.source else {}
        key = (run.data.to_json(), run.seeds.data, *own.values())
        if key not in made:
            made[key] = load_dataset(run)
        keys.append(key)
    return [made[key] for key in keys]


def data_hash(datasets: Sequence[Dataset]) -> str:
    """SHA-256 of all that training and evaluation take from the runs' data."""
    own: dict[int, bytes] = {}
    for d in datasets:
        if id(d) not in own:
            arrays = [np.asarray(x) for x in jax.tree.leaves((d.train, d.probes))]
            texts = [str((d.vocabulary.tokens, d.probes.names, [x.shape for x in arrays])).encode()]
            own[id(d)] = hashlib.sha256(b"".join([*texts, *(x.tobytes() for x in arrays)])).digest()
    return hashlib.sha256(b"".join(own[id(d)] for d in datasets)).hexdigest()
