"""Tests run on four virtual CPU devices."""

import csv
import gc
import os
import pathlib
from importlib.metadata import version

# Before JAX starts. Workers share one compilation cache: most tests compile the same programs.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
# Tests compile for longer than they compute. `XLA_FLAGS= pytest` has programs as users have them;
# the second flag is gone from jaxlib 0.11 on.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * (version("jaxlib") < "0.11"),
)

import jax
import jaxtyping
import pytest
import shapes

shapes.check_annotations()

import launching  # noqa: E402
from commands import commit  # noqa: E402
from tiny import ROOT, tiny_config  # noqa: E402

from grokjax.runtime.devices import setup_devices  # noqa: E402

# A disk's own time is no test's: what has to be on it, and when, is asked by counting these calls.
os.fsync = lambda file: None
gc.freeze()  # what is imported stays: collections need not look at it
gc.set_threshold(10_000, 20, 20)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
setup_devices()

DATA = ROOT / "tests" / "data"
PRETRAINING = DATA / "composition.100.40.7.2_factaug_h1ratio1.0_h1k18_h2ratio1.0_h2k18"
FINETUNING = DATA / "composition.100.40.7.2_factaug_h1ratio0.5_h1k9_h2ratio0.5_h2k9_finetuning"


@pytest.fixture
def tiny():
    return tiny_config()


@pytest.fixture
def workdir(tmp_path):
    """A sweep's, planned and not trained."""
    launching.planned(tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def workers_environment(monkeypatch):
    for name, value in launching.OWN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def measured(request):
    """Notes a number, in the table GROKJAX_OPERATIONS_TABLE=FILE.csv if one is asked for."""

    def note(what: str, value: float | str, limit: str = "-") -> None:
        print(f"{what}: {value}")
        if table := os.environ.get("GROKJAX_OPERATIONS_TABLE"):
            is_new = not pathlib.Path(table).exists()
            with open(table, "a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if is_new:
                    writer.writerow(["test", "what", "measured", "limit", "commit"])
                writer.writerow([request.node.name, what, value, limit, commit()])

    return note


@pytest.fixture
def unpainted(monkeypatch):
    """Figures are made and not turned into pixels: for tests of what a page says."""
    monkeypatch.setattr("grokjax.report.style.Picture._drawn", lambda *_, **__: b"no pixels")


@pytest.fixture
def unchecked(monkeypatch):
    """No annotation is checked: what reads others' files and code finds wrong types by itself."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
