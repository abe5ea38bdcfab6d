"""The workdir: whose run it holds, and may a command go on in it (docs/design.md, section 7)."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import ml_collections

from grokjax.base.errors import UserError
from grokjax.base.files import given_path, read_json, refuse_links, write_atomically
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import Task
from grokjax.data.task import from_json as task_from_json
from grokjax.data.task import to_json as task_to_json
from grokjax.data.tasks import DECLARED
from grokjax.settings.config import from_json, to_json
from grokjax.settings.identity import config_difference
from grokjax.workdir.manifest import package_versions
from grokjax.workdir.tables import CURVES, RUNS, TIMING

SCHEMA_VERSION = 1
_FILES = ("config.json", RUNS, CURVES, "checkpoints")
_MAY_CHANGE = "train.mirror:"  # where curves go besides
_WRITTEN = (*_FILES, "tensorboard", TIMING, "figures")


def open_workdir(path: str | os.PathLike, config: ml_collections.ConfigDict) -> pathlib.Path:
    """Checks that `config` may train in `path`; writes nothing.

    Raises:
      UserError: the path is empty or not a folder, it holds something else or links out of it, or
        it belongs to another config (the differing settings are named). More steps than before are
        welcome.
    """
    workdir = given_path(path)
    try:
        above = [p for p in workdir.absolute().parents if p.exists() and not p.is_dir()]
        _ = workdir.exists()
    except OSError as error:
        raise UserError(f"workdir {str(path)[:80]}: {error.strerror}; give another") from None
    if above:
        raise UserError(f"workdir {workdir}: {above[0]} is a file; give a folder")
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir}: this is a file; give a folder")
    refuse_links(workdir, *_WRITTEN)
    if not (workdir / "config.json").exists():
        strangers = [name for name in _FILES if (workdir / name).exists()]
        if strangers:
            raise UserError(
                f"workdir {workdir}: has {strangers[0]} but no config.json; give another folder"
            )
        return workdir
    before = read_config(workdir)
    imported_from = read_content(workdir).get("imported_from")
    if imported_from:
        raise UserError(
            f"workdir {workdir}: holds weights of {imported_from}, not a training that could go on;"
            " give another --workdir"
        )
    differences = [d for d in config_difference(before, config) if not d.startswith(_MAY_CHANGE)]
    steps, wanted = before.train.num_steps, config.train.num_steps
    if wanted > steps:
        differences = [d for d in differences if not d.startswith("train.num_steps:")]
    if differences:
        shown = "; ".join(differences[:4]) + (
            f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
        )
        raise UserError(
            f"workdir {workdir}: holds another config ({shown}); give another --workdir or the"
            " settings it was started with (train.num_steps alone may grow)"
        )
    return workdir


def check_data(workdir: pathlib.Path, data_sha256: str) -> None:
    """Refuses data other than a workdir was started with.

    Raises:
      UserError: they have changed.
    """
    if not (workdir / "config.json").exists():
        return
    before = str(read_content(workdir).get("data_sha256", ""))
    folder = read_config(workdir).data.folder
    if before and before != data_sha256:
        whose = f"the files of data.folder {folder}" if folder else "the data that grokjax draws"
        raise UserError(
            f"workdir {workdir}: {whose} are not those that it was started with (SHA-256"
            f" {before[:12]!a}, now {data_sha256[:12]}); bring them back, or give another --workdir"
        )


def read_content(workdir: str | os.PathLike) -> dict[str, Any]:
    """All that `config.json` says.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this a grokjax workdir?") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a grokjax config ({error}); restore it or use a new workdir"
        ) from None


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """The resolved settings that a workdir was started with."""
    path, content = pathlib.Path(workdir) / "config.json", read_content(workdir)
    try:
        version, config = content["schema_version"], dict(content["config"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a grokjax config; restore it or use a new workdir") from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {str(version)[:20]!a}, this grokjax reads {SCHEMA_VERSION};"
            " use the version that wrote it"
        )
    try:
        return from_json(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_vocab_size(workdir: str | os.PathLike) -> int:
    """Of the data that a workdir's models were made for."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        size = int(read_content(workdir)["vocab_size"])
        if 0 <= size < 2**31:
            return size
        raise KeyError("vocab_size")
    except (KeyError, TypeError, OverflowError):
        raise UserError(f"{path}: has no vocab_size; restore it or use a new workdir") from None


def read_task(workdir: str | os.PathLike, config: ml_collections.ConfigDict | None = None) -> Task:
    """What the task of a workdir's runs declares: one of ours, or as one's own file said.

    Args:
      workdir: of a population.
      config: its settings, where they are at hand.

    Raises:
      UserError: `config.json` does not say, or is damaged.
    """
    name = (config or read_config(workdir)).data.task
    if name in DECLARED:
        return DECLARED[name]
    path = pathlib.Path(workdir) / "config.json"
    stored = read_content(workdir).get("task")
    if not isinstance(stored, dict):
        raise UserError(f"{path}: does not say what the task {name} is; restore it")
    try:
        return task_from_json(stored)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_config(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    vocab_size: int,
    data_sha256: str = "",
    imported_from: str = "",
    task: Task = COMPOSITION,
) -> None:
    """config.json, replaced as a whole: settings and everything needed to repeat them.

    Args:
      workdir: made if need be.
      config: resolved.
      vocab_size: of the data.
      data_sha256: of the data, if they are to be found unchanged later.
      imported_from: the file that the weights come from, if they were not trained here.
      task: of the data; one of a file of one's own is kept, so that no reader needs the file.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": to_json(config),
        "vocab_size": vocab_size,
        "data_sha256": data_sha256,
        "imported_from": imported_from,
        "commit": _commit(),
        "versions": package_versions(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "platform": jax.default_backend(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "command": sys.argv,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if config.data.task not in DECLARED:
        content["task"] = task_to_json(task)
    write_atomically(workdir / "config.json", json.dumps(content, indent=2) + "\n")


def _commit() -> str:
    """The commit of the source tree that runs, with `+` if it was changed since."""

    def git(*args: str) -> str:
        here = pathlib.Path(__file__).parent
        done = subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "-uno") else "")
    except OSError:
        return ""
