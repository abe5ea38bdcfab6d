"""What runs before JAX touches its devices."""

from __future__ import annotations

import os
import pathlib

import jax

from grokjax.base.errors import UserError
from grokjax.runtime.private_jax import backends_are_initialized
from grokjax.runtime.processes import processes_here

_CACHE_ENV = "GROKJAX_CACHE"


def setup_devices(num_cpu_devices: int | None = None) -> None:
    """One virtual CPU device per core, and a compilation cache that outlives the process.

    Small models gain nothing from XLA's own threads; a device per core trains as many runs at
    once. Processes that share a machine share out its cores. Accelerators are not affected. Does
    nothing once JAX has started, and leaves settings alone that the user has made.

    Args:
      num_cpu_devices: instead of one per available core.
    """
    if not backends_are_initialized():
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_cpu_multi_thread_eigen" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in flags
        if num_cpu_devices or not chosen:
            jax.config.update("jax_num_cpu_devices", num_cpu_devices or _own_cores())
    _setup_cache()


def use_cpu() -> None:
    """This process asks nothing of an accelerator; without effect once JAX has started."""
    jax.config.update("jax_platforms", "cpu")


def require_devices(wanted: str) -> None:
    """Refuses to train on other devices than the job was given.

    Args:
      wanted: `PLATFORM:COUNT`, as JAX names and counts them over all processes; empty: any.

    Raises:
      UserError: JAX sees others; without a plugin for its accelerator it would take the CPU.
    """
    if not wanted:
        return
    setup_devices()
    found = f"{jax.default_backend()}:{jax.device_count()}"
    if found != wanted:
        raise UserError(
            f"devices: the job is to train on {wanted}, JAX sees {found}; check what the job"
            " asks for, and that grokjax is installed with its cuda or tpu extra"
        )


def setup_precision(dtype: str) -> None:
    """Lets JAX keep doubles, for the rest of the process, if that is the compute dtype."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def _own_cores() -> int:
    """Cores that this process may use; those that it was not bound to, it shares."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return max((os.cpu_count() or 1) // processes_here(), 1)
    cores = len(os.sched_getaffinity(0))
    if cores < (os.cpu_count() or cores):
        return cores
    return max(cores // processes_here(), 1)


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
