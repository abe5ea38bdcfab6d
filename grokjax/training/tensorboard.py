"""TensorBoard event files, without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
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

from grokjax.base.text import counted
from grokjax.settings.rows import swept_values

_HEAD, _FRAME = 12, 16  # bytes of a record before its content, and around it


class TensorBoardWriters:
    """One event folder per run, with its hyperparameters.

    Args:
      directory: gets a folder per run.
      runs: rows of `runs.csv`; `run_id` and `regime` name the folders.
      hparams: settings of each run to list in the HPARAMS tab.
      start_step: steps beyond it in older files are purged by the reader.
      curves: rows of `curves.csv` up to there; a run's folder that lacks or doubles some of them,
        and has no others, is written anew.
      metrics: that the HPARAMS tab shows.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        runs: Sequence[Mapping[str, Any]],
        hparams: Sequence[Mapping[str, Any]],
        start_step: int = 0,
        curves: Sequence[Mapping[str, Any]] = (),
        metrics: Sequence[str] = (),
    ):
        root = pathlib.Path(directory)
        _outlast_older_files(root)
        self._writers = {}
        due: dict[int, list[Mapping[str, Any]]] = {}
        for row in curves:
            due.setdefault(int(row["run_id"]), []).append(row)
        mended = 0
        for run, values in zip(runs, hparams, strict=True):
            folder = run_folder(root, run)
            before = sorted(folder.glob("events.out.tfevents.*"))
            rows = due.get(run["run_id"], [])
            is_whole = is_kept(before, start_step, [int(r["step"]) for r in rows])
            writer = EventFileWriter(str(folder), max_queue_size=100, flush_secs=60)
            self._writers[run["run_id"]] = writer
            if before:
                purge_from = start_step + 1 if start_step and is_whole else 0
                log = SessionLog(status=SessionLog.START)
                writer.add_event(Event(step=purge_from, session_log=log, wall_time=time.time()))
            if not start_step or not is_whole:
                for summary in _hparams_summaries(folder.name, values, metrics):
                    writer.add_event(Event(summary=summary, wall_time=time.time()))
            if not is_whole:
                self.append(rows)
                writer.flush()
                for path in before:  # what they had is in the new one
                    path.unlink(missing_ok=True)
                mended += 1
        if mended:
            whose = counted(mended, "run")
            print(f"{root}: events of {whose} were not whole; written anew from curves.csv")
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


def is_kept(paths: Sequence[pathlib.Path], start_step: int, due: Sequence[int]) -> bool:
    """Whether event files are to be kept: they have each evaluation once, or one that is not due.

    Args:
      paths: in the order in which TensorBoard reads them, by the seconds in their names. One of a
        clock that has been set back since would be read after those that come now.
      start_step: what is beyond will be purged; at 0 all is.
      due: steps of the evaluations up to there.
    """
    found = [step for step in read_steps(paths) if step <= start_step] if start_step else []
    if not set(found) <= set(due):
        return True
    is_ahead = any(_seconds(path) > time.time() for path in paths)
    return not is_ahead and (not start_step or sorted(found) == sorted(due))


def read_steps(paths: Sequence[pathlib.Path]) -> list[int]:
    """Steps of the scalars in event files, as TensorBoard would show them: a file ends where it is
    torn, and a new session purges what is beyond its start."""
    steps: list[int] = []
    for path in paths:
        content, at = path.read_bytes(), 0
        while at + _FRAME <= len(content):
            end = at + _FRAME + int.from_bytes(content[at : at + 8], "little")
            if end > len(content):
                break
            try:
                event = Event.FromString(content[at + _HEAD : end - (_FRAME - _HEAD)])
            except DecodeError:
                break
            if event.HasField("session_log"):
                steps = [step for step in steps if step < event.step]
            elif any(value.HasField("simple_value") for value in event.summary.value):
                steps.append(event.step)
            at = end
    return steps


def _outlast_older_files(root: pathlib.Path) -> None:
    """Readers order files by the second in their names: a new one must not share it."""
    older = root.glob("*/events.out.tfevents.*")
    last = max(map(_seconds, older), default=0)
    while last <= time.time() < last + 1:
        time.sleep(0.05)


def _seconds(path: pathlib.Path) -> int:
    """When an event file was begun, by its name."""
    text = path.name.split(".")[3]
    return int(text) if text.isdecimal() else 0


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


def _hparams_summaries(name: str, values: Mapping[str, Any], shown: Sequence[str]) -> list[Summary]:
    """What the HPARAMS tab reads: the experiment's columns, and one run's values."""
    columns = [HParam(setting) for setting in values]
    metrics = [Metric(tag) for tag in shown]
    return [
        hparams_config_pb(columns, metrics),
        hparams_pb(dict(values), trial_id=name),
    ]
