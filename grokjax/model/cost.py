"""FLOPs and memory of a population, counted before it trains."""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp

from grokjax.base.text import counted, duration
from grokjax.model import ModelConfig, num_parameters


def forward_flops(config: ModelConfig, *, cycles: int | None = None, head: bool = True) -> int:
    """Matrix-product FLOPs of one query's forward pass (a multiply-add counts 2).

    Of a whole model of a file, what the decoder's would be with its settings: who reads a workdir
    does not execute the file.

    Args:
      config: the model.
      cycles: H cycles to count; all when None.
      head: whether to count the output and halting heads.
    """
    s, d = config.length, config.hidden_size
    if config.is_stack:
        layer = 2 * s * d * 12 * d + 2 * 2 * s * s * d
        return config.num_loops * config.num_layers * layer + 2 * s * d * config.vocab_size
    if config.mixer == "mlp":
        mixer = 3 * 2 * s * d * config.inner_size(s)
    else:
        mixer = 4 * 2 * s * d * d + 2 * 2 * s * s * d
    block = mixer + 3 * 2 * s * d * config.inner_size(d)
    levels = (config.H_cycles if cycles is None else cycles) * (config.L_cycles + 1)
    heads = 2 * d * (config.seq_len * config.vocab_size + 2) if head else 0
    return levels * config.num_layers * block + heads


def train_flops(config: ModelConfig) -> int:
    """Of one query's training step: cycles without gradient count forward only."""
    if config.is_stack:
        return 3 * forward_flops(config)
    gradient_cycles = config.gradient_cycles or config.H_cycles
    return forward_flops(config) + 2 * forward_flops(config, cycles=gradient_cycles)


def evaluation_flops(config: ModelConfig) -> int:
    """Of one probe query: every halting step, and the lens on every stage."""
    lens = len(config.evaluation_stages) * 2 * config.hidden_size * config.vocab_size
    return config.halt_max_steps * forward_flops(config) + lens * config.seq_len


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a population will need. Bytes are per machine on CPU and per device elsewhere."""

    num_runs: int
    num_parameters: int
    bytes_needed: int
    bytes_available: int | None
    total_flops: float
    flops_per_second: float

    def __str__(self) -> str:
        memory = f"{self.bytes_needed / 2**30:.2f} GiB"
        if self.bytes_available:
            memory += f" of {self.bytes_available / 2**30:.1f} GiB"
        seconds = self.total_flops / self.flops_per_second
        return (
            f"{counted(self.num_runs, 'run')} x {self.num_parameters:,} parameters, memory"
            f" {memory}; {self.total_flops:.2g} FLOP: at least {duration(seconds)} "
            f"at the {self.flops_per_second / 1e9:,.0f} GFLOP/s that matrix products reach here"
        )


def estimate(
    config: ModelConfig, num_runs: int, num_examples: int, compiled: Any, devices: list
) -> Estimate:
    """Memory from the compiled program; time from FLOPs and a matrix product timed on the spot.

    Args:
      config: the model.
      num_runs: R.
      num_examples: training examples that each run still has to see.
      compiled: the compiled training program.
      devices: that it runs on, of this process; other processes have as many.
    """
    on_cpu = devices[0].platform == "cpu"
    share = len(devices) if on_cpu else 1
    analysis = compiled.memory_analysis()
    needed = 0
    if analysis is not None:
        needed = share * (
            analysis.temp_size_in_bytes
            + analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
        )
    return Estimate(
        num_runs=num_runs,
        num_parameters=num_parameters(config),
        bytes_needed=needed,
        bytes_available=available_bytes(devices[0]),
        total_flops=float(train_flops(config)) * num_examples * num_runs,
        flops_per_second=jax.process_count() * matmul_ceiling(config.dtype, devices),
    )


def matmul_ceiling(dtype: str, devices: list, size: int | None = None) -> float:
    """FLOP/s of large square matrix products, one on each device at once, the best of a few;
    measured once in a process."""
    return _matmul_ceiling(dtype, tuple(devices), size)


@functools.cache
def _matmul_ceiling(dtype: str, devices: tuple, size: int | None) -> float:
    size = size or (1024 if devices[0].platform == "cpu" else 8192)
    inputs = [jax.device_put(jnp.ones((size, size), dtype), device) for device in devices]
    product = jax.jit(jnp.matmul)

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready([product(x, x) for x in inputs])
        return time.perf_counter() - start

    seconds()  # compiles
    return len(devices) * 2 * size**3 / min(seconds() for _ in range(5))


def peak_bytes(device: Any) -> int:
    """Most memory used so far: of the process on a CPU, of one device elsewhere."""
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int((device.memory_stats() or {}).get("peak_bytes_in_use", 0))


def available_bytes(device: Any) -> int | None:
    """Memory of the machine on a CPU, of one device elsewhere; None if it does not say."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None
