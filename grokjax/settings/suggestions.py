"""What somebody may have meant by the name of a setting that there is none of."""

from __future__ import annotations

import difflib

from grokjax.settings.declarations import SECTIONS, SETTINGS


def unknown_setting(name: str) -> str:
    """One line that names the nearest setting, if any is near."""
    meant = nearest_setting(name)
    told = f"did you mean '{meant}'?" if meant else "grokjax config FILE lists them all"
    return f"config: unknown setting '{name}'; {told}"


def nearest_setting(name: str) -> str:
    """The setting that is called so elsewhere, or is spelled nearly so; empty if there is none.

    What a name means goes before how it looks: `optimizer.lr` is the learning rate, not `eps`.
    """
    return meant_setting(name) or _spelled_nearly(name)


def meant_setting(name: str) -> str:
    """The setting that others call so; empty if there is none."""
    section, _, last = name.lower().replace("-", "_").rpartition(".")
    sections = difflib.get_close_matches(section, SECTIONS, n=1, cutoff=0.6)
    # In this order: under this name or the bare one, in the same section, then anywhere.
    meant = [
        *(known for known in SETTINGS if name in SETTINGS[known].also.split()),
        *(known for known in _called(last) if known.startswith(f"{section}.")),
        *(f"{s}.{last}" for s in sections if f"{s}.{last}" in SETTINGS),
        *_called(last),
        *(known for known in SETTINGS if section and known.rpartition(".")[2].lower() == last),
    ]
    return meant[0] if meant else ""


def _spelled_nearly(name: str) -> str:
    section, _, last = name.lower().rpartition(".")
    of_name = {known.lower(): known for known in SETTINGS}
    own = [known.lower() for known in SETTINGS if section and known.startswith(f"{section}.")]
    spelled = difflib.get_close_matches(f"{section}.{last}", own, n=1, cutoff=0.8)
    spelled += difflib.get_close_matches(name.lower(), of_name, n=1, cutoff=0.6)
    if spelled:
        return of_name[spelled[0]]
    endings = {known.rpartition(".")[2].lower(): known for known in SETTINGS}
    near = difflib.get_close_matches(last, endings, n=1, cutoff=0.6)
    return endings[near[0]] if near else ""


def _called(last: str) -> list[str]:
    return [known for known, setting in SETTINGS.items() if last in setting.also.split()]
