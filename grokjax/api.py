"""docs/api.md, made from the docstrings of the public names: `python -m grokjax.api > FILE`."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

_HEAD = """\
# The API

Made from docstrings: `python -m grokjax.api > docs/api.md`. Other names may change without notice.
Settings have [a page of their own](settings.md), functions of your own [another](extending.md).
"""
_LONG = 120  # letters of a parameter with its annotation and default
_ROOMS = ("grokjax", "grokjax.settings", "grokjax.analysis")
# What functions of one's own are written with: docs/extending.md.
_PARTS = {
    "grokjax.data.task": (
        "GENERALISATION", "HELD_OUT", "OTHER", "TRAINED", "Hidden", "ProbeType", "Task",
    ),
    "grokjax.data.queries": ("dataset_of", "vocabulary_of"),
    "grokjax.model.layers": ("SwiGLU", "rms_norm", "untapped"),
}  # fmt: skip


class _Omitted:
    """A default that is too long to be shown."""

    def __repr__(self) -> str:
        return "..."


def page() -> str:
    """The whole page."""
    parts, told = [_HEAD], set()
    for room in (*_ROOMS, *_PARTS):
        module = importlib.import_module(room)
        new = [n for n in _PARTS.get(room) or sorted(module.__all__) if n not in told]
        told |= set(new)
        parts.append(f"## `{room}`\n\n{_text(module.__doc__)}\n")
        parts += [_entry(name, getattr(module, name)) for name in new]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return "\n".join(_class(name, value))
    if callable(value):
        return f"### `{name}{_signature(value)}`\n\n{_text(value.__doc__)}\n"
    return f"### `{name}`\n\n`{value!r}`\n"


def _class(name: str, value: type) -> Iterator[str]:
    doc = value.__doc__ or ""
    if doc.startswith(f"{name}("):  # a dataclass without one of its own
        doc = ""
    yield f"### class `{name}`\n\n{_text(doc)}\n"
    for member, own in inspect.getmembers(value):
        if member.startswith("_") or not _is_ours(value, member) or not _is_told(own):
            continue
        docs = (vars(base)[member].__doc__ for base in value.__mro__ if member in vars(base))
        doc = _text(next(filter(None, docs), ""))
        if not doc:
            continue
        signature = _signature(own) if inspect.isfunction(own) else ""
        yield f"#### `{name}.{member}{signature}`\n\n{doc}\n"


def _is_told(member: Any) -> bool:
    """Fields with defaults are not: what they are their class says."""
    return inspect.isroutine(member) or isinstance(member, (property, functools.cached_property))


def _is_ours(value: type, member: str) -> bool:
    owner = next(base for base in value.__mro__ if member in vars(base))
    return owner.__module__.startswith("grokjax")


def _signature(function: Any) -> str:
    """Without annotations, which the text explains."""
    signature = inspect.signature(function)
    plain = [
        p.replace(annotation=p.empty, default=p.default if len(str(p)) < _LONG else _Omitted())
        for p in signature.parameters.values()
    ]
    plain = [p for p in plain if p.name != "self"]
    text = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    return re.sub(r"<function [^>]*>", "...", re.sub(r" at 0x[0-9a-f]+", "", text))


def _text(doc: str | None) -> str:
    """A docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    section = False
    for line in inspect.cleandoc(doc or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes):", line):
            lines += [f"*{line[:-1]}*", ""]
            section = True
        elif section and re.match(r"  \S", line):
            is_item = re.match(r"  [\w, *]+: ", line) is not None
            lines.append(("- " if is_item else "") + line.strip())
        elif section and line.startswith("   "):
            lines[-1] += " " + line.strip()
        else:
            section = section and not line
            lines.append(line)
    return "\n".join(lines).strip()


if __name__ == "__main__":
    print(page(), end="")
