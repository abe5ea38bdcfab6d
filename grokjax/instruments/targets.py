"""Machines to compile for, whether they are there or not.

Peaks are the vendors' own, of dense bfloat16 products and of memory; they make bounds, no
predictions. A GPU's description is what its compiler asks for: the limits of a block and a core.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from grokjax.base.errors import UserError
from grokjax.runtime.devices import setup_devices, use_cpu

HERE = "here"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a kind.

    flops: FLOP/s of bfloat16 matrix products. bandwidth: bytes/s of its memory. memory: bytes.
    launch: seconds that a kernel costs at least (GPU). cores, capability, shared_memory, l2: what a
    GPU's compiler asks for.
    """

    flops: float
    bandwidth: float
    memory: int
    launch: float = 0.0
    cores: int = 0
    capability: tuple[int, int] = (0, 0)
    shared_memory: int = 0
    l2: int = 0

    @property
    def is_gpu(self) -> bool:
        return self.cores > 0


LAUNCH = 2.5e-6
_TPUS = {
    "v5e": Chip(197e12, 819e9, 16_911_433_728),
    "v6e": Chip(918e12, 1640e9, 33_554_432_000),
    "v5p": Chip(459e12, 2765e9, 102_803_439_616),
}
_H100 = Chip(
    989e12, 3.35e12, 84_900_000_000, launch=LAUNCH,
    cores=132, capability=(9, 0), shared_memory=232_448, l2=52_428_800,
)  # fmt: skip
_GPUS = {
    "h100": _H100,
    "h200": dataclasses.replace(_H100, bandwidth=4.8e12, memory=150_754_820_096),
    "a100": Chip(
        312e12, 2.04e12, 84_900_000_000, launch=LAUNCH,
        cores=108, capability=(8, 0), shared_memory=166_912, l2=41_943_040,
    ),
}  # fmt: skip
_TOPOLOGIES = {"v5e": "2x2", "v6e": "2x2", "v5p": "2x2x1"}
_TPU_SHAPE, _GPU_SHAPE = r"[1-9]\d*(x[1-9]\d*){1,2}(:[1-9]\d*)?", r"[1-9]\d{0,3}"
NAMES = (*_TPUS, *_GPUS, HERE)


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for; `chip` is None where nothing is known of them (here).

    options: that its compiler gets.
    """

    name: str
    chip: Chip | None
    devices: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def platform(self) -> str:
        return str(self.devices[0].platform)


def find_target(name: str, num_devices: int | None = None) -> Target:
    """A target by its name.

    Args:
      name: a GPU and how many of them (`h200`, `h100:8`); a TPU, its topology and how many slices
        of that (`v5e`, `v5e:4x4`, `v5p:2x2x1:2`; without, one host of four chips); or `here`.
      num_devices: the first ones of it alone; default: all, and one here.

    Raises:
      UserError: no such target or topology, fewer devices than that, or no compiler for it.
    """
    kind, shape = _read(name)
    if num_devices is not None and num_devices < 1:
        raise UserError(f"--devices={num_devices}: must be at least 1")
    if kind == HERE:
        setup_devices()
        devices: Sequence[Any] = jax.devices()
        return Target(name, None, _first(name, devices, num_devices or 1))
    use_cpu()  # nobody waits for a plugin that finds no card
    if kind in _TPUS:
        devices = _tpu_devices(kind, *_slices(kind, shape))
        return Target(name, _TPUS[kind], _first(name, devices, num_devices or len(devices)))
    there = int(shape) if shape else num_devices or 1
    devices = _gpu_devices(kind, there)
    # Without a card there is nothing to try alternatives on.
    options = (("xla_gpu_autotune_level", 0),)
    return Target(name, _GPUS[kind], _first(name, devices, num_devices or there), options)


def machine(name: str) -> tuple[Chip, int]:
    """A target's devices: what they are and how many, without its compiler.

    Raises:
      UserError: there is no such target, or it is this machine.
    """
    kind, shape = _read(name)
    if kind in _GPUS:
        return _GPUS[kind], int(shape or 1)
    if kind == HERE:
        raise UserError(f"--target={name}: plans for another machine; leave it out for this one")
    topology, num_slices = _slices(kind, shape)
    return _TPUS[kind], num_slices * math.prod(map(int, topology.split("x")))


def _read(name: str) -> tuple[str, str]:
    """A target's kind, and what follows it."""
    kind, colon, shape = name.partition(":")
    pattern = _TPU_SHAPE if kind in _TPUS else _GPU_SHAPE
    if kind not in NAMES or (colon and (kind == HERE or not re.fullmatch(pattern, shape))):
        raise UserError(
            f"--target={name}: unknown; give one of {', '.join(NAMES)}, a TPU with its topology"
            " (v5e:2x2, two slices of it: v5e:2x2:2), several GPUs with their number (h100:8)"
        )
    return kind, shape


def _slices(kind: str, shape: str) -> tuple[str, int]:
    """A slice's topology, and how many there are."""
    topology, _, num = (shape or _TOPOLOGIES[kind]).partition(":")
    return topology, int(num or 1)


def _first(name: str, devices: Sequence[Any], num: int) -> tuple[Any, ...]:
    if num > len(devices):
        raise UserError(f"--devices={num}: {name} has {len(devices)}")
    return tuple(devices[:num])


def _tpu_devices(kind: str, topology: str, num_slices: int) -> Sequence[Any]:
    _require("libtpu", "tpu")
    # Before libtpu is loaded: it would look for the machine that it is not on, and let no second
    # process have it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options: dict[str, Any] = {}
    sizes = [int(n) for n in topology.split("x")]
    if math.prod(sizes) < 4:  # part of a host: one chip, say
        options["chips_per_host_bounds"] = (*sizes, 1, 1)[:3]
    if num_slices > 1:
        options["num_slices"] = num_slices
    return _described(f"{kind}:{topology}", "tpu", **options)


def _gpu_devices(kind: str, num_devices: int) -> Sequence[Any]:
    _require("jax_cuda13_plugin", "cuda")
    chip = _GPUS[kind]
    return _described(
        kind, "cuda", target_config=_gpu_config(kind, chip), topology=f"1x1x{num_devices}"
    )


def _described(name: str, platform: str, **options: Any) -> Sequence[Any]:
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(name, platform, **options).devices
    except Exception as error:  # whatever the plugin raises of what it does not know
        said = re.sub(r"\s+", " ", str(error)).strip()[:160]
        raise UserError(f"--target={name}: its compiler does not know it ({said})") from None


def _require(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--target: its compiler is not installed; run pip install 'grokjax[{extra}]'"
        )


def _gpu_config(kind: str, chip: Chip) -> str:
    """A GpuTargetConfigProto in text form."""
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": chip.shared_memory + 1024,
        "threads_per_core_limit": 2048,
        "core_count": chip.cores,
        "fpus_per_core": 128 if chip.capability[0] >= 9 else 64,
        "block_dim_limit_x": 2_147_483_647,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "memory_bandwidth": int(chip.bandwidth),
        "l2_cache_size": chip.l2,
        "clock_rate_ghz": 1.98 if chip.capability[0] >= 9 else 1.41,
        "device_memory_size": chip.memory,
        "shared_memory_per_block_optin": chip.shared_memory,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
    }
    major, minor = chip.capability
    lines = " ".join(f"{name}: {value}" for name, value in info.items())
    return (
        f"gpu_device_info {{ {lines} cuda_compute_capability {{ major: {major} minor: {minor} }} }}"
        ' runtime_version { major: 13 minor: 0 patch: 0 } platform_name: "CUDA"'
        f' dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{kind.upper()}"'
    )
