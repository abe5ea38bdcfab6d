"""Who a run is: the hash of its settings, and in what two configs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from grokjax.settings.config import flatten
from grokjax.settings.declarations import SETTINGS
from grokjax.settings.rows import flat_runs


def settings_hash(run: ConfigDict) -> str:
    """The identity of a run: 12 hex digits of the SHA-256 of its settings, whatever its length.

    A setting that was declared after the first workdirs counts only where it is not at its default,
    so that runs of before keep the hash that they have.
    """
    return flat_hash(flatten(run))


def run_hashes(config: ConfigDict) -> list[str]:
    """`settings_hash` of every run of a config, for thousands of them."""
    return [flat_hash(flat) for flat in flat_runs(config)]


def flat_hash(flat: Mapping[str, Any]) -> str:
    """`settings_hash` of flattened settings."""
    settings = {name: value for name, value in flat.items() if _counts(name, value)}
    if not flat["transfer.source"]:
        settings = {n: v for n, v in settings.items() if not n.startswith("transfer.")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _counts(name: str, value: object) -> bool:
    if name not in SETTINGS:  # a row's: `runs[i].section.name`
        return True
    setting = SETTINGS[name]
    return setting.identity and not (setting.added and value == setting.default)


def config_difference(before: ConfigDict, after: ConfigDict) -> list[str]:
    """One text per differing setting: `data.phi: 3.6 -> 18.0`."""
    old, new = flatten(before), flatten(after)
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name, "absent") != new.get(name, "absent")
    ]
