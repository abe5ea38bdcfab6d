"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A scratch path beside `path`, which takes its place in one step once it is written."""
    # A name of its own: two processes that write the same file must not write into one scratch.
    scratch = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file in one step: readers see the old text or the new, never a part."""
    with replacing(path) as scratch, open(scratch, "w", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
