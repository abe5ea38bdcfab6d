"""A population's programs compiled for a machine that need not be there, and counted.

`grokjax compile`: whether training, evaluation and the analysis' programs fit the target, what
each computes, moves and launches, and what bound follows. All are estimates, none is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import write_atomically
from grokjax.instruments.counts import Counts, Program
from grokjax.instruments.programs import PROGRAMS, Floor, Lowerable, Programs
from grokjax.instruments.targets import Chip, Target, find_target
from grokjax.settings.declarations import SETTINGS
from grokjax.settings.own_functions import is_stack
from grokjax.training.resolve import check_settings

COUNTS = "counts.json"
_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")


class DoesNotFit(UserError):
    """A program takes more memory than a device of the target has."""

    def __init__(self, told: str, name: str, bytes_needed: int):
        super().__init__(told)
        self.name, self.bytes_needed = name, bytes_needed


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program for one target. Numbers are of one device; `counts` of a whole call."""

    name: str
    target: Target
    num_runs: int
    num_devices: int  # that have work
    num_steps: int  # optimiser steps in a training program's call; 1 of any other
    bytes_needed: int
    temporary_bytes: int
    counts: Counts
    floor: Floor  # of a step
    text: str
    seconds: float  # that the compiler took

    @property
    def bound(self) -> tuple[float, str]:
        """Seconds that the counts of a step come to at the target's peaks, and what sets them."""
        step = self.counts.per(self.num_steps)
        return _slowest(self.target.chip, step.flops, step.bytes_moved, step.kernels)

    @property
    def floor_bound(self) -> tuple[float, str]:
        """The same of the floor of the design."""
        return _slowest(self.target.chip, self.floor.flops, self.floor.bytes)

    def row(self) -> dict[str, Any]:
        """All numbers, of one step where it has several."""
        step, chip = self.counts.per(self.num_steps), self.target.chip
        seconds, what = self.bound
        floor_seconds, floor_what = self.floor_bound
        return {
            "program": self.name,
            "target": self.target.name,
            "fits": True,
            "num_devices": self.num_devices,
            "num_runs": self.num_runs,
            "num_steps": self.num_steps,
            "bytes_needed": self.bytes_needed,
            "bytes_of_device": chip.memory if chip else 0,
            "temporary_bytes": self.temporary_bytes,
            **{f.name: getattr(step, f.name) for f in dataclasses.fields(step)},
            "collective_bytes": step.collective_bytes,
            "largest_gather_bytes": step.largest_gather,
            "bound_seconds": seconds,
            "bound_by": what,
            "floor_flops": self.floor.flops,
            "floor_bytes": self.floor.bytes,
            "floor_seconds": floor_seconds,
            "floor_by": floor_what,
            "compile_seconds": self.seconds,
        }


def compile_for(
    config: ConfigDict,
    target: str,
    *,
    num_runs: int | None = None,
    num_devices: int | None = None,
    programs: Sequence[str] = PROGRAMS,
) -> Iterator[Compiled]:
    """Compiles a population's programs for a target, one after the other.

    Args:
      config: of the population, its rows in `config.runs`.
      target: as `find_target` knows them.
      num_runs: as if the population had that many like its first; default: its own.
      num_devices: the first ones of the target alone.
      programs: of PROGRAMS.

    Raises:
      UserError: bad settings, an unknown target, no compiler for it, or a program that does not
        fit its memory (the largest array and what would help are named).
    """
    for found in _each(config, target, num_runs, num_devices, programs):
        if isinstance(found, DoesNotFit):
            raise found
        yield found


def main(
    config: ConfigDict,
    target: str,
    num_runs: int | None,
    num_devices: int | None,
    dump: str | os.PathLike | None,
    programs: Sequence[str] = PROGRAMS,
) -> None:
    """Prints what each program comes to; with `dump`, writes HLO and counts.json to that folder.

    Raises:
      DoesNotFit: after all others, if one does not.
    """
    folder = None if dump is None else pathlib.Path(dump)
    rows: list[dict[str, Any]] = []
    failed: list[DoesNotFit] = []
    print("estimates of a compiler, no measurements", flush=True)
    for found in _each(config, target, num_runs, num_devices, programs):
        if isinstance(found, DoesNotFit):
            failed.append(found)
            print(found, flush=True)
            told = {"program": found.name, "target": target, "fits": False}
            rows.append(told | {"bytes_needed": found.bytes_needed})
        else:
            print(describe(found), flush=True)
            rows.append(found.row())
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(found, Compiled):
                (folder / f"{found.name}.hlo.txt").write_text(found.text)
            write_atomically(folder / COUNTS, json.dumps(_counts_file(rows), indent=1) + "\n")
    if failed:
        raise failed[0]


def versions() -> dict[str, str]:
    """Of the compilers that are installed."""
    found = {}
    for name in _COMPILERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe(compiled: Compiled) -> str:
    """A few lines for a terminal."""
    x, step = compiled, compiled.counts.per(compiled.num_steps)
    chip = x.target.chip
    of = f" of {_gib(chip.memory)}: fits" if chip else ""
    each = "an optimiser step" if x.num_steps > 1 else "a call"
    floor = x.floor
    lines = [
        f"{x.name} on {x.target.name}: {x.num_runs} runs, {x.num_devices} devices"
        f" (compiled in {x.seconds:.0f} s); numbers of one device, {each}",
        f"  memory               {_gib(x.bytes_needed)}{of}, {_gib(x.temporary_bytes)} temporary",
        f"  FLOPs                {in_units(step.flops)},"
        f" floor of the design {in_units(floor.flops)}",
        f"  bytes                {in_units(step.bytes)}B,"
        f" off the chip {in_units(step.bytes_off_chip)}B,"
        f" slices as such {in_units(step.bytes_moved)}B,"
        f" floor of the design {in_units(floor.bytes)}B",
        f"  {'kernels' if not chip or chip.is_gpu else 'instructions':20s} {step.kernels:,.0f}",
    ]
    if step.custom_kernels:
        lines.append(
            f"  custom kernels       {step.custom_kernels:,.0f}, as they declare:"
            f" {in_units(step.declared_flops)} FLOPs, {in_units(step.declared_bytes)}B"
        )
    if step.cycles:
        a_run = step.cycles * x.num_devices / x.num_runs
        lines.append(f"  estimated cycles     {in_units(step.cycles)}, a run {in_units(a_run)}")
    waits = f"{step.unknown_loops:g}, waits for the host {step.host_transfers:g}"
    lines.append(f"  unknown loops        {waits}")
    shapes: dict[str, float] = {}
    for opcode, shape, times in step.collectives:
        shapes[f"{opcode} {shape}"] = shapes.get(f"{opcode} {shape}", 0) + times
    received = f"{step.num_collectives:.3g}, which bring {in_units(step.collective_bytes)}B"
    lines.append(f"  collectives          {received if shapes else 'none'}")
    for text, times in sorted(shapes.items(), key=lambda item: -item[1]):
        lines.append(f"    {times:.3g} x {text}")
    if chip:
        (seconds, what), (least, least_what) = x.bound, x.floor_bound
        lines.append(
            f"  bound                {seconds * 1e3:.3g} ms, by {what}; floor of the design"
            f" {least * 1e3:.3g} ms, by {least_what} (estimates)"
        )
    return "\n".join(lines)


def _each(
    config: ConfigDict,
    target: str,
    num_runs: int | None,
    num_devices: int | None,
    programs: Sequence[str],
) -> Iterator[Compiled | DoesNotFit]:
    if stranger := [name for name in programs if name not in PROGRAMS]:
        raise UserError(f"--programs={stranger[0]}: unknown; choose of {', '.join(PROGRAMS)}")
    if num_runs is not None and num_runs < 1:
        raise UserError(f"--runs={num_runs}: must be at least 1")
    check_settings(config)
    found = find_target(target, num_devices)
    own = Programs(config, found, num_runs)
    for name in programs:
        try:
            yield _compile(name, getattr(own, name)(), found, config)
        except DoesNotFit as error:
            yield error


def _compile(name: str, program: Lowerable, target: Target, config: ConfigDict) -> Compiled:
    start = time.perf_counter()
    traced = program.trace()
    with _told_in_one_line(name, program, target, config):
        compiled = traced.lower().compile(compiler_options=dict(target.options) or None)
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    is_gpu = bool(target.chip and target.chip.is_gpu)
    read = Program(text, _declared(traced.jaxpr.jaxpr), loops_wait=is_gpu)
    needed = int(
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    if target.chip and needed > target.chip.memory:
        largest = ", ".join(f"{shape} {_gib(size)}" for shape, size in read.largest())
        raise DoesNotFit(
            f"{name}: {_gib(needed)} do not fit {target.name}'s {_gib(target.chip.memory)};"
            f" largest: {largest}; {_mend(name, program, target, config)}",
            name,
            needed,
        )
    return Compiled(
        name, target, program.num_runs, program.num_devices, program.num_steps, needed,
        int(memory.temp_size_in_bytes), read.counts(), program.floor, text, seconds,
    )  # fmt: skip


@contextlib.contextmanager
def _told_in_one_line(
    name: str, program: Lowerable, target: Target, config: ConfigDict
) -> Iterator[None]:
    """A compiler that finds no room, or cannot, says so at length."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+\w) hbm", said)
        if "RESOURCE_EXHAUSTED" not in said and not used:
            if target.chip is None:
                raise
            short = re.sub(r"\s+", " ", said)[:300]
            raise UserError(f"{name}: {target.name}'s compiler gives up ({short})") from None
        sizes = f"{used[1]}{used[2]} of {used[3]}" if used else "too much"
        needed = int(float(used[1]) * 1024 ** (1 + "KMGT".index(used[2]))) if used else 0
        largest = re.findall(r"Shape: ([a-z0-9]+\[[\d,]*\])", said)[:3]
        named = f"; largest: {', '.join(largest)}" if largest else ""
        raise DoesNotFit(
            f"{name}: does not fit {target.name}, {sizes} of memory{named};"
            f" {_mend(name, program, target, config)}",
            name,
            needed,
        ) from None


def _mend(name: str, program: Lowerable, target: Target, config: ConfigDict) -> str:
    """What would make it smaller, by what it is."""
    ways = []
    if program.num_runs > program.num_devices:
        ways.append("fewer runs at once (sweep.runs_per_population)")
    if name == "evaluation":
        ways.append("a smaller evaluate.batch_size")
    if name == "patching":
        ways.append("fewer --pairs of grokjax analyze")
    if name == "training":
        remat, choices = config.model.remat, SETTINGS["model.remat"].allowed
        if not is_stack(config.model.kind) and isinstance(choices, tuple) and remat != choices[-1]:
            ways.append(f"model.remat={choices[-1]}")
        if config.train.batch_devices < len(target.devices):
            ways.append(f"train.batch_devices={len(target.devices)}")
        elif target.chip:
            ways.append("more devices (--target) with train.batch_devices")
        ways.append("a smaller train.batch_size")
    return "try " + " or ".join(ways or ["a smaller model.hidden_size"])


def _declared(jaxpr: Any) -> dict[str, tuple[float, float]]:
    """(FLOPs, bytes) that the custom kernels of a program declare, by the kernel's name."""
    found: dict[str, tuple[float, float]] = {}
    for equation in jaxpr.eqns:
        cost = equation.params.get("cost_estimate")
        if cost is not None:
            name = equation.params.get("name") or equation.params["name_and_src_info"].name
            found[str(name)] = float(cost.flops), float(cost.bytes_accessed)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= _declared(inner)
    return found


def _slowest(
    chip: Chip | None, flops: float, moved: float, kernels: float = 0
) -> tuple[float, str]:
    if chip is None:
        return 0.0, "unknown"
    bounds = {"FLOPs": flops / chip.flops, "bytes": moved / chip.bandwidth}
    if chip.is_gpu and kernels:
        bounds["kernels"] = kernels * chip.launch
    what = max(bounds, key=lambda name: bounds[name])
    return bounds[what], what


def _counts_file(rows: list[dict[str, Any]]) -> dict[str, Any]:
    steps = next((r["num_steps"] for r in rows if r["program"] == "training" and r["fits"]), 1)
    return {"versions": versions(), "num_steps": steps, "programs": rows}


def _gib(num: float) -> str:
    return f"{num / 2**30:.2f} GiB"


def in_units(num: float) -> str:
    """`1.23 M`; a number below 1,000 ends with the space before a unit."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if num >= size:
            return f"{num / size:.3g} {unit}"
    return f"{num:.3g} "
