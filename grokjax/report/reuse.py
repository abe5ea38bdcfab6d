"""Which runs are the same one: given twice, or trained for another experiment as well.

A run is its settings. Two that differ in how they name the same data (`natural`, and hop ratios of
0) have different hashes and the same curves: a run's key takes the regime for what it comes to.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.data.graph import HOP_SETTINGS, Augmentation, resolve_augmentation
from grokjax.settings.identity import flat_hash
from grokjax.settings.rows import flat_runs
from grokjax.sweeps.plan import PLAN, read_plan
from grokjax.workdir.layout import read_config


def run_key(run: Mapping[str, Any]) -> str:
    """The run's hash with its regime in numbers; nothing is added to a hop whose ratio is 0.

    Args:
      run: flattened settings of one run.
    """
    own = dict(run)
    if not own["data.folder"]:
        named = ("data.regime", *HOP_SETTINGS)
        found = resolve_augmentation(ConfigDict({n.removeprefix("data."): own[n] for n in named}))
        numbers = Augmentation(
            found.hop1_ratio,
            found.hop1_k if found.hop1_ratio else 0,
            found.hop2_ratio,
            found.hop2_k if found.hop2_ratio else 0,
        )
        own["data.regime"] = "natural"
        for name in HOP_SETTINGS:
            own[name] = type(own[name])(getattr(numbers, name.removeprefix("data.")))
    return flat_hash(own)


def keys_in(workdir: pathlib.Path) -> set[str]:
    """Of all runs that a workdir, or a sweep's, was made for; none where it cannot be read."""
    try:
        configs = (
            [p.config for p in read_plan(workdir).populations]
            if (workdir / PLAN).exists()
            else [read_config(workdir)]
        )
        return {run_key(run) for config in configs for run in flat_runs(config)}
    except (UserError, OSError):
        return set()


def siblings(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Workdirs in the same folder as this one."""
    own = workdir.resolve()
    try:
        folders = sorted(own.parent.iterdir())
    except OSError:
        return
    for folder in folders:
        named = any((folder / name).is_file() for name in ("config.json", PLAN))
        if folder != own and not folder.is_symlink() and named:
            yield folder
