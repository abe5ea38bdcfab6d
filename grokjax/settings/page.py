"""docs/settings.md, made from the declarations: `python -m grokjax.settings.page > FILE`."""

from __future__ import annotations

from grokjax.settings.declarations import SECTIONS, SETTINGS
from grokjax.settings.setting import Setting

_HEAD = """\
# Settings

Made from `grokjax/settings/declarations.py`:
`python -m grokjax.settings.page > docs/settings.md`.

Experiment files start from `default_config()` and change what they study; a command line changes
settings with `--config.SECTION.NAME=VALUE`. `grokjax config FILE` prints what a file resolves to.
Durations are in optimiser steps.

- A *per run* setting may differ between the runs of a population. A *static* one shapes the
  compiled program, or the vocabulary: all runs of a population share it, and `grokjax sweep` trains
  its values in populations of their own.
- A run's identity is the hash of its settings. Those marked *not identity* leave it as it is.
- A setting that is added later, with a default that means what was done before, counts only where
  it is not at that default (*added*): no hash of an older workdir changes.
"""
_COLUMNS = ("setting", "default", "must be", "kind", "what it is")


def page() -> str:
    """The whole page."""
    tables = [_table("", {"name": SETTINGS["name"]})]
    tables += [f"## {name}\n\n" + _table(f"{name}.", own) for name, own in SECTIONS.items()]
    return "\n".join([_HEAD, *tables])


def _table(prefix: str, settings: dict[str, Setting]) -> str:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    for name, setting in settings.items():
        default = repr(setting.default) if setting.default == "" else str(setting.default)
        rows.append(
            (f"`{prefix}{name}`", f"`{default}`", _must_be(setting), _kind(setting), setting.help)
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _must_be(setting: Setting) -> str:
    allowed = setting.allowed
    if isinstance(allowed, tuple):
        named = ", ".join(f"`{choice}`" for choice in allowed if choice)
        own = "`FILE.py:NAME` or `FILE.py`" if setting.whole_file else "`FILE.py:NAME`"
        return named + f", or [{own}](extending.md)" * setting.own_file
    kind = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}
    of_type = kind[type(setting.default)]
    if allowed is None:
        return of_type
    return allowed.wanted if allowed.wanted.startswith("a ") else f"{of_type}, {allowed.wanted}"


def _kind(setting: Setting) -> str:
    marks = ["per run" if setting.traced else "static"]
    marks += [] if setting.identity else ["not identity"]
    marks += ["added"] if setting.added else []
    return ", ".join(marks)


if __name__ == "__main__":
    print(page(), end="")
