"""Workdirs with a plan, for tests of launching."""

import json
import os
import socket
import time

from tiny import PYTHONPATH, tiny_config

from grokjax.settings import grid, product, seeds
from grokjax.sweeps.plan import Plan, read_plan, write_plan
from grokjax.sweeps.planner import extend_plan
from launch import status

# Of workers: one run on one device, whatever these tests have.
OWN = {"PYTHONPATH": PYTHONPATH, "JAX_NUM_CPU_DEVICES": "1"}
ENVIRONMENT = os.environ | OWN


def planned(workdir, widths=(16, 32), num_seeds=1, **changes):
    """A sweep's workdir with a plan: a population for each width."""
    rows = list(product(grid("model.hidden_size", widths), seeds(num_seeds)))
    config = tiny_config(**{"train__num_steps": 20, "checkpoint__every": 10} | changes)
    plan = extend_plan(Plan(), config, rows)
    write_plan(workdir, plan)
    return plan


def rows_of(workdir, queue=None):
    return status.survey(workdir, read_plan(workdir), queue or {})


def beat(folder, **changes):
    """A worker's sign of life."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"state": "running", "job": "7_0", "attempt": 0}
    values |= {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "step": 12,
        "rate": 3.5,
        "time": time.time(),
    } | changes
    (folder / "status.json").write_text(json.dumps(values))
