"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A scratch path beside `path`, which takes its place in one step once it is written."""
    scratch = path.with_name(f".{path.name}.tmp")
    yield scratch
    os.replace(scratch, path)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file in one step: readers see the old text or the new, never a part."""
    with replacing(path) as scratch, open(scratch, "w", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
