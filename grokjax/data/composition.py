"""The study's task: two facts are composed through a bridge (docs/protocol.md, section 2)."""

from __future__ import annotations

from grokjax.base import names
from grokjax.data.task import GENERALISATION, HELD_OUT, OTHER, TRAINED, Hidden, ProbeType, Task


def _fact(name: str, role: str) -> ProbeType:
    return ProbeType(name, role, length=2, hides=False)


COMPOSITION = Task(
    "composition",
    question=("head", "relation1", "relation2"),
    types=(
        _fact(names.ID_ATOMIC, TRAINED),
        _fact(names.OOD_ATOMIC, TRAINED),
        ProbeType(names.TRAIN_INFERRED, TRAINED),
        ProbeType(names.TEST_INFERRED_IID, HELD_OUT),
        ProbeType(names.TEST_INFERRED_OOD, GENERALISATION),
        # Of finetuning.
        _fact(names.ATOMIC_NEW, OTHER),
        *(ProbeType(name, OTHER) for name in names.NEW_FOLDER_TYPES[1:]),
        *(ProbeType(name, OTHER) for name in names.CATEGORIES),
        _fact(names.KEPT_ATOMIC, OTHER),
        ProbeType(names.KEPT_INFERRED, OTHER),
    ),
    hidden=(Hidden("bridge", given_by=("head", "relation1")),),
    unseen="OOD compositions",
    short="OOD",
    familiar="held-out ID compositions",
    short_familiar="held-out ID",
    chosen_on="ID compositions",
    about_unseen="two facts that were never composed in training unless a regime says so",
    exposing=("num_hop1_added", "num_hop2_added"),
    exposure="compositions of OOD facts",
    of_facts=True,
)
