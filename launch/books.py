"""What has been submitted: `launch/` in a sweep's workdir, which only grows."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from grokjax.base.errors import UserError
from grokjax.workdir import lock

JOBS = "jobs.jsonl"


def books_folder(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "launch"


def record(workdir: pathlib.Path, entry: Mapping[str, Any]) -> None:
    """Appends a line to `jobs.jsonl`: when, by which launcher, which job, which rows."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with open(books_folder(workdir) / JOBS, "a") as file:
        file.write(json.dumps({"time": now, **entry}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """All lines, oldest first; a torn last one is none."""
    entries = []
    with contextlib.suppress(FileNotFoundError):
        for line in (books_folder(workdir) / JOBS).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """One launcher at a time, by the lock of the books' folder.

    Raises:
      UserError: another one is at it, or the folder cannot be made.
    """
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


def forget_stop(workdir: pathlib.Path) -> None:
    stop_file(workdir).unlink(missing_ok=True)
