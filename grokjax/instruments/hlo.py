"""Optimised HLO read as text: what a compiled program computes, moves and waits for.

XLA's own `cost_analysis` takes a loop's body once and knows nothing of a GPU. Here every
instruction counts as often as it runs: a body times its loop's trips, a branch as the dearest of
its alternatives, a custom call by the cost that it declares. All are counts, none is a time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator, Sequence

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")

# Names of values, places in a tuple and the like: no kernel, no traffic.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}
_FREE |= {"opt-barrier", "partition-id", "replica-id", "add-dependency"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_HOST = ("infeed", "outfeed", "send", "recv")
_BOOKKEEPING = (
    "AllocateBuffer",
    "GatherScatterIndicesBitpacked",
    "Sharding",
    "AssumeGatherIndicesInBound",
)
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


@dataclasses.dataclass
class Counts:
    """Of a whole program, on one device.

    flops: of matrix products and convolutions, a multiply-add as 2.
    bytes: operands and results of everything that is no part of a fusion.
    bytes_off_chip: the same without arrays that live in a TPU's vector memory.
    kernels: launches on a GPU; instructions that do something on a TPU.
    cycles: XLA's own estimates, where it makes them (TPU).
    collectives: [(opcode, shape, how often)].
    unknown_loops: how often a loop without a known length is entered.
    host_transfers: how often the program waits for the host, each such loop among them on a GPU.
    declared_flops: the part of `flops` that custom calls declare, which nobody can check here.
    """

    flops: float = 0
    bytes: float = 0
    bytes_off_chip: float = 0
    kernels: float = 0
    cycles: float = 0
    unknown_loops: float = 0
    host_transfers: float = 0
    declared_flops: float = 0
    collectives: list[tuple[str, str, float]] = dataclasses.field(default_factory=list)

    @property
    def collective_bytes(self) -> float:
        return sum(
            times * sum(s.num_bytes for s in shapes_in(shape))
            for _, shape, times in self.collectives
        )

    def add(self, other: Counts, times: float = 1) -> None:
        for field in dataclasses.fields(self):
            if field.name != "collectives":
                mine = getattr(self, field.name) + times * getattr(other, field.name)
                setattr(self, field.name, mine)
        self.collectives += [(op, shape, n * times) for op, shape, n in other.collectives]

    def per(self, num_steps: int) -> Counts:
        """Of one step of `num_steps`."""
        share = Counts()
        share.add(self, 1 / num_steps)
        return share


class Program:
    """A module of HLO text, scheduled and optimised.

    Args:
      text: `compiled.as_text()`.

    Raises:
      ValueError: it is no such text.
    """

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        self._counted: dict[str, Counts] = {}
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = self._computations.setdefault(match[2], {})
                if match[1]:
                    self._entry = match[2]
            elif line.startswith("}"):
                current = None
            elif current is not None and (instruction := _parse(line)):
                current[instruction.name] = instruction
        if not self._entry:
            raise ValueError("not the text of an HLO module: it has no ENTRY")

    def counts(self) -> Counts:
        """What one call of the program does."""
        return self._count(self._entry)

    def largest(self, num: int = 3) -> list[tuple[str, int]]:
        """The largest results, (type and dimensions, bytes) each, without repeats."""
        sizes = {
            str(s): s.num_bytes
            for computation in self._computations.values()
            for instruction in computation.values()
            for s in instruction.shapes
        }
        return sorted(sizes.items(), key=lambda item: -item[1])[:num]

    def _count(self, name: str) -> Counts:
        if name not in self._counted:
            total = Counts()
            for instruction in self._computations[name].values():
                total.add(self._of(self._computations[name], instruction))
            self._counted[name] = total
        return self._counted[name]

    def _of(self, computation: dict[str, Instruction], x: Instruction) -> Counts:
        """One instruction, and whatever it calls."""
        if x.opcode in _FREE or x.opcode.endswith("-done"):
            return Counts()
        if x.opcode == "while":
            return self._loop(x)
        if x.opcode == "conditional":
            return self._dearest(x)
        called = x.called("to_apply", "calls", "called_computations")
        if x.opcode in ("call", "async-start"):
            total = Counts()
            for name in called:
                total.add(self._count(name))
            return total
        own = self._kernel(computation, x)
        if x.opcode == "fusion":
            for name in called:
                inner = self._count(name)
                own.flops += inner.flops
                own.declared_flops += inner.declared_flops
        return own

    def _kernel(self, computation: dict[str, Instruction], x: Instruction) -> Counts:
        own = Counts(kernels=1, cycles=x.number("estimated_cycles") or 0)
        read = [s for name in x.operands if name in computation for s in computation[name].shapes]
        arrays = [*read, *x.shapes]
        if x.opcode == "custom-call" and any(f'"{b}"' in x.attributes for b in _BOOKKEEPING):
            return Counts()
        own.bytes = sum(s.num_bytes for s in arrays)
        own.bytes_off_chip = sum(s.num_bytes for s in arrays if not s.on_chip)
        if x.opcode == "dot":
            own.flops = _dot_flops(x, read[0])
        elif x.opcode == "convolution":
            own.flops = _convolution_flops(x, read[0], read[1])
        elif x.opcode == "custom-call":
            own.flops = own.declared_flops = _declared_flops(x)
            if not own.flops and "gemm" in x.attributes:
                own.flops = _dot_flops(x, read[0])
        base = x.opcode.removesuffix("-start")
        if base in _COLLECTIVES:
            shape = ", ".join(
                f"{s.dtype}[{','.join(map(str, s.dims))}]" for s in _received(base, x)
            )
            own.collectives = [(base, shape, 1)]
        if base in _HOST and "is_host_transfer=false" not in x.attributes:
            own.host_transfers = 1
        return own

    def _loop(self, x: Instruction) -> Counts:
        (body,), (condition,) = x.called("body"), x.called("condition")
        trips = x.number("known_trip_count")
        trips = self._trips(condition) if trips is None else trips
        total = Counts()
        if trips is None:
            total.unknown_loops = total.host_transfers = trips = 1
        for name in (body, condition):
            total.add(self._count(name), trips)
        return total

    def _trips(self, condition: str) -> int | None:
        """From a condition that only compares a counter from 0 with a constant (TPU)."""
        instructions = list(self._computations[condition].values())
        compares = [x for x in instructions if x.opcode == "compare"]
        limits = [x for x in instructions if x.opcode == "constant" and x.shapes[0].dims == ()]
        if len(compares) != 1 or len(limits) != 1 or "direction=LT" not in compares[0].attributes:
            return None
        if any(x.opcode in ("reduce", "fusion", "call", "or", "and") for x in instructions):
            return None
        return int(limits[0].operands[0]) if limits[0].operands[0].isdecimal() else None

    def _dearest(self, x: Instruction) -> Counts:
        names = x.called("branch_computations", "true_computation", "false_computation")
        return max((self._count(n) for n in names), key=lambda c: (c.flops, c.bytes))


def shapes_in(text: str) -> tuple[Shape, ...]:
    """The arrays that a type names."""
    return tuple(
        Shape(dtype, tuple(int(d) for d in dims.split(",") if d), _ON_CHIP in (layout or ""))
        for dtype, dims, layout in _SHAPE.findall(text)
    )


def _parse(line: str) -> Instruction | None:
    left, equals, right = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals or not left.startswith("%"):
        return None
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    kind, rest = right[:end], right[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : close]
    operands = tuple(_NAME.findall(inside)) or (inside.strip(),)
    return Instruction(left[1:], shapes_in(kind), opcode, operands, rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"unbalanced: {text[:80]}")


def _numbers(text: str, name: str) -> list[int]:
    match = re.search(rf'"?{name}"?[=:]\s*[\{{\[]([0-9", ]*)[\}}\]]', text)
    return [int(n) for n in re.findall(r"\d+", match[1])] if match else []


def _dot_flops(x: Instruction, left: Shape) -> float:
    """2 x results x the contracted dimensions."""
    contracted = math.prod(left.dims[i] for i in _numbers(x.attributes, "lhs_contracting_dim\\w*"))
    return 2.0 * math.prod(x.shapes[0].dims) * contracted


def _convolution_flops(x: Instruction, left: Shape, right: Shape) -> float:
    """2 x the products that meet no padding: a TPU writes batched products as convolutions."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
    assert labels is not None, x.attributes
    inputs, kernel, output = labels.groups()
    pairs = 1
    for d in [c for c in kernel if c.isdecimal()]:
        window = _Window.of(x.attributes, int(d))
        pairs *= window.products(left.dims[inputs.index(d)], x.shapes[0].dims[output.index(d)])
    out = x.shapes[0].dims
    channels = right.dims[kernel.index("i")]
    return 2.0 * pairs * out[output.index("b")] * out[output.index("f")] * channels


@dataclasses.dataclass(frozen=True)
class _Window:
    """How a convolution slides along one spatial dimension."""

    size: int = 1
    stride: int = 1
    pad: int = 0
    lhs_dilate: int = 1
    rhs_dilate: int = 1

    @classmethod
    def of(cls, attributes: str, dimension: int) -> _Window:
        match = re.search(r"window=\{([^}]*)\}", attributes)
        if not match:
            return cls()
        given = dict(part.split("=") for part in match[1].split())
        own = {name: given[name].split("x")[dimension] for name in given}
        own["pad"] = own.get("pad", "0_0").split("_")[0]
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: int(value) for name, value in own.items() if name in names})

    @functools.cache  # noqa: B019
    def products(self, num_inputs: int, num_outputs: int) -> int:
        """Pairs of an output and a place of the kernel that meet an input."""
        last = (num_inputs - 1) * self.lhs_dilate
        return sum(
            0 <= (at := o * self.stride + k * self.rhs_dilate - self.pad) <= last
            and at % self.lhs_dilate == 0
            for o in range(num_outputs)
            for k in range(self.size)
        )


def _declared_flops(x: Instruction) -> float:
    match = re.search(r'"cost_estimate":\s*(\{[^}]*\})', x.attributes)
    if match:
        return float(json.loads(match[1]).get("flops", 0))
    # Of Triton's kernels XLA knows no cost; ours say what each program of their grid computes.
    quote = r'(?:\\22|")'
    match = re.search(rf"flops_of_a_program{quote}: {quote}(\d+)", x.attributes)
    grid = (int(n) for n in re.findall(r"grid_[xyz] = (\d+)", x.attributes))
    return float(match[1]) * math.prod(grid) if match else 0.0


def _received(opcode: str, x: Instruction) -> Sequence[Shape]:
    """The arrays that arrive: of an asynchronous collective the second half of its tuple."""
    if x.opcode == opcode or len(x.shapes) < 2:
        return x.shapes
    return x.shapes[len(x.shapes) // 2 :][:1]


def instructions(program: Program) -> Iterator[tuple[str, Instruction]]:
    """(computation, instruction) of a program, for tests and tables."""
    for name, computation in program._computations.items():
        for instruction in computation.values():
            yield name, instruction
