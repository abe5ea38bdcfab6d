"""Files written so that no reader ever sees half of one, and read with suspicion."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from grokjax.base.errors import DiskError, UserError

_DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ESTALE,
)  # fmt: skip
MAX_JSON_BYTES = 2**28  # of a file that is read: four times the paper's largest


def given_path(path: str | os.PathLike, option: str = "--workdir") -> pathlib.Path:
    """The path itself.

    Raises:
      UserError: it is empty, which would mean the folder that one happens to be in.
    """
    if not str(path).strip():
        raise UserError(f"{option}: the path is empty; give a folder, {option}=runs/NAME")
    return pathlib.Path(path)


def sync(path: pathlib.Path) -> None:
    """Through to the disk: what a file holds, or which names a folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no folders, some file systems say
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A scratch path beside `path`, which takes its place in one step once it is written.

    It is on the disk before it does: a machine that loses power has the old file or the new one.
    """
    # A name of its own: two processes that write the same file must not write into one scratch.
    scratch = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        yield scratch
        sync(scratch)
        os.replace(scratch, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # on a full disk every byte counts
            scratch.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file in one step: readers see the old text or the new, never a part."""
    with replacing(path) as scratch, open(scratch, "w", newline="") as file:
        file.write(text)


def append_line(path: pathlib.Path, line: str) -> None:
    """Writes a line through to the disk; one that a kill has torn before takes no other with it."""
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sha256(path: pathlib.Path) -> str:
    """Of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_error(error: object) -> str:
    """What the system said where a disk was full or refused, whoever raised it; or nothing."""
    said = (os.strerror(code) for code in _DISK_ERRORS)
    return next((text for text in said if text in str(error)), "")


@contextlib.contextmanager
def writing_to(folder: pathlib.Path) -> Iterator[None]:
    """A full disk, or a folder that may not be written to, as one line.

    Raises:
      DiskError: instead of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{folder}: cannot be written ({error.strerror or error}); what was saved before is"
            " whole: make room or mend it, and the same command goes on"
        ) from error


def leads_out(path: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether links take a path out of a folder, or nowhere."""
    try:
        return not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a ring of links
        return True


def refuse_links(folder: pathlib.Path, *names: str) -> None:
    """What is written below a folder must not land elsewhere.

    Args:
      folder: may itself be a link.
      names: of files and folders in it that are about to be written; `*` stands for any.

    Raises:
      UserError: one of them, or something below it, leads out.
    """
    for name in names:
        tops = folder.glob(name) if "*" in name else [folder / name]
        for path in (p for top in tops for p in (top, *top.rglob("*"))):
            if (path.is_symlink() or path == folder / name) and leads_out(path, folder):
                raise UserError(
                    f"workdir {folder}: {path.relative_to(folder)} is a link out of it; put the"
                    " thing itself there, or make the whole workdir a link"
                )


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file, which may come from anybody.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it leads out of its folder or is no plain file, is too large, is not JSON, is
        nested deeper than Python reads, or has a number that no setting could have.
    """
    if leads_out(path, path.parent):
        raise ValueError("is a link out of its folder")
    if path.exists() and not path.is_file():
        raise ValueError("is not a plain file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"is over {MAX_JSON_BYTES >> 20} MiB")
    try:
        return json.loads(path.read_bytes(), parse_int=_whole, parse_float=_fraction)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON that we read: {str(error)[:80]}") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _fraction(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return number
