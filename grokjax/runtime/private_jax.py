"""All that we use of JAX beyond its API, which may go with any release; nobody else may.

`tests/runtime/test_private_jax.py` says which one has gone.
"""

# How JAX finds the processes of a job: their number, this one's, and the coordinator's address.
from jax._src.clusters import GceTpuCluster, GkeTpuCluster, OmpiCluster, SlurmCluster

# Whether settings of devices still have an effect.
from jax._src.xla_bridge import backends_are_initialized

__all__ = [
    "GceTpuCluster",
    "GkeTpuCluster",
    "OmpiCluster",
    "SlurmCluster",
    "backends_are_initialized",
]
