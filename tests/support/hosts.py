"""A training as several processes of this machine, as a cluster starts it on several hosts.

`python tests/support/hosts.py OUT.csv` measures how far divisions of the same population over
processes and virtual devices agree. Devices of one machine share its cores: speed is not what this
can measure.
"""

import csv
import hashlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from commands import commit
from tiny import PYTHONPATH, ROOT, tiny_config

import grokjax
from grokjax.data.loading import load_datasets
from grokjax.settings import load_experiment
from grokjax.settings.rows import expand
from grokjax.training.population import Population
from grokjax.workdir.checkpoints import Checkpoints

# (processes, devices of each, devices of a batch, threads that XLA compiles for), of 8 runs.
DIVISIONS = (
    (1, 8, 1, 8), (2, 4, 1, 8), (4, 2, 1, 8), (8, 1, 1, 8),
    (1, 4, 1, 8), (2, 3, 1, 8), (4, 1, 1, 8), (1, 2, 1, 8), (2, 1, 1, 8), (1, 1, 1, 8),
    (1, 8, 2, 8), (4, 2, 2, 8), (2, 4, 8, 8), (1, 4, 1, 4), (2, 2, 1, 4),
)  # fmt: skip


def get_config(argument):
    if argument.startswith("tiny"):
        return tiny_config()
    config = load_experiment(str(ROOT / "experiments" / "quickstart.py"))
    config.runs = ()
    config.train.update({"num_steps": 20, "eval_every": 10, "chunk_steps": 10})
    return config


def sweep(add, argument):
    for i in range(int(argument.partition("-")[2])):
        regime = ("natural", "both_hop_full")[i % 2]
        add({"data.regime": regime, **{f"seeds.{kind}": i for kind in ("data", "init", "order")}})


def population_of(num_runs, kind="tiny"):
    """As an argument: a tiny model's, or the quickstart's for 20 steps."""
    return f"--config={__file__}:{kind}-{num_runs}"


def start(workdir, num_processes, num_devices, *arguments, command="train", num_threads=8, **env):
    """The processes, process 0 first; what they print goes to `workdir`.ID.log.

    XLA makes other CPU programs for another number of threads, which is otherwise the number of
    cores, or of devices if that is more: here it is the same however devices are divided.
    `env` adds to the processes' environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "NPROC": str(num_threads),
        "PYTHONPATH": PYTHONPATH,
    }
    processes = []
    for i in range(num_processes):
        options = [f"--workdir={workdir}", *arguments]
        if num_processes > 1:
            options += [f"--coordinator=127.0.0.1:{port}", f"--num-processes={num_processes}"]
            options += [f"--process-id={i}"]
        with open(f"{workdir}.{i}.log", "a") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "grokjax", command, *options],
                    env=os.environ | own | env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def wait(processes, timeout=400):
    """Exit codes; whoever is left after `timeout` seconds is killed, and that is an error."""
    deadline = time.monotonic() + timeout
    try:
        return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()


def train(workdir, num_processes, num_devices, *arguments, **options):
    codes = wait(start(workdir, num_processes, num_devices, *arguments, **options))
    assert codes == [0] * num_processes, log_of(workdir)[-2000:]


def log_of(workdir, process_id=0):
    """What a process has printed, those before it in the same workdir too."""
    return pathlib.Path(f"{workdir}.{process_id}.log").read_text()


def wait_for_step(workdir, step, processes):
    """Until the curves have come to `step`."""
    path = pathlib.Path(workdir) / "curves.csv"

    def reached():
        lines = path.read_text().splitlines() if path.exists() else []
        return len(lines) > 1 and int(lines[-1].split(",")[1] or 0) >= step

    wait_until(reached, processes)


def wait_until(condition, processes):
    deadline = time.monotonic() + 240
    while not condition():
        assert all(process.poll() is None for process in processes), "a process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def final_state(workdir):
    """(step, everything in the newest state), as one process reads it."""
    config = grokjax.load(workdir).config
    config.train.batch_devices = 1
    runs = expand(config)
    population = Population(config, runs, load_datasets(runs), jax.devices()[:1])
    with Checkpoints(pathlib.Path(workdir) / "checkpoints") as saved:
        step, state = saved.restore_latest(population.abstract_state())
    return step, [
        np.asarray(jax.random.key_data(x))
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else np.asarray(x)
        for x in jax.tree.leaves(state)
    ]


def difference(a, b):
    """The largest difference of two states' numbers, relative to the largest of their array."""

    def of_one(x, y):
        largest = np.abs(y).max(initial=0)
        return float(np.abs(x - y).max(initial=0) / largest) if largest else float(np.any(x != y))

    floating = [(x, y) for x, y in zip(a, b, strict=True) if np.issubdtype(x.dtype, np.floating)]
    return max(of_one(x, y) for x, y in floating)


def identical(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def digest(state):
    return hashlib.sha256(b"".join(x.tobytes() for x in state)).hexdigest()[:16]


def compare_divisions(folder, divisions, *arguments):
    """A row for each division of a population, against the first one; programs are users' own."""
    rows, expected = [], None
    for num_processes, num_devices, batch_devices, num_threads in divisions:
        workdir = pathlib.Path(folder) / f"{len(rows)}"
        options = [*arguments, f"--config.train.batch_devices={batch_devices}"]
        train(workdir, num_processes, num_devices, *options, num_threads=num_threads, XLA_FLAGS="")
        step, state = final_state(workdir)
        curves = (workdir / "curves.csv").read_bytes()
        if expected is None:
            expected = state, curves
        places = num_processes * num_devices // batch_devices
        num_runs = len(state[0])
        rows.append(
            {
                "processes": num_processes,
                "devices_each": num_devices,
                "batch_devices": batch_devices,
                "threads": num_threads,
                "runs": num_runs,
                "runs_per_device": -(-num_runs // places),
                "steps": step,
                "state_sha256": digest(state),
                "state_identical": identical(state, expected[0]),
                "curves_identical": curves == expected[1],
                "largest_difference": difference(state, expected[0]),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main(out):
    with tempfile.TemporaryDirectory() as folder:
        rows = compare_divisions(folder, DIVISIONS, population_of(8, "quickstart"))
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "commit"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"commit": commit()} for row in rows)


if __name__ == "__main__":
    main(sys.argv[1])
