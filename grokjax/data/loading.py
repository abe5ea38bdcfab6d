"""A run's data: from the folder that it names, or drawn; for finetuning, new facts on top."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import Dataset, with_identity_queries
from grokjax.data.folder import read_folder
from grokjax.data.new_facts import DRAWN_BY, finetuning_dataset, from_folder
from grokjax.data.task import Task
from grokjax.data.tasks import make_task
from grokjax.data.vocabulary import SPECIAL_TOKENS


def load_dataset(run: ConfigDict) -> Dataset:
    """The data of one run: from its folder if it names one, or drawn; for finetuning, on top."""
    data, transfer, seed = run.data, run.transfer, run.seeds.data
    if data.folder and data.task != COMPOSITION.name:
        raise UserError(f"data.folder: {data.folder} holds compositions, not {data.task}; drop one")
    dataset = read_folder(data.folder, seed) if data.folder else make_task(data, seed)
    if not dataset.task.of_facts and (data.identity_bridge or transfer.source):
        what = "transfer" if transfer.source else "data.identity_bridge"
        raise UserError(f"{what}: {data.task} has no facts to add to; it is of compositions")
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


def vocabulary_of(run: ConfigDict) -> tuple[int, Task]:
    """Tokens of a run's data, PAD included, and its task; a graph is not drawn for that."""
    data = run.data
    if data.task == COMPOSITION.name and not data.folder:
        return 1 + data.num_entities + data.num_relations + len(SPECIAL_TOKENS), COMPOSITION
    made = load_dataset(run)
    return made.vocabulary.size, made.task


def data_hash(datasets: Sequence[Dataset]) -> str:
    """SHA-256 of all that training and evaluation take from the runs' data."""
    own: dict[int, bytes] = {}
    for d in datasets:
        if id(d) not in own:
            arrays = [np.asarray(x) for x in jax.tree.leaves((d.train, d.probes))]
            texts = [str((d.vocabulary.tokens, d.probes.names, [x.shape for x in arrays])).encode()]
            own[id(d)] = hashlib.sha256(b"".join([*texts, *(x.tobytes() for x in arrays)])).digest()
    return hashlib.sha256(b"".join(own[id(d)] for d in datasets)).hexdigest()
