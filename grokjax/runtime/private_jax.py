"""All that we use of JAX beyond its API, which may go with any release; nobody else may.

`tests/runtime/test_private_jax.py` says which one has gone.
"""

# How JAX finds the processes of a job: their number, this one's, and the coordinator's address.
from jax._src.clusters import GceTpuCluster, GkeTpuCluster, OmpiCluster, SlurmCluster

# How a primitive is lowered, to wrap it: the rounded products of tests/support/one_bf16_pass.py.
from jax._src.interpreters.mlir import _platform_specific_lowerings as lowerings

# Whether settings of devices still have an effect.
from jax._src.xla_bridge import backends_are_initialized

__all__ = [
    "GceTpuCluster",
    "GkeTpuCluster",
    "OmpiCluster",
    "SlurmCluster",
    "backends_are_initialized",
    "lowerings",
]
