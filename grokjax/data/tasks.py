"""The tasks: which there are, and the data of the one that a run's settings name."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from grokjax.data.comparison import COMPARISON, make_comparison
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import Dataset, make_dataset
from grokjax.data.graph import regime_name, resolve_augmentation
from grokjax.data.modular import MODULAR, make_modular
from grokjax.data.task import Task, check_task
from grokjax.settings.own_functions import is_own, own_function, own_name, refuse, telling

SETTING = "data.task"


class _Entry(NamedTuple):
    """A task of ours.

    make: (the settings' section, seed) -> the data.
    regime: what tells its runs from others besides seeds and numbers, in a word.
    """

    task: Task
    make: Callable[[ConfigDict, int], Dataset]
    regime: Callable[[ConfigDict], str]


_OURS: Mapping[str, _Entry] = {
    entry.task.name: entry
    for entry in (
        _Entry(COMPOSITION, make_dataset, lambda data: regime_name(resolve_augmentation(data))),
        _Entry(MODULAR, make_modular, lambda data: str(data.operation)),
        _Entry(COMPARISON, make_comparison, lambda data: COMPARISON.name),
    )
}
DECLARED: Mapping[str, Task] = {name: entry.task for name, entry in _OURS.items()}


def make_task(data: ConfigDict, seed: int) -> Dataset:
    """Draws the data of `data.task`: a name of ours, or `NAME(data, seed)` of a file.

    Args:
      data: the settings' section.
      seed: of every draw.

    Raises:
      UserError: settings that no dataset can have; or a file's function, and what is wrong with it.
    """
    if not is_own(data.task):
        return _OURS[data.task].make(data, seed)
    function = own_function(SETTING, data.task, ("data", "seed"))
    made = function(data, seed)
    if not isinstance(made, Dataset):
        raise refuse(SETTING, data.task, f"gives a {type(made).__name__}, not what dataset_of does")
    with telling(SETTING, data.task):
        check_task(made.task)
    return made


def regime_of(run: ConfigDict) -> str:
    """What tells a run from others: what it was finetuned from, its folder, or what its task says:
    the regime, the operation, the function."""
    data = run.data
    if run.transfer.group or data.folder:
        return run.transfer.group or pathlib.Path(data.folder).name
    return own_name(data.task) if is_own(data.task) else _OURS[data.task].regime(data)
