"""A folder as it was at one moment of a process: what a kill at that moment leaves."""

import contextlib
import os
import shutil
import threading

import pytest


class snapshot_taken:
    """Copies a folder at a moment: before the so-manieth rename, synchronisation or chunk."""

    def __init__(self, folder, copy, after):
        self._folder, self._copy, self._left = folder, copy, after
        self._lock = threading.Lock()
        self.is_there = False

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for name in ("rename", "replace", "fsync"):
            self._patch.setattr(os, name, self._counted(getattr(os, name)))
        return self

    def __exit__(self, *_):
        self._patch.undo()

    def _counted(self, function):
        def counted(*args, **kwargs):
            self.count()
            return function(*args, **kwargs)

        return counted

    def count(self):
        with self._lock:
            self._left -= 1
            if self._left == 0 and self._folder.exists():
                with contextlib.suppress(shutil.Error):  # what vanishes meanwhile is not there
                    shutil.copytree(self._folder, self._copy, symlinks=True)
                self.is_there = True


def contents(folder):
    """Of every file; but for the lock, which names who had it last."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}
