"""The plan of a sweep: which rows train together, in which populations; append-only.

Rows that differ in traced settings alone share a population; others make further ones, and no
population has more runs than fit. A row that the plan has, by its settings' hash, is not planned
again, so that a sweep can grow: new rows form new populations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.names import FINISHED
from grokjax.base.text import aligned, counted, duration
from grokjax.instruments.fit import runs_that_fit
from grokjax.instruments.targets import machine
from grokjax.model import num_parameters
from grokjax.model.cost import available_bytes, matmul_ceiling, train_flops
from grokjax.runtime.progress import told
from grokjax.settings.config import Row, flatten, with_settings
from grokjax.settings.declarations import SEEDS, TRACED
from grokjax.settings.identity import settings_hash
from grokjax.settings.rows import expand
from grokjax.sweeps.plan import Plan, PlannedPopulation
from grokjax.training.resolve import check_settings, planned_model
from grokjax.workdir.checkpoints import log_spaced_steps

_MOST_RUNS = 1024  # of one population, whatever fits
_MOST_KINDS = 32  # of rows, that a compiler is shown: their data and what their optimiser has
_MEMORY_SHARE = 0.7  # of what there is; the rest is for what an estimate does not see


def extend_plan(plan: Plan, config: ConfigDict, rows: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan with the rows that it lacks, as new populations.

    Populations of rows that are asked for again learn of a larger `train.num_steps`.

    Args:
      plan: as it is.
      config: the settings that rows change.
      rows: {setting: value}, any setting; equal ones are planned once.

    Raises:
      UserError: a row that no population can train, or two that differ in their length alone.
    """
    known = plan.run_hashes
    asked: dict[str, tuple[int, int]] = {}  # by hash: the first such row, and its steps
    by_static: dict[str, list[tuple[ConfigDict, Row, str]]] = {}
    for number, row in enumerate(told(rows or [{}], "rows read")):
        static = {name: value for name, value in row.items() if name not in TRACED}
        traced = {name: value for name, value in row.items() if name in TRACED}
        base = with_settings(config, static)
        base.runs = (traced,)
        run_hash = settings_hash(expand(base)[0])
        if run_hash not in known and run_hash not in asked:
            key = json.dumps(static, sort_keys=True)
            by_static.setdefault(key, []).append((base, traced, run_hash))
        first, steps = asked.setdefault(run_hash, (number, base.train.num_steps))
        if steps != base.train.num_steps:
            raise UserError(
                f"sweep rows {first} and {number}: differ in train.num_steps alone ({steps:,} and"
                f" {base.train.num_steps:,}), and the longer run has all evaluations of the"
                " shorter; leave that one out"
            )
    populations = [_longer(p, asked) for p in plan.populations]
    for members in told(list(by_static.values()), "programs planned"):
        base = members[0][0]
        check_settings(base)
        size = base.sweep.runs_per_population or _suggested(base, [row for _, row, _ in members])
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            own = with_settings(base, {})
            own.runs = tuple(traced for _, traced, _ in chunk)
            check_settings(own)
            name = f"{len(populations):03d}"
            hashes = tuple(h for _, _, h in chunk)
            populations.append(PlannedPopulation(name, own, hashes, checkpoint_bytes(own)))
    return Plan(tuple(populations))


def _longer(
    population: PlannedPopulation, asked: Mapping[str, tuple[int, int]]
) -> PlannedPopulation:
    """The population, as long as the longest of its runs is asked to be."""
    own = [asked[run_hash][1] for run_hash in population.run_hashes if run_hash in asked]
    num_steps = max(own, default=0)
    if num_steps <= population.config.train.num_steps:
        return population
    config = population.config.copy_and_resolve_references()
    config.train.num_steps = num_steps
    return dataclasses.replace(population, config=config, checkpoint_bytes=checkpoint_bytes(config))


def run_bytes(config: ConfigDict) -> int:
    """An estimate of the memory that one run takes: state, data and, where runs are vmapped,
    activations. The worker checks the compiled program before it trains."""
    model = planned_model(config)
    copies = 6 + any(row.get("optimizer.grokfast_lambda", 0) for row in config.runs)
    state = 4 * copies * num_parameters(model)  # weights, average, moments, gradient, update
    facts = config.data.num_entities * config.data.out_degree
    table = 8 * facts * (1 + min(config.data.phi, config.data.out_degree))
    if not config.sweep.target and jax.default_backend() == "cpu":
        return int(state + table)
    levels = (
        model.num_loops
        if model.is_stack
        else (model.gradient_cycles or model.H_cycles) * (model.L_cycles + 1)
    )
    width = 8 * model.hidden_size + 3 * model.inner_size(model.hidden_size)
    states = config.train.batch_size * model.length * width * levels * model.num_layers
    return int(state + table + 4 * states)


def checkpoint_bytes(config: ConfigDict) -> int:
    """An estimate of the disk that a population's checkpoints take by its end.

    Full states (weights, average, moments) to keep and the one being written; weights and average
    of every analysis step.
    """
    c = config.checkpoint
    copies = 4 + any(row.get("optimizer.grokfast_lambda", 0) for row in config.runs)
    steps = log_spaced_steps(
        config.train.num_steps, c.analysis_steps_per_decade, config.train.eval_every
    )
    num_copies = copies * (c.keep + 1) + 2 * len(steps)
    return 4 * num_parameters(planned_model(config)) * max(len(config.runs), 1) * num_copies


def _suggested(config: ConfigDict, rows: Sequence[Row]) -> int:
    """Runs of one population that fit the memory of the machine that will train."""
    if not config.sweep.target:
        return suggest_runs(config)
    kinds = {
        json.dumps({n: v for n, v in row.items() if n not in SEEDS}, sort_keys=True): row
        for row in rows
    }
    own = with_settings(config, {})
    own.runs = tuple(list(kinds.values())[:_MOST_KINDS])
    return runs_that_fit(own, config.sweep.target, min(len(rows), _MOST_RUNS))


def suggest_runs(config: ConfigDict) -> int:
    """Runs of one population that fit this machine's memory, all devices together."""
    device = jax.local_devices()[0]
    available = available_bytes(device) or 2**34
    if device.platform != "cpu":  # there each device has its own
        available *= jax.device_count()
    return int(min(max(_MEMORY_SHARE * available // run_bytes(config), 1), _MOST_RUNS))


def describe_plan(plan: Plan, states: Mapping[str, str]) -> str:
    """A table for a terminal: populations, runs, memory, FLOPs, time.

    Args:
      plan: the plan.
      states: by population, what has become of it.
    """
    header = ("population", "runs", "state", "steps", "memory", "disk", "FLOP", "at least")
    dtype = plan.populations[0].config.model.dtype if plan.populations else "float32"
    target = plan.populations[0].config.sweep.target if plan.populations else ""
    if target:
        chip, num_devices = machine(target)
        rate, whose = num_devices * chip.flops, f"that {target} has by its maker"
    else:
        rate = jax.process_count() * matmul_ceiling(dtype, jax.local_devices())
        whose = "of matrix products here"
    rows, total = [], 0.0
    statics = [_static_settings(p.config) for p in plan.populations]
    varied = {n for s in statics for n in s if len({str(t.get(n)) for t in statics}) > 1}
    both = list(zip(plan.populations, statics, strict=True))
    for population, static in told(both, "populations counted"):
        c, n = population.config, len(population.run_hashes)
        flops = float(train_flops(planned_model(c))) * c.train.batch_size * c.train.num_steps * n
        done = states[population.name] == FINISHED
        total += 0.0 if done else flops
        differs = ", ".join(f"{name}={static[name]}" for name in sorted(varied))
        rows.append(
            (
                population.name,
                f"{n}",
                states[population.name],
                f"{c.train.num_steps:,}",
                f"{n * run_bytes(c) / 2**30:.2f} GiB",
                f"{population.checkpoint_bytes / 2**30:.2f} GiB",
                f"{flops:.1e}",
                "-" if done else duration(flops / rate),
                differs or "-",
            )
        )
    lines = aligned([(*header, "differs in"), *rows])
    num_runs = sum(len(p.run_hashes) for p in plan.populations)
    lines.append(
        f"{counted(len(rows), 'population')}, {counted(num_runs, 'run')}; {total:.1e} FLOP left:"
        " at least"
        f" {duration(total / rate)} at the {rate / 1e9:,.0f} GFLOP/s {whose}"
    )
    return "\n".join(lines)


def _static_settings(config: ConfigDict) -> dict[str, Any]:
    ignored = ("name", "runs", "train.num_steps")
    flat = flatten(config)
    return {
        n: v
        for n, v in flat.items()
        if n not in TRACED and n not in ignored and not n.startswith("runs[")
    }
