"""The settings of a run as a config: with their defaults, copied, changed, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.settings.declarations import SECTIONS, SETTINGS
from grokjax.settings.suggestions import unknown_setting

Row = dict[str, Any]


class Settings(ConfigDict):
    """A config, or a section of it, once it is locked: it takes declared names and types alone."""

    def __setitem__(self, key: str, value: Any) -> None:
        if not self.is_locked:
            super().__setitem__(key, value)
            return
        name = self._name(key)
        if key not in self:
            raise UserError(unknown_setting(name))
        if name in SECTIONS:
            raise UserError(f"{name}: a section; set what is in it, config.{name}.update(...)")
        super().__setitem__(key, _of_type(name, self[key], value))

    def __getattr__(self, key: str) -> Any:
        try:
            return super().__getattr__(key)
        except AttributeError:
            if key.startswith("_"):
                raise
            raise AttributeError(unknown_setting(self._name(key))) from None

    def _name(self, key: str) -> str:
        """`section.key`: a section is known by the names that it holds."""
        for section, settings in SECTIONS.items():
            if settings.keys() == set(self):
                return f"{section}.{key}"
        return key


def default_config() -> ConfigDict:
    """The settings of one run. Experiment files start from these and change what they study.

    Returns:
      A locked, type-safe ConfigDict. Durations are in optimiser steps. `runs` holds the differences
      between the runs of this population, a tuple of {setting: value} that the experiment file's
      `sweep(add)` makes; empty: one run with the settings above.
    """
    config = Settings()
    for name, setting in SETTINGS.items():
        section, _, last = name.rpartition(".")
        if section and section not in config:
            config[section] = Settings()
        (config[section] if section else config)[last] = setting.default
    config.runs = ()
    config.lock()
    return config


def set_setting(config: ConfigDict, name: str, value: Any) -> None:
    """Sets `section.name`, whole numbers for fractions allowed.

    Raises:
      UserError: the setting is unknown (the nearest is named) or of another type.
    """
    section, _, last = _known(name).rpartition(".")
    (config[section] if section else config)[last] = value


def check_row(row: Mapping[str, Any]) -> None:
    """Refuses {setting: value} of unknown settings, or of values of another type.

    Raises:
      UserError: there is one.
    """
    for name, value in row.items():
        _of_type(name, SETTINGS[_known(name)].default, value)


def with_settings(config: ConfigDict, row: Mapping[str, Any]) -> ConfigDict:
    """One run of a config, with some of its settings changed."""
    run = config.copy_and_resolve_references()
    run.runs = ()
    for name, value in row.items():
        set_setting(run, name, value)
    return run


def overlaid(flat: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """`flatten(with_settings(config, row))` of a config without rows, from its `flatten`."""
    return {**flat, **{name: _of_type(name, flat[name], value) for name, value in row.items()}}


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{`section.name`: value}; rows appear as `runs[i].section.name`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{name}.{inner}": v for inner, v in flatten(value).items()}
        elif name == "runs":
            for i, row in enumerate(value):
                flat |= {f"runs[{i}].{inner}": v for inner, v in row.items()}
        else:
            flat[name] = value
    return flat


def to_json(config: ConfigDict) -> dict[str, Any]:
    """JSON-ready settings; infinities are written as JSON's readers in Python know them."""
    settings = config.to_dict()
    settings["runs"] = list(rows_of(settings["runs"]))
    return settings


def from_json(settings: Mapping[str, Any]) -> ConfigDict:
    """The config that `to_json` gave, checked against the known settings; others have defaults.

    Raises:
      UserError: a setting is unknown or of another type.
    """
    config = default_config()
    rest = dict(settings)
    rows = rest.pop("runs", ())
    for section, values in rest.items():
        if isinstance(values, Mapping):
            for name, value in values.items():
                set_setting(config, f"{section}.{name}", value)
        else:
            set_setting(config, section, values)
    try:
        config.runs = rows_of(rows)
    except (TypeError, ValueError):
        raise UserError("runs: not a list of {setting: value}") from None
    return config


def rows_of(sequence: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Rows as a config's `runs` holds them."""
    return tuple(dict(row) for row in sequence)


def _known(name: str) -> str:
    if name not in SETTINGS:
        raise UserError(unknown_setting(name))
    return name


def _of_type(name: str, before: Any, value: Any) -> Any:
    """The value as the setting has it.

    Raises:
      UserError: it is of another type.
    """
    if value is None:  # which a ConfigDict takes for anything
        raise UserError(f"{name}: has no value; give one")
    wanted = type(before)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is tuple and isinstance(value, list):
        return tuple(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise UserError(f"{name}: {value!r} is not of type {wanted.__name__}")
    return value
