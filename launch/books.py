"""What has been submitted: `launch/` in a sweep's workdir, which only grows."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from grokjax.base.errors import UserError
from grokjax.base.files import append_line, refuse_links
from grokjax.workdir import lock

JOBS = "jobs.jsonl"
_BOOKS = "launch"


def books_folder(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / _BOOKS


def attempts_folder(workdir: pathlib.Path) -> pathlib.Path:
    """A file for each row that a Slurm script has begun: from where, each time."""
    return books_folder(workdir) / "attempts"


def record(workdir: pathlib.Path, entry: Mapping[str, Any]) -> None:
    """Appends a line to `jobs.jsonl`: when, by which launcher, which job, which rows."""
    refuse_links(workdir, _BOOKS)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_line(books_folder(workdir) / JOBS, json.dumps({"time": now, **entry}))


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """All records, oldest first; lines that are none are left out, and said once to be.

    Raises:
      UserError: the books lead out of the workdir, or cannot be read.
    """
    refuse_links(workdir, _BOOKS)
    path = books_folder(workdir) / JOBS
    if not path.exists():
        return []
    if not path.is_file():
        raise UserError(f"{path}: is not a plain file; remove it")
    lines = path.read_text(errors="replace").splitlines()
    entries = [_entry(line) for line in lines]
    if left_out := [i for i, entry in enumerate(entries, 1) if entry is None]:
        _say_once(f"launch: {path}: line {left_out[0]} of {len(lines)} is no record; left out")
    return [entry for entry in entries if entry is not None]


def _entry(line: str) -> dict[str, Any] | None:
    """What a line says, if it is what a launcher writes."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    entry = {"job": "", "populations": [], "options": {}, "host": "", "pid": 0, "start": 0}
    entry |= content
    texts = [entry.get("launcher"), entry["job"], entry["host"]]
    numbers = (entry["pid"], entry["start"])
    names, options = entry["populations"], entry["options"]
    good = (
        isinstance(names, list)
        and all(isinstance(text, str) for text in [*texts, *names])
        and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
        and isinstance(options, dict)
    )
    return entry if good else None


@functools.cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """One launcher at a time, by the lock of the books' folder.

    Raises:
      UserError: another one is at it, or the folder cannot be made.
    """
    refuse_links(workdir, _BOOKS)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.locked(books_folder(workdir)))
        except lock.Locked:
            raise UserError(
                f"{workdir}: another launcher is at work here; wait for it, or launch stop"
            ) from None
        yield


def is_locked(workdir: pathlib.Path) -> bool:
    """Whether a launcher is at work, a local one say."""
    try:
        with locked(workdir):
            return False
    except UserError:
        return True


def stop_file(workdir: pathlib.Path) -> pathlib.Path:
    """While it exists, rows that leave with 75 are not started again."""
    return books_folder(workdir) / "stop"


def note_stop(workdir: pathlib.Path) -> None:
    refuse_links(workdir, _BOOKS)
    books_folder(workdir).mkdir(exist_ok=True)
    stop_file(workdir).touch()


def forget_stop(workdir: pathlib.Path) -> None:
    stop_file(workdir).unlink(missing_ok=True)
