"""The manifest that seals a checkpoint: written last, renamed into place, compared before use.

A step without one does not exist; one whose files differ from it is damaged.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

from grokjax.base.errors import UserError
from grokjax.base.files import leads_out, read_json, sha256, sync, write_atomically

MANIFEST = "manifest.json"
GOOD, DAMAGED, PARTIAL = "good", "damaged", "partial"
UNSEALED = "has no manifest: its save was cut off, or somebody has removed it"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections")


def package_versions() -> dict[str, str]:
    """Of all that a run's numbers may depend on."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return versions | {"python": sys.version.split()[0]}


def write_manifest(folder: pathlib.Path, settings: str = "") -> None:
    """Seals a step: size and SHA-256 of each of its files, renamed into place as the last act.

    All else of it is on the disk by then, so that older steps may go, whatever happens next.

    Args:
      folder: of the step.
      settings: hash of the settings that it was trained with.
    """
    paths = sorted(folder.rglob("*"))
    for path in (*paths, folder, folder.parent):
        sync(path)
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in paths
        if path.is_file() and path.name != MANIFEST
    }
    content = {"step": folder.name, "settings": settings, "versions": package_versions()}
    content |= {"files": files}
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1))


def read_manifest(folder: pathlib.Path, settings: str = "") -> dict[str, Any]:
    """A step's manifest, by itself: nothing is compared with it yet.

    Args:
      folder: of the step.
      settings: hash that it must have, if any.

    Raises:
      UserError: there is none, it is damaged, or of other settings.
    """
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link, not a folder")
    try:
        content = read_json(folder / MANIFEST)
        files = {str(n): (int(e["size"]), str(e["sha256"])) for n, e in content["files"].items()}
        versions = {str(name): str(v) for name, v in content.get("versions", {}).items()}
        # Those of before had neither.
        step, found = str(content.get("step", folder.name)), str(content.get("settings", ""))
    except (FileNotFoundError, NotADirectoryError):
        problem = UNSEALED if folder.is_dir() else "no such checkpoint"
        raise UserError(f"{folder}: {problem}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: its manifest is damaged") from None
    if step != folder.name:
        raise UserError(f"{folder}: is a renamed copy of step {step[:20]!a}")
    if settings and found and found != settings:
        raise UserError(
            f"{folder}: of other settings (hash {found[:12]!a}, this workdir's is {settings!a})"
        )
    return {"settings": found, "versions": versions, "files": files}


def verify(folder: pathlib.Path, settings: str = "", *, content: bool = True) -> dict[str, Any]:
    """Compares a step with its manifest, and gives that.

    Args:
      folder, settings: as in `read_manifest`.
      content: whether to read every byte; otherwise names and sizes alone.

    Raises:
      UserError: what is missing or differs.
    """
    manifest = read_manifest(folder, settings)
    for name, (size, digest) in manifest["files"].items():
        path = folder / name
        try:
            missing = leads_out(path, folder) or not path.is_file()
            damaged = not missing and (
                path.stat().st_size != size or (content and sha256(path) != digest)
            )
        except (OSError, ValueError):  # a name that no file can have, a disk that does not answer
            raise UserError(f"{folder}: {name[:80]!a} cannot be read") from None
        if missing:
            raise UserError(f"{folder}: {name} is missing")
        if damaged:
            raise UserError(f"{folder}: {name} is damaged")
    return manifest


def other_versions(manifest: dict[str, Any]) -> str:
    """`jax 0.10.1 (here 0.10.2)`, of all packages that differ; empty where none does."""
    here, saved = package_versions(), manifest["versions"]
    return ", ".join(
        f"{name} {saved.get(name, 'unknown')[:20]} (here {version})"
        for name, version in here.items()
        if saved.get(name) != version
    )


def examine(folder: pathlib.Path, *, content: bool) -> tuple[str, str]:
    """A step's state (good, damaged or partial) and what is wrong with it."""
    if not (folder / MANIFEST).exists():
        return PARTIAL, UNSEALED
    try:
        verify(folder, content=content)
    except UserError as problem:
        return DAMAGED, str(problem).removeprefix(f"{folder}: ")
    return GOOD, ""
