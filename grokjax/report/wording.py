"""Settings in words, as titles and axes name them."""

from __future__ import annotations

import collections
import re
from typing import Any

from grokjax.base.names import (
    ID_ATOMIC,
    OOD_ATOMIC,
    TEST_INFERRED_IID,
    TEST_INFERRED_OOD,
    TRAIN_INFERRED,
)
from grokjax.data.task import Task
from grokjax.settings.declarations import SECTIONS, SETTINGS

PROBES = {
    ID_ATOMIC: "ID facts",
    OOD_ATOMIC: "OOD facts",
    TRAIN_INFERRED: "trained compositions",
    TEST_INFERRED_IID: "held-out ID compositions",
    TEST_INFERRED_OOD: "OOD compositions",
}


def split_names(task: Task) -> dict[str, str]:
    """What the two splits of a task's pairs for patching are called: `ID` and `OOD`, say."""
    familiar = task.short_familiar.split()[-1] if task.held_out else "training"
    return {"id": familiar, "ood": task.short}


_TIMES_USED = collections.Counter(name for section in SECTIONS.values() for name in section)
_SAYS_LITTLE = ("kind", "name", "every", "keep")  # without its section


def in_words(setting: str) -> str:
    """`hop 1 ratio` of `data.hop1_ratio`, `model kind` of `model.kind`, `layers`."""
    section, _, name = setting.rpartition(".")
    if section and (_TIMES_USED[name] > 1 or name in _SAYS_LITTLE):
        name = f"{section}_{name}"
    words = name.removeprefix("num_").replace("_", " ")
    return re.sub(r"([a-z]{2,})(\d)", r"\1 \2", words)


def explained(setting: str) -> str:
    """The same with what the declarations say of it, up to the first semicolon."""
    known = SETTINGS.get(setting)
    about = known.help.partition(";")[0] if known else ""
    return in_words(setting) + (f" ({about})" if about else "")


def value_in_words(value: Any) -> str:
    """`0.001`, `on`, `cosine`."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
