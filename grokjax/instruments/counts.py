"""What a compiled program computes, moves and waits for, counted in its optimised HLO.

XLA's own `cost_analysis` takes a loop's body once and knows nothing of a GPU. Here every
instruction counts as often as it runs: a body times its loop's trips, a branch as the dearest of
its alternatives, a custom kernel by the cost that it declares. All are counts, none is a time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping

from grokjax.instruments.hlo import Computation, Instruction, Shape, read_module, shapes_in

# Names of values, places in a tuple and the like: no kernel, no traffic.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}
_FREE |= {"opt-barrier", "partition-id", "replica-id", "add-dependency"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_HOST = ("infeed", "outfeed", "send", "recv")
_BOOKKEEPING = (
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "ConcatBitcast",
    "GatherScatterIndicesBitpacked",
    "Sharding",
)
_CUSTOM_KERNELS = ("tpu_custom_call", "xla.gpu.triton", "triton_kernel_call", "mosaic_gpu")
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass
class Counts:
    """Of a whole program, on one device.

    flops: of matrix products and convolutions, a multiply-add as 2.
    bytes: operands and results of everything that is no part of a fusion.
    bytes_off_chip: the same without arrays that live in a TPU's vector memory.
    bytes_moved: of these, what is read and written: of an array that is only sliced, or changed in
      a slice, the slice. What stays in a GPU's second-level cache counts too.
    kernels: launches on a GPU; instructions that do something on a TPU.
    cycles: XLA's own estimates, where it makes them (TPU).
    collectives: [(opcode, shape, how often)].
    unknown_loops: how often a loop without a known length is entered.
    host_transfers: how often the program waits for the host, each such loop among them on a GPU.
    custom_kernels: of the kernels those that somebody wrote, which XLA cannot look into.
    declared_flops, declared_bytes: what these declare, in `flops` and in all bytes.
    """

    flops: float = 0
    bytes: float = 0
    bytes_off_chip: float = 0
    bytes_moved: float = 0
    kernels: float = 0
    cycles: float = 0
    unknown_loops: float = 0
    host_transfers: float = 0
    custom_kernels: float = 0
    declared_flops: float = 0
    declared_bytes: float = 0
    collectives: list[tuple[str, str, float]] = dataclasses.field(default_factory=list)

    @property
    def collective_bytes(self) -> float:
        return sum(
            times * sum(s.num_bytes for s in shapes_in(shape))
            for _, shape, times in self.collectives
        )

    @property
    def num_collectives(self) -> float:
        return sum(times for _, _, times in self.collectives)

    @property
    def largest_gather(self) -> int:
        """Bytes of the largest array that a device gathers from others."""
        gathers = [shape for opcode, shape, _ in self.collectives if opcode == "all-gather"]
        return max((sum(s.num_bytes for s in shapes_in(shape)) for shape in gathers), default=0)

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
      declared: (FLOPs, bytes) of custom kernels by name, for those whose text does not tell.
      loops_wait: whether a loop of unknown length asks the host, as it does on a GPU.

    Raises:
      ValueError: it is no such text.
    """

    def __init__(
        self,
        text: str,
        declared: Mapping[str, tuple[float, float]] | None = None,
        *,
        loops_wait: bool = True,
    ):
        self._computations, self._entry = read_module(text)
        self._declared, self._loops_wait = declared or {}, loops_wait
        self._counted: dict[str, Counts] = {}

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

    def _of(self, computation: Computation, x: Instruction) -> Counts:
        """One instruction, and whatever it calls."""
        if x.opcode in _FREE or x.opcode.endswith("-done"):
            return Counts()
        if x.opcode == "while":
            return self._loop(computation, x)
        if x.opcode == "conditional":
            names = x.called("branch_computations", "true_computation", "false_computation")
            return max((self._count(n) for n in names), key=lambda c: (c.flops, c.bytes))
        called = x.called("to_apply", "calls", "called_computations")
        if x.opcode in ("call", "async-start"):
            total = Counts()
            for name in called:
                total.add(self._count(name))
            return total
        own = self._kernel(computation, x)
        if x.opcode == "fusion":
            for name in called:  # of what is inside, all but the traffic and the launches
                inner = self._count(name)
                own.flops += inner.flops
                own.declared_flops += inner.declared_flops
                own.host_transfers += inner.host_transfers
                own.collectives += inner.collectives
        return own

    def _kernel(self, computation: Computation, x: Instruction) -> Counts:
        if x.opcode == "custom-call" and any(f'"{b}"' in x.attributes for b in _BOOKKEEPING):
            return Counts()
        own = Counts(kernels=1, cycles=x.number("estimated_cycles") or 0)
        operands = [computation[name] for name in x.operands if name in computation]
        read = [s for operand in operands for s in operand.shapes]
        arrays = [*read, *x.results]
        own.bytes = sum(s.num_bytes for s in arrays)
        own.bytes_off_chip = sum(s.num_bytes for s in arrays if not s.on_chip)
        own.bytes_moved = self._moved(operands, x)
        if x.opcode == "dot":
            own.flops = _dot_flops(x, read[0])
        elif x.opcode == "convolution":
            own.flops = _convolution_flops(x, read[0], read[1])
        elif x.opcode == "custom-call":
            self._price(own, x)
            if not own.flops and "gemm" in x.attributes:
                own.flops = _dot_flops(x, read[0])
        base = x.opcode.removesuffix("-start")
        if base in _COLLECTIVES:
            own.collectives = [(base, ", ".join(map(str, x.results)), 1)]
        if base in _HOST and "is_host_transfer=false" not in x.attributes:
            own.host_transfers = 1
        return own

    def _price(self, own: Counts, x: Instruction) -> None:
        """A custom kernel by what it declares: inside it nobody can count."""
        if not any(name in x.attributes for name in _CUSTOM_KERNELS):
            return
        own.custom_kernels = 1
        program = re.search(r'flops_of_a_program(?:\\22|"): (?:\\22|")(\d+)', x.attributes)
        if match := re.search(r'"cost_estimate":\s*(\{[^}]*\})', x.attributes):
            cost = json.loads(match[1])
            flops, num_bytes = float(cost.get("flops", 0)), float(cost.get("bytes_accessed", 0))
        elif program:  # of one program of its grid, by the kernel's metadata
            grid = (int(n) for n in re.findall(r"grid_[xyz] = (\d+)", x.attributes))
            flops, num_bytes = float(program[1]) * math.prod(grid), 0.0
        else:
            scopes = re.search(r'op_name="([^"]*)"', x.attributes)
            names = scopes[1].split("/") if scopes else []
            found = [self._declared[name] for name in names if name in self._declared]
            flops, num_bytes = found[-1] if found else (0.0, 0.0)
        own.flops = own.declared_flops = flops
        if num_bytes:
            off_chip = own.bytes_off_chip / own.bytes if own.bytes else 1.0
            own.bytes = own.declared_bytes = num_bytes
            own.bytes_off_chip = own.bytes_moved = num_bytes * off_chip

    def _moved(self, operands: list[Instruction], x: Instruction) -> float:
        """Bytes off the chip that are read and written."""
        whole = [sum(s.num_bytes for s in o.shapes if not s.on_chip) for o in operands]
        written = float(sum(s.num_bytes for s in x.results if not s.on_chip))
        base = x.opcode.removesuffix("-start")
        if base in _SLICES and whole:
            return min(whole[0], sum(s.num_bytes for s in x.results)) + sum(whole[1:]) + written
        if base == "dynamic-update-slice":
            return 2 * whole[1] + sum(whole[2:])
        if x.opcode != "fusion":
            return sum(whole) + written
        (inside,) = (self._computations[name] for name in x.called("calls"))
        users: dict[str, list[Instruction]] = {}
        for y in inside.values():
            for name in y.operands:
                users.setdefault(name, []).append(y)
        read = 0.0
        for y in inside.values():
            if y.opcode == "parameter" and not y.shapes[0].on_chip:
                place = int(y.operands[0])
                most = whole[place] if place < len(whole) else 0
                read += min(_cut_out(y.name, users), most)
        # A result that is its own argument but for a slice: only that is written.
        for y in (y for y in inside.values() if y.shapes):
            is_result = any(str(y.shapes[0]) == str(s) and not s.on_chip for s in x.results)
            if y.opcode == "dynamic-update-slice" and is_result:
                change = inside.get(y.operands[1])
                written -= y.shapes[0].num_bytes
                written += sum(s.num_bytes for s in change.shapes) if change else 0
        return read + max(written, 0.0)

    def _loop(self, computation: Computation, x: Instruction) -> Counts:
        (body,), (condition,) = x.called("body"), x.called("condition")
        trips = x.number("known_trip_count")
        if trips is None:
            trips = self._trips(computation, x, self._computations[condition])
        total = Counts()
        if trips is None:
            total.unknown_loops, trips = 1, 1
            total.host_transfers = int(self._loops_wait)
        for name in (body, condition):
            total.add(self._count(name), trips)
        return total

    def _trips(
        self, computation: Computation, x: Instruction, condition: Computation
    ) -> int | None:
        """Where the condition only compares a counter with a constant (TPU)."""
        instructions = list(condition.values())
        compares = [y for y in instructions if y.opcode == "compare"]
        if len(compares) != 1 or "direction=LT" not in compares[0].attributes:
            return None
        if any(y.opcode in ("reduce", "fusion", "call", "or", "and") for y in instructions):
            return None
        counter, limit = (condition.get(name) for name in compares[0].operands)
        last = _constant(condition, limit)
        if last is None or counter is None or counter.opcode != "get-tuple-element":
            return None
        index = int(re.search(r"index=(\d+)", counter.attributes)[1])  # type: ignore[index]
        given = computation.get(x.operands[0])
        first, step = 0, 1  # what JAX's scans have, where the text does not show it
        if given is not None and given.opcode == "tuple":
            first = _constant(computation, computation.get(given.operands[index])) or 0
        body = self._computations[x.called("body")[0]]
        root = next(y for y in body.values() if y.is_root)
        moved = body.get(root.operands[index]) if root.opcode == "tuple" else None
        if moved is not None and moved.opcode == "add":
            steps = [_constant(body, body.get(name)) for name in moved.operands]
            step = next((s for s in steps if s), 1)
        return max(-(-(last - first) // step), 0)


def _constant(computation: Computation, x: Instruction | None) -> int | None:
    """The whole number that an instruction is, through copies of it."""
    while x is not None and x.opcode in ("copy", "bitcast"):
        x = computation.get(x.operands[0])
    if x is None or x.opcode != "constant" or x.shapes[0].dims != ():
        return None
    return int(x.operands[0]) if x.operands[0].lstrip("-").isdecimal() else None


def _cut_out(name: str, users: Mapping[str, list[Instruction]]) -> float:
    """Bytes of a fusion's argument that it reads: all, unless it takes slices of it alone."""
    total = 0.0
    for y in users.get(name, []):
        if y.opcode == "bitcast":
            total += _cut_out(y.name, users)
        elif y.opcode in _SLICES and y.operands[0] == name:
            total += sum(s.num_bytes for s in y.shapes)
        elif y.opcode != "dynamic-update-slice" or y.operands[0] != name:
            return math.inf
    return total


def _dot_flops(x: Instruction, left: Shape) -> float:
    """2 x results x the contracted dimensions."""
    contracted = math.prod(left.dims[i] for i in x.numbers("lhs_contracting_dim\\w*"))
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
