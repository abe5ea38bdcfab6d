"""What has been submitted: `launch/` in a sweep's workdir, which only grows."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from grokjax.errors import UserError

JOBS = "jobs.jsonl"
_LOCK = "lock"


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
    """One launcher at a time; the system lets go when its process ends, however it does.

    Folders that it had to make are gone again if nothing has come into them.

    Raises:
      UserError: another one is at it, or the folder cannot be made.
    """
    folder = books_folder(workdir)
    made = [path for path in (folder, workdir, *workdir.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        _lock(file, workdir)
        yield
    finally:
        os.close(file)
        if made:
            (folder / _LOCK).unlink()
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # which only an empty one allows


def _lock(file: int, workdir: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"{workdir}: another launcher is at work here; wait for it, or launch stop"
        ) from None


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
