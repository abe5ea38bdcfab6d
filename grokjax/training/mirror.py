"""Curves elsewhere: `train.mirror=wandb` sends each run's rows to Weights & Biases as well.

What is on disk stays the truth: a mirror is written after it and never read.
"""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.settings.config import to_json
from grokjax.settings.rows import group_label


def check_mirror(config: ConfigDict) -> None:
    """Refuses a mirror that is not installed, before anything is written.

    Raises:
      UserError: how to install it.
    """
    if config.train.mirror:
        _package(config.train.mirror)


class Mirror:
    """A run of Weights & Biases for each of ours; its own environment variables say where to.

    Args:
      config: the population's settings; `name` is the project.
      workdir: where its files lie until they are sent.
      runs: rows of `runs.csv`. A run's identity and its workdir name it there, so that a resume
        goes on with it.
      hparams: settings of each run that are swept.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        runs: Sequence[Mapping[str, Any]],
        hparams: Sequence[Mapping[str, Any]],
    ):
        wandb = _package(config.train.mirror)
        shared = to_json(config)
        del shared["runs"]
        self._runs = {
            run["run_id"]: wandb.init(
                project=config.name,
                group=workdir.name,
                name=f"{run['run_id']:03d} {group_label(run)}",
                id=f"{workdir.name}-{run['run_hash']}",
                dir=str(workdir),
                config=shared | {"swept": dict(values)},
                resume="allow",
                reinit="create_new",
            )
            for run, values in zip(runs, hparams, strict=True)
        }

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sends each row's numbers."""
        for row in rows:
            values = {
                name: value
                for name, value in row.items()
                if name not in ("run_id", "step") and not isinstance(value, str) and value == value
            }
            self._runs[row["run_id"]].log(values, step=row["step"])

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"train.mirror: {name} is not installed; pip install 'grokjax[{name}]', or leave it out"
        ) from None
