"""One process at a time: a lock on a workdir that dies with its owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from grokjax.base.errors import UserError
from grokjax.base.files import writing_to

LOCK = ".lock"


class Locked(UserError):
    """Another process works in the folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder's lock; the kernel frees it when the process ends, however it ends.

    Args:
      folder: made if need be, and removed again if nothing is written to it.
      wait: until the other process is done with it, instead of an error.

    Raises:
      Locked: another process, named by host and id, holds it.
      UserError: the folder cannot be written to.
    """
    made: list[pathlib.Path] = []
    file = -1
    while file < 0:
        with writing_to(folder), contextlib.suppress(FileNotFoundError):
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            file = _acquire(folder / LOCK, wait)  # not there: its owner has removed it
    try:
        yield
    finally:
        # Before it is freed: whoever opened this file in the meantime sees that it is gone.
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        os.close(file)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # which only an empty one allows


@contextlib.contextmanager
def locked_once(folder: pathlib.Path) -> Iterator[None]:
    """The same for several processes that work together: the first one holds it for all."""
    from grokjax.runtime.processes import on_primary  # who launches needs no JAX

    with contextlib.ExitStack() as stack:

        def take() -> str:
            try:
                stack.enter_context(locked(folder))
            except Locked as held:
                return str(held)
            return ""

        if held := on_primary(take):
            raise Locked(held)
        yield


def _acquire(path: pathlib.Path, wait: bool) -> int:
    """The descriptor of the lock file, locked; who holds it is written in it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            _flock(file, path, wait)
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.write(file, f"host {socket.gethostname()}, process {os.getpid()}".encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its owner has removed it: lock the one that is there now


def _flock(file: int, path: pathlib.Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = os.read(file, 200).decode(errors="replace")
        named = "".join(c for c in holder if c.isprintable()) or "of unknown name"
        raise Locked(
            f"{path.parent}: another process works in it ({named}); let it end or stop it, or"
            " give another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        print(f"{path.parent}: its file system has no locks; let nobody else train in it")


def _is_at(file: int, path: pathlib.Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False
