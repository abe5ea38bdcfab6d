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

    The lock's file stays behind: who waits for it has it open.

    Args:
      folder: made if need be, and removed again if nothing is written to it.
      wait: until the other process is done with it, instead of an error.

    Raises:
      Locked: another process, named by host and id, holds it.
      UserError: the folder cannot be written to.
    """
    with writing_to(folder):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        file = _acquire(folder / LOCK, wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()  # which only an empty one allows
        os.close(file)


def is_locked(folder: pathlib.Path) -> bool:
    """Whether a process works in a folder now; nothing is written."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


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
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        _flock(file, path, wait)
    except BaseException:
        os.close(file)
        raise
    if not path.exists() or not os.path.samestat(os.fstat(file), path.stat()):
        # Its owner had made the folder, wrote nothing and has removed both.
        os.close(file)
        return _acquire(path, wait)
    holder = f"host {socket.gethostname()}, process {os.getpid()}".encode()
    if os.pread(file, 200, 0) != holder:
        os.ftruncate(file, 0)
        os.write(file, holder)
    return file


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
