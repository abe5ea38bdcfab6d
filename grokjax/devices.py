"""What runs before JAX touches its devices."""

from __future__ import annotations

import os
import pathlib

import jax

_CACHE_ENV = "GROKJAX_CACHE"


def setup_devices(num_cpu_devices: int | None = None) -> None:
    """One virtual CPU device per core, and a compilation cache that outlives the process.

    Small models gain nothing from XLA's own threads; a device per core trains as many runs at
    once. Accelerators are not affected. Does nothing once JAX has started, and leaves settings
    alone that the user has made.

    Args:
      num_cpu_devices: instead of one per available core.
    """
    if not _started():
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_cpu_multi_thread_eigen" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in flags
        if num_cpu_devices or not chosen:
            cores = num_cpu_devices or _num_cores()
            jax.config.update("jax_num_cpu_devices", cores)
    _setup_cache()


def setup_precision(dtype: str) -> None:
    """Lets JAX keep doubles, for the rest of the process, if that is the compute dtype."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def _started() -> bool:
    return jax._src.xla_bridge.backends_are_initialized()


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _setup_cache() -> None:
    """Programs compiled once are found again by the next process; never a reason to fail."""
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = pathlib.Path(os.environ.get(_CACHE_ENV, "~/.cache/grokjax/xla")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
