"""Optimised HLO as text, read: computations of instructions, with their arrays and attributes."""

from __future__ import annotations

import dataclasses
import math
import re

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ON_CHIP = "S(1)"  # a layout's memory space: a TPU's vector memory


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of an instruction: element type, dimensions, whether it lives on the chip."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"

    @property
    def num_bytes(self) -> int:
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.sub(r"^[a-z]+", "", self.dtype.split("e")[0]) or 8)
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    shapes: tuple[Shape, ...]  # of the result; several for a tuple
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool = False

    def called(self, *names: str) -> list[str]:
        """Computations that an attribute of one of these names refers to."""
        found: list[str] = []
        for name in names:
            match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
            if match:
                found += _NAME.findall(match[1])
        return found

    def number(self, name: str) -> int | None:
        """A number that the backend has noted, `"name":"123"` or `"name":{"n":"123"}`."""
        match = re.search(rf'"{name}":\s*(?:\{{"n":\s*)?"?(\d+)', self.attributes)
        return int(match[1]) if match else None

    def numbers(self, name: str) -> list[int]:
        """A list of them: `name={0,1}` or `"name":["0","1"]`; empty if there is none."""
        match = re.search(rf'"?{name}"?[=:]\s*[\{{\[]([0-9", ]*)[\}}\]]', self.attributes)
        return [int(n) for n in re.findall(r"\d+", match[1])] if match else []

    @property
    def results(self) -> tuple[Shape, ...]:
        """The arrays that it makes: of an asynchronous start not what it was given."""
        if not self.opcode.endswith("-start") or len(self.shapes) < 2:
            return self.shapes
        if self.opcode == "copy-start":  # (destination, source, context)
            return self.shapes[:1]
        return self.shapes[len(self.operands) :][:1] or self.shapes[-1:]


Computation = dict[str, Instruction]


def read_module(text: str) -> tuple[dict[str, Computation], str]:
    """All computations of a module by name, and the name of the one that is its entry.

    Raises:
      ValueError: it is no text of a module.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    current: Computation | None = None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], {})
            if match[1]:
                entry = match[2]
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _parse(line)):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("not the text of an HLO module: it has no ENTRY")
    return computations, entry


def shapes_in(text: str) -> tuple[Shape, ...]:
    """The arrays that a type names."""
    return tuple(
        Shape(dtype, tuple(int(d) for d in dims.split(",") if d), _ON_CHIP in (layout or ""))
        for dtype, dims, layout in _SHAPE.findall(text)
    )


def _parse(line: str) -> Instruction | None:
    line = line.strip()
    left, equals, right = line.removeprefix("ROOT ").partition(" = ")
    if not equals or not left.startswith("%"):
        return None
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    kind, rest = right[:end], right[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : close]
    operands = tuple(_NAME.findall(inside)) or (inside.strip(),)
    is_root = line.startswith("ROOT ")
    return Instruction(left[1:], shapes_in(kind), opcode, operands, rest[close + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"unbalanced: {text[:80]}")
