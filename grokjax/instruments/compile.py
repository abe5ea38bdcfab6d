"""A population's programs compiled for a machine that need not be there, and counted.

`grokjax compile`: whether training, evaluation and the analysis' programs fit the target, what
each computes, moves and launches, and the time that none of it can beat. All are estimates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from grokjax.analysis.effects import patches_within_budget
from grokjax.analysis.logit_lens import lens_program, queries_within_budget
from grokjax.analysis.patching import Patching
from grokjax.analysis.sites import all_sites
from grokjax.base.errors import UserError
from grokjax.data.dataset import stack_datasets
from grokjax.data.loading import load_datasets
from grokjax.instruments.hlo import Counts, Program
from grokjax.instruments.targets import Target, find_target
from grokjax.model import BLOCK_COMPONENTS
from grokjax.settings.rows import expand
from grokjax.training.evaluate import EvaluateConfig
from grokjax.training.mesh import BY_RUN, make_mesh
from grokjax.training.population import make_evaluate, make_train_chunk
from grokjax.training.resolve import (
    check_settings,
    evaluated_model,
    hyperparameters,
    model_config,
    optimizer_config,
)
from grokjax.training.step import TrainConfig, init_run

PROGRAMS = ("training", "evaluation", "lens", "patching")
_PAIRS = 64  # of a patching cell, `grokjax analyze`'s default
_MENDS = "train fewer runs at once, lower train.batch_size, or split batches (train.batch_devices)"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program for one target. Numbers are of one device; `counts` of a whole call."""

    name: str
    target: Target
    num_runs: int
    num_steps: int  # optimiser steps in a training program's call; 1 of any other
    bytes_needed: int
    temporary_bytes: int
    counts: Counts
    text: str
    seconds: float  # that the compiler took

    @property
    def bound(self) -> tuple[float, str]:
        """Seconds of a step that no run on the target can beat, and what sets them."""
        chip, step = self.target.chip, self.counts.per(self.num_steps)
        if chip is None:
            return 0.0, "unknown"
        bounds = {"FLOPs": step.flops / chip.flops, "bytes": self._traffic(step) / chip.bandwidth}
        if chip.is_gpu:
            bounds["kernels"] = step.kernels * chip.launch
        what = max(bounds, key=lambda name: bounds[name])
        return bounds[what], what

    def row(self) -> dict[str, Any]:
        """All numbers, of one step where it has several."""
        step, chip = self.counts.per(self.num_steps), self.target.chip
        seconds, what = self.bound
        return {
            "program": self.name,
            "target": self.target.name,
            "num_devices": len(self.target.devices),
            "num_runs": self.num_runs,
            "num_steps": self.num_steps,
            "bytes_needed": self.bytes_needed,
            "bytes_of_device": chip.memory if chip else 0,
            "temporary_bytes": self.temporary_bytes,
            **{f.name: getattr(step, f.name) for f in dataclasses.fields(step)},
            "collective_bytes": step.collective_bytes,
            "bound_seconds": seconds,
            "bound_by": what,
        }

    def _traffic(self, step: Counts) -> float:
        return step.bytes if self.target.chip and self.target.chip.is_gpu else step.bytes_off_chip


def compile_for(
    config: ConfigDict,
    target: str,
    *,
    num_runs: int | None = None,
    num_devices: int | None = None,
    programs: tuple[str, ...] = PROGRAMS,
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
    found = find_target(target, num_devices)
    check_settings(config)
    abstract = _Abstract(config, found, num_runs)
    for name in programs:
        lower, num_steps = getattr(abstract, name)()
        start = time.perf_counter()
        with _told_in_one_line(name, found):
            compiled = lower().compile()
        seconds = time.perf_counter() - start
        memory, text = compiled.memory_analysis(), compiled.as_text()
        program = Program(text)
        needed = int(
            memory.temp_size_in_bytes
            + memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        )
        if found.chip and needed > found.chip.memory:
            largest = ", ".join(f"{shape} {_gib(size)}" for shape, size in program.largest())
            raise UserError(
                f"{name}: {_gib(needed)} do not fit {found.name}'s {_gib(found.chip.memory)};"
                f" largest: {largest}; {_MENDS}"
            )
        yield Compiled(
            name, found, abstract.num_runs, num_steps, needed, int(memory.temp_size_in_bytes),
            program.counts(), text, seconds,
        )  # fmt: skip


def main(
    config: ConfigDict,
    target: str,
    num_runs: int | None,
    num_devices: int | None,
    dump: str | os.PathLike | None,
) -> None:
    """Prints what each program comes to; with `dump`, writes HLO and counts.json to that folder."""
    folder = None if dump is None else pathlib.Path(dump)
    rows = []
    print("estimates of a compiler, no measurements", flush=True)
    for compiled in compile_for(config, target, num_runs=num_runs, num_devices=num_devices):
        print(describe(compiled), flush=True)
        rows.append(compiled.row())
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{compiled.name}.hlo.txt").write_text(compiled.text)
            (folder / "counts.json").write_text(json.dumps(_counts_file(rows), indent=1) + "\n")


def _counts_file(rows: list[dict[str, Any]]) -> dict[str, Any]:
    steps = next((row["num_steps"] for row in rows if row["program"] == "training"), 1)
    return {"jax": jax.__version__, "num_steps": steps, "programs": rows}


def describe(compiled: Compiled) -> str:
    """A few lines for a terminal."""
    x, step = compiled, compiled.counts.per(compiled.num_steps)
    chip = x.target.chip
    of = f" of {_gib(chip.memory)}" if chip else ""
    each = "an optimiser step" if x.num_steps > 1 else "a call"
    lines = [
        f"{x.name} on {x.target.name}: {x.num_runs} runs, {len(x.target.devices)} devices"
        f" (compiled in {x.seconds:.0f} s); numbers of one device, {each}",
        f"  memory               {_gib(x.bytes_needed)}{of}, {_gib(x.temporary_bytes)} temporary",
        f"  FLOPs                {_si(step.flops)}"
        + f", {_si(step.declared_flops)} declared" * bool(step.declared_flops),
        f"  bytes                {_si(step.bytes)}B, off the chip {_si(step.bytes_off_chip)}B",
        f"  kernels              {step.kernels:,.0f}",
    ]
    if step.cycles:
        lines.append(
            f"  estimated cycles     {_si(step.cycles)}, a run {_si(step.cycles / x.num_runs)}"
        )
    waits = f"{step.unknown_loops:g}, waits for the host {step.host_transfers:g}"
    lines.append(f"  unknown loops        {waits}")
    shapes: dict[str, float] = {}
    for opcode, shape, times in step.collectives:
        shapes[f"{opcode} {shape}"] = shapes.get(f"{opcode} {shape}", 0) + times
    for text, times in sorted(shapes.items(), key=lambda item: -item[1])[:6]:
        lines.append(f"  collective           {times:.3g} x {text}")
    seconds, what = x.bound
    if chip:
        lines.append(f"  at least             {seconds * 1e3:.3g} ms, by {what} (an estimate)")
    return "\n".join(lines)


class _Abstract:
    """A population's programs and the shapes that they take; no array is made on a device."""

    def __init__(self, config: ConfigDict, target: Target, num_runs: int | None):
        runs = expand(config)
        self.num_runs = num_runs or len(runs)
        self._config, self._runs = config, runs
        datasets = load_datasets(runs)
        vocabulary = datasets[0].vocabulary
        self._model = model_config(config, vocabulary.size)
        self._train = TrainConfig(
            self._model,
            config.train.batch_size,
            config.train.loss,
            vocabulary.end_id,
            optimizer_config(config, runs),
        )
        self._evaluate = EvaluateConfig(
            evaluated_model(config, self._model),
            config.evaluate.batch_size,
            vocabulary.end_id,
            config.evaluate.path_stage,
            config.evaluate.path_position,
        )
        self._mesh = self._mesh_on(target)
        self._tables, self._probes = stack_datasets(datasets)

    def training(self) -> tuple[Callable, int]:
        hyper, state = self._state()
        steps = int(self._config.train.chunk_steps)
        chunk: Any = make_train_chunk(self._train, self._mesh, steps)
        return lambda: chunk.lower(state, hyper, self._spread(self._tables)), steps

    def evaluation(self) -> tuple[Callable, int]:
        _, state = self._state()
        raw = self._config.evaluate.raw_weights
        measure: Any = make_evaluate(self._evaluate, self._mesh, raw)
        return lambda: measure.lower(state, self._spread(self._probes)), 1

    def lens(self) -> tuple[Callable, int]:
        c, model = self._config.evaluate, self._evaluate.model
        site = (c.path_stage, c.path_position)
        program: Any = lens_program(model, queries_within_budget(model), site, self._mesh)
        return lambda: program.lower(self._weights(), self._spread(self._probes)), 1

    def patching(self) -> tuple[Callable, int]:
        model = self._evaluate.model
        components = dict.fromkeys(s.component for s in all_sites(model))
        streams = tuple(c for c in components if c not in BLOCK_COMPONENTS)
        patching = Patching(model, streams, patches_within_budget(model, _PAIRS), self._mesh)
        weights = self._weights()
        one_run = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), weights)
        shapes = patching.shapes(one_run, _PAIRS)
        program: Any = patching.program
        return lambda: program.lower(weights, *self._spread(shapes)), 1

    def _mesh_on(self, target: Target) -> Mesh:
        mesh = make_mesh(self.num_runs, self._config.train.batch_devices, target.devices)
        places = mesh.shape["run"]
        self.num_runs = -(-self.num_runs // places) * places
        return mesh

    def _state(self) -> tuple[Any, Any]:
        hyper = hyperparameters(self._runs, self._model.param_dtype)
        seeds = (np.zeros(len(self._runs), np.int32),) * 2

        def first(hyper: Any, init_seed: Any, order_seed: Any) -> Any:
            return init_run(self._train, hyper, init_seed, order_seed)

        state = jax.eval_shape(jax.vmap(first), hyper, *seeds)
        return self._spread(hyper), self._spread(state)

    def _weights(self) -> Any:
        _, state = self._state()
        return state.ema_params, state.buffers

    def _spread(self, tree: Any) -> Any:
        """Shapes with the population's run axis, whole runs to each device."""
        sharding = NamedSharding(self._mesh, BY_RUN)

        def shape(x: Any) -> jax.ShapeDtypeStruct:
            dtype = jax.dtypes.canonicalize_dtype(x.dtype) if not _is_key(x) else x.dtype
            return jax.ShapeDtypeStruct((self.num_runs, *x.shape[1:]), dtype, sharding=sharding)

        return jax.tree.map(shape, tree)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@contextlib.contextmanager
def _told_in_one_line(name: str, target: Target) -> Iterator[None]:
    """A compiler that finds no room says so at length."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", said)
        if "RESOURCE_EXHAUSTED" not in said and not used:
            raise
        sizes = f"{used[1]} of {used[2]}" if used else "too much"
        largest = re.findall(r"Shape: ([a-z0-9]+\[[\d,]*\])", said)[:3]
        named = f"; largest: {', '.join(largest)}" if largest else ""
        raise UserError(
            f"{name}: does not fit {target.name}, {sizes} of memory{named}; {_MENDS}"
        ) from None


def _gib(num: float) -> str:
    return f"{num / 2**30:.2f} GiB"


def _si(num: float) -> str:
    """1.23 M"""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if num >= size:
            return f"{num / size:.3g} {unit}"
    return f"{num:.3g} "
