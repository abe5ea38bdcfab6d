"""Speed, as ratios within one run: `grokjax bench`."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from grokjax.analysis.effects import measure_effects
from grokjax.analysis.logit_lens import logit_lens
from grokjax.analysis.pairs import Pairs, stack_pairs
from grokjax.analysis.patching import DIRECTIONS
from grokjax.analysis.sites import all_sites
from grokjax.base.errors import UserError
from grokjax.data.dataset import make_batch
from grokjax.data.loading import load_dataset
from grokjax.data.vocabulary import PAD
from grokjax.model import ModelConfig, forward, init
from grokjax.model.cost import forward_flops, matmul_ceiling, train_flops
from grokjax.model.lens import top_tokens
from grokjax.runtime.devices import setup_devices
from grokjax.settings import load_experiment
from grokjax.settings.rows import expand
from grokjax.training.mesh import over_runs
from grokjax.training.order import batch_indices
from grokjax.training.population import Population
from grokjax.training.resolve import planned_model
from grokjax.training.step import batch_loss

# Seconds a step of the official PyTorch code with the paper's architecture, batch 512, vocabulary
# 2,207, float32, on 4 quiet threads of a machine like the one that this project is tested on.
OFFICIAL_SECONDS = {64: 2.1, 128: 4.0, 256: 10.4}
# Queries a second of the official lens: one at a time on one quiet thread, as above.
OFFICIAL_LENS = {64: 94.0, 256: 38.0}


def main(only: str | None = None, quick: bool = False) -> None:
    """Prints one line per measurement. `quick` takes fewer repetitions and the small sizes."""
    setup_devices()
    if only is not None and only not in BENCHMARKS:
        raise UserError(f"--only={only}: unknown benchmark; choose of {', '.join(BENCHMARKS)}")
    device = jax.devices()[0]
    print(f"{len(jax.devices())} x {device.device_kind}, jax {jax.__version__}")
    for name in [only] if only else BENCHMARKS:
        print(f"\n{name}: {BENCHMARKS[name].__doc__}", flush=True)
        BENCHMARKS[name](quick)


def bench_quickstart(quick: bool) -> None:
    """the quickstart's step on one device, by part"""
    config = _quickstart()
    population = population_of(config, 1, jax.devices()[:1])
    state = population.init()
    length = 10 if quick else 40
    model = population.train_config.model
    batch_size = config.train.batch_size
    forward = _repeat(population, length, lambda c, s, b: batch_loss(c, s.params, s.buffers, b))

    def gradient(c, s, b):
        return jax.grad(batch_loss, argnums=1)(c, s.params, s.buffers, b)

    backward = _repeat(population, length, gradient)
    program = population.train_program(state, length)
    seconds = {
        "forward": best(lambda: forward(state, population.tables)) / length,
        "forward and backward": best(lambda: backward(state, population.tables)) / length,
        "whole step": _train_seconds(population, program, state) / length,
    }
    for name, value in seconds.items():
        print(f"  {name:22s} {1e3 * value:8.2f} ms")
    ratio = seconds["forward and backward"] / seconds["forward"] - 1
    print(f"  backward / forward     {ratio:8.2f}   (FLOPs say 2)")
    print(f"  forward                {forward_flops(model) * batch_size / 1e9:8.3f} GFLOP")
    rate = train_flops(model) * batch_size / seconds["whole step"]
    print(f"  whole step             {rate / 1e9:8.1f} GFLOP/s")


def bench_population(quick: bool) -> None:
    """cost per member-step on one device and on all, relative to one run alone"""
    sizes = (1, 8) if quick or jax.default_backend() == "cpu" else (1, 8, 64, 256, 1024)
    alone = None
    # Of all devices at work at once: on a CPU they share more than they own.
    ceiling = matmul_ceiling("float32", jax.devices()) / len(jax.devices())
    for devices in dict.fromkeys((1, len(jax.devices()))):
        for num_runs in sizes:
            if num_runs < devices:
                continue
            population = population_of(_quickstart(), num_runs, jax.devices()[:devices])
            length = 10 if quick else 20
            state = population.init()
            program = population.train_program(state, length)
            seconds = _train_seconds(population, program, state) / (length * num_runs)
            alone = alone or seconds
            batch_size = population.train_config.batch_size
            rate = train_flops(population.train_config.model) * batch_size / seconds / devices
            print(
                f"  {num_runs:5d} runs on {devices} devices: {1 / seconds:8.1f} member-steps/s,"
                f" {seconds * devices / alone:5.2f} of one run's device-seconds a member-step,"
                f" {rate / 1e9:.1f} GFLOP/s a device, {rate / ceiling:.2f} of the"
                f" {ceiling / 1e9:.0f} that matrix products reach"
            )


def bench_paper(quick: bool) -> None:
    """the paper's architecture, one run at batch 512 on one device, which takes all cores here"""
    for hidden in (64,) if quick else OFFICIAL_SECONDS:
        config = load_experiment("experiments/paper.py")
        config.runs = ()
        config.model.update({"hidden_size": hidden, "register_size": hidden, "dtype": "float32"})
        config.data.phi = 1.0
        population = population_of(config, 1, jax.devices()[:1])
        state = population.init()
        length = 2  # a program's memory is new, and slow, in its first step
        program = population.train_program(state, length)
        seconds = _train_seconds(population, program, state, 2) / length
        flops = train_flops(population.train_config.model) * config.train.batch_size
        print(
            f"  hidden {hidden:4d}: {seconds:6.2f} s a step,"
            f" {seconds / OFFICIAL_SECONDS[hidden]:.2f} of the official code's"
            f" {OFFICIAL_SECONDS[hidden]} s; {flops / 1e9:.0f} GFLOP,"
            f" {flops / seconds / 1e9:.0f} GFLOP/s, compiled in {population.compile_seconds:.0f} s"
        )


def bench_host(quick: bool) -> None:
    """what the host adds between chunks of the quickstart's length, and compilation"""
    config = _quickstart()
    jax.config.update("jax_enable_compilation_cache", False)
    population = population_of(config, len(jax.devices()), jax.devices())
    state = population.init()
    steps = 20 if quick else config.train.chunk_steps
    population.train_program(state, steps)
    population.evaluate(state)
    print(f"  compiled training and evaluation in {population.compile_seconds:.1f} s")
    jax.config.update("jax_enable_compilation_cache", True)
    two_chunks = population.train_program(state, 2 * steps)
    seconds: dict[str, list[float]] = {"one program": [], "two chunks": []}
    for _ in range(2 if quick else 6):  # in turns, so that a slow moment meets both
        start = time.perf_counter()
        state, metrics = two_chunks(state, population.hyper, population.tables)
        jax.device_get(metrics)
        seconds["one program"].append(time.perf_counter() - start)
        start = time.perf_counter()
        state, first = population.train(state, steps)
        state, second = population.train(state, steps)
        jax.device_get(first)
        jax.device_get(second)
        seconds["two chunks"].append(time.perf_counter() - start)
    whole, chunked = (min(times) for times in seconds.values())
    # One seam in two chunks' time: twice the difference, as a share of both, is a seam a chunk.
    overhead = 2 * (chunked - whole) / whole
    print(f"  host overhead          {100 * overhead:8.2f} % of a {whole / 2:.2f} s chunk")


def bench_lens(quick: bool) -> None:
    """the logit lens, queries per second on one device, and against one query at a time"""
    for name, hidden, official in (
        *(("paper", h, rate) for h, rate in list(OFFICIAL_LENS.items())[: 1 if quick else None]),
        ("quickstart", 0, 0.0),
    ):
        config, weights = analysed(name, hidden)
        read = lens_reader(config)
        num_queries = 256 if name == "paper" else 2048
        queries = jnp.ones((num_queries, 4), jnp.int32)
        rate = num_queries / best(functools.partial(read, *weights, queries), 3)
        line = f"  {name} {config.hidden_size:4d}: {rate:9,.0f} queries/s"
        if official:
            line += f", {rate / official:.1f} of the official code's {official:.0f} on one thread"
        else:
            one = 1 / best(functools.partial(read, *weights, queries[:1]), 20)
            line += f", {rate / one:.0f} times its own of one at a time"
            probes = load_dataset(_quickstart()).probes
            many, alone = (
                1 / best(functools.partial(logit_lens, config, weights, p), 3)
                for p in (probes, jax.tree.map(lambda x: x[:1] if x.ndim else x, probes))
            )
            ratio = many * probes.table.query.shape[0] / alone
            line += f" ({ratio:.0f} times with all of `logit_lens`' tables)"
        print(f"{line}; {forward_flops(config) * rate / 1e9:.1f} GFLOP/s")


def bench_patching(quick: bool) -> None:
    """patched passes per second, all included, against plain evaluation's, on one device"""
    config, weights = analysed("quickstart", 0)
    patched = patched_passes(config, weights, 64, stride=4 if quick else 1)
    batch = make_batch(jnp.ones((256, 4), jnp.int32), PAD)
    plain = jax.jit(lambda params, buffers: forward(config, params, buffers, batch).logits)
    rate = 256 / best(lambda: plain(*weights), 20)
    print(f"  {patched:,.0f} patched passes/s; plain {rate:,.0f}: {patched / rate:.2f}")


BENCHMARKS: dict[str, Callable[[bool], None]] = {
    "quickstart": bench_quickstart,
    "population": bench_population,
    "paper": bench_paper,
    "host": bench_host,
    "lens": bench_lens,
    "patching": bench_patching,
}


def best(function: Callable[[], Any], repetitions: int = 5) -> float:
    """Seconds of the fastest of a few calls, after one that is not counted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def lens_reader(config: ModelConfig) -> Any:
    """Compiled: (params, buffers, queries i32[N, 4]) -> first choices, up to 64 queries at once."""

    def top(params, buffers, queries):
        def some(queries):
            batch = make_batch(queries, PAD)
            return top_tokens(config, params, forward(config, params, buffers, batch).trace)

        return jax.lax.map(some, queries.reshape(-1, min(64, queries.shape[0]), 4))

    return jax.jit(top)


def patched_passes(config: ModelConfig, weights: Any, num_pairs: int, stride: int = 1) -> float:
    """Patched passes a second over every `stride`-th site, both directions, all included."""
    sites = all_sites(config)[::stride]
    rows = np.ones((num_pairs, 5), np.int32)
    rows[:, 0] = np.arange(num_pairs) % 40 + 1
    queries = stack_pairs([Pairs("head", "id", rows, rows)], len(rows))
    one_run = jax.tree.map(lambda x: jnp.asarray(x)[None], (weights, queries))
    seconds = best(lambda: measure_effects(config, *one_run, sites=sites), 3)
    return len(sites) * len(rows) * len(DIRECTIONS) / seconds


def _quickstart() -> ConfigDict:
    return load_experiment("experiments/quickstart.py")


def analysed(name: str, hidden: int) -> tuple[ModelConfig, tuple]:
    """A model to look into, with fresh weights."""
    config = _quickstart()
    if name == "paper":
        config = load_experiment("experiments/paper.py")
        config.model.update({"hidden_size": hidden, "register_size": hidden, "dtype": "float32"})
    model = planned_model(config)
    return model, init(model, jax.random.key(0))


def population_of(config: ConfigDict, num_runs: int, devices: list) -> Population:
    config = config.copy_and_resolve_references()
    config.runs = tuple({"seeds.init": i, "seeds.order": i} for i in range(num_runs))
    runs = expand(config)
    dataset = load_dataset(runs[0])
    return Population(config, runs, [dataset] * num_runs, devices)


def _train_seconds(population: Population, program: Any, state: Any, repetitions: int = 5) -> float:
    """Of one call; the state passes from call to call, as in training."""
    holder = [state]

    def call():
        holder[0], metrics = program(holder[0], population.hyper, population.tables)
        return metrics

    return best(call, repetitions)


def _repeat(population: Population, length: int, function: Callable) -> Callable:
    """A part of the step, scanned over `length` batches so that calls cost nothing."""
    config = population.train_config

    def run(state, table):
        def body(step, _):
            rows = batch_indices(state.key, step, config.batch_size, table.size)
            batch = make_batch(table.query[rows], config.end_id)
            # Tied to the step, or XLA would compute it once for all batches.
            bound = dataclasses.replace(
                state, params=jax.tree.map(lambda p: p + 0.0 * step, state.params)
            )
            result = function(config, bound, batch)
            total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(result))
            return step + 1, total

        return jax.lax.scan(body, jnp.int32(0), length=length)[1]

    return over_runs(run, population.mesh)
