"""What we use of JAX beyond its API is there, behaves as before, and stands in one file."""

import ast
import importlib
import subprocess
import sys

import jax
import pytest
from tiny import ROOT

from grokjax.runtime import private_jax

FILE = ROOT / "grokjax" / "runtime" / "private_jax.py"
NAMES = [
    (node.module, alias.name)
    for node in ast.parse(FILE.read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]


@pytest.mark.parametrize("module, name", NAMES)
def test_it_is_still_there(module, name):
    assert hasattr(importlib.import_module(module), name), f"JAX {jax.__version__} has no {name}"


def test_clusters_tell_who_takes_part(monkeypatch):
    for cluster in (
        getattr(private_jax, name) for name in private_jax.__all__ if "Cluster" in name
    ):
        assert cluster.is_env_present() is False
        for name in ("process_count", "process_id", "local_process_id", "coordinator_address"):
            assert callable(getattr(cluster, f"get_{name}"))
    for name, value in {"JOB_ID": "7", "NTASKS": "3", "PROCID": "2", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    slurm = private_jax.SlurmCluster
    assert slurm.is_env_present()
    assert (slurm.get_process_count(), slurm.get_process_id()) == (3, 2)
    assert slurm.get_coordinator_address(1, None).startswith("node1:")


def test_backends_start_with_the_first_question():
    code = (
        "import jax; from grokjax.runtime.private_jax import backends_are_initialized as started;"
        "assert not started(); jax.devices(); assert started()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_nobody_else_leans_on_them():
    inside = "jax." + "_src"
    own = [p for folder in ("grokjax", "launch", "experiments", "tests") for p in
           (ROOT / folder).rglob("*.py") if inside in p.read_text()]  # fmt: skip
    assert own == [FILE]
