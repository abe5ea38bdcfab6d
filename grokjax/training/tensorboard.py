"""TensorBoard event files, without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

# Not from its `api`, which imports TensorFlow.
from tensorboard.plugins.hparams.summary_v2 import (
    HParam,
    Metric,
    hparams_config_pb,
    hparams_pb,
)
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from grokjax.base.names import OOD_ACCURACY, OOD_BRIDGE_FOUND, TRAINING_ACCURACY
from grokjax.settings.rows import swept_values

HEADLINE_METRICS = (TRAINING_ACCURACY, OOD_ACCURACY, OOD_BRIDGE_FOUND)


class TensorBoardWriters:
    """One event folder per run, with its hyperparameters.

    Args:
      directory: gets a folder per run.
      runs: rows of `runs.csv`; `run_id` and `regime` name the folders.
      hparams: settings of each run to list in the HPARAMS tab.
      start_step: steps beyond it in older files are purged by the reader.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        runs: Sequence[Mapping[str, Any]],
        hparams: Sequence[Mapping[str, Any]],
        start_step: int = 0,
    ):
        root = pathlib.Path(directory)
        _outlast_older_files(root)
        self._writers = {}
        for run, values in zip(runs, hparams, strict=True):
            folder = run_folder(root, run)
            before = folder.is_dir()
            writer = EventFileWriter(str(folder), max_queue_size=100, flush_secs=60)
            self._writers[run["run_id"]] = writer
            if before:
                purge_from = start_step + 1 if start_step else 0
                log = SessionLog(status=SessionLog.START)
                writer.add_event(Event(step=purge_from, session_log=log, wall_time=time.time()))
            if not start_step:
                for summary in _hparams_summaries(folder.name, values):
                    writer.add_event(Event(summary=summary, wall_time=time.time()))
        self.flush()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes each row's numbers as scalars."""
        for row in rows:
            values = [
                Summary.Value(tag=tag, simple_value=float(value))
                for tag, value in row.items()
                if tag not in ("run_id", "step") and not isinstance(value, str) and value == value
            ]
            event = Event(step=row["step"], summary=Summary(value=values), wall_time=time.time())
            self._writers[row["run_id"]].add_event(event)

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _outlast_older_files(root: pathlib.Path) -> None:
    """Readers order files by the second in their names: a new one must not share it."""
    older = root.glob("*/events.out.tfevents.*")
    last = max((int(path.name.split(".")[3]) for path in older), default=0)
    while last <= time.time() < last + 1:
        time.sleep(0.05)


def run_folder(root: pathlib.Path, run: Mapping[str, Any]) -> pathlib.Path:
    """`003-both_hop_full-weight_decay=0.3`: sorts by run and says what it is.

    A folder that an older version has begun keeps its name.
    """
    start = f"{run['run_id']:03d}-"
    begun = sorted(path for path in root.glob(f"{start}*") if path.is_dir())
    if begun:
        return begun[0]
    swept = (f"-{name}={value}" for name, value in swept_values(run).items())
    name = re.sub(r"[^\w.=+-]+", "_", "".join([str(run["regime"]), *swept]))
    return root / f"{start}{name[:150]}"


def _hparams_summaries(name: str, values: Mapping[str, Any]) -> list[Summary]:
    """What the HPARAMS tab reads: the experiment's columns, and one run's values."""
    columns = [HParam(setting) for setting in values]
    metrics = [Metric(tag) for tag in HEADLINE_METRICS]
    return [
        hparams_config_pb(columns, metrics),
        hparams_pb(dict(values), trial_id=name),
    ]
