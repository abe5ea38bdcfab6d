"""How many runs a machine that need not be there trains at once: its compiler is asked."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import write_atomically
from grokjax.instruments.targets import machine
from grokjax.runtime.interrupt import ended_with_us
from grokjax.settings.config import to_json

# Of a device's memory: JAX takes three quarters of a GPU's, and nearly all of a TPU's.
_SHARE = {True: 0.72, False: 0.92}
_TRIES = 6


def runs_that_fit(
    config: ConfigDict,
    target: str,
    most: int,
    needed: Callable[[ConfigDict, str, int], int] | None = None,
) -> int:
    """Runs of one population that training and evaluation have room for on a target.

    Args:
      config: of the population; `config.runs` has its kinds of rows.
      target: as `machine` knows them.
      most: runs that there are.
      needed: (config, target, runs) -> bytes of a device; default: by compiling both programs.

    Raises:
      UserError: no such target, no compiler for it, or not even one run fits.
    """
    chip, num_devices = machine(target)
    needed = needed or bytes_needed
    share = config.train.batch_devices
    if num_devices % share:
        raise UserError(
            f"train.batch_devices: {share} does not divide the {num_devices} devices of {target}"
        )
    places = num_devices // share
    limit = int(_SHARE[chip.is_gpu] * chip.memory)
    known: dict[int, int] = {}  # bytes by runs of a place

    def takes(runs: int) -> int:
        if runs not in known:
            known[runs] = needed(config, target, runs * places)
            print(
                f"{target}: {runs * places} runs take {known[runs] / 2**30:.2f} of"
                f" {chip.memory / 2**30:.2f} GiB of a device (an estimate)",
                flush=True,
            )
        return known[runs]

    runs = -(-most // places)
    if takes(runs) <= limit:
        return most
    if runs == 1 or takes(1) > limit:
        raise UserError(
            f"sweep.target: one run takes {takes(1) / 2**30:.2f} GiB of a device of {target}, of"
            f" {limit / 2**30:.2f} GiB to give away; grokjax compile --target={target} says what"
            " would help"
        )
    good, bad = 1, runs
    for _ in range(_TRIES):
        # As if each further run took the same; where it takes more, the next try is lower.
        slope = (takes(bad) - takes(good)) / (bad - good)
        guess = good + int((limit - takes(good)) / slope) if slope > 0 else (good + bad) // 2
        guess = min(max(guess, good + 1), bad - 1)
        if guess <= good:
            break
        if takes(guess) <= limit:
            good = guess
            if bad - good <= 0.1 * good:
                break
        else:
            bad = guess
    return good * places


def bytes_needed(config: ConfigDict, target: str, num_runs: int) -> int:
    """What training and evaluation of that many runs take of each device.

    Compiled in a process of its own: the compilers want settings that are no good for training.

    Raises:
      UserError: what the compiler says, if it is not that they do not fit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_atomically(folder / "config.json", json.dumps(to_json(config)))
        compiling = subprocess.Popen(
            [
                *(sys.executable, "-m", "grokjax", "compile"),
                *(f"--config={folder / 'config.json'}", f"--target={target}"),
                *(f"--runs={num_runs}", "--programs=training,evaluation", f"--dump={folder}"),
            ],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with compiling, ended_with_us(compiling):
            _, error = compiling.communicate()
        counts = folder / "counts.json"
        found = json.loads(counts.read_text())["programs"] if counts.exists() else []
    if len(found) < 2:
        said = error.strip().splitlines() or [f"exit code {compiling.returncode}"]
        raise UserError(said[-1].removeprefix("grokjax: error: "))
    memory = machine(target)[0].memory
    # A compiler that finds no room need not say how much it looked for.
    return max(p["bytes_needed"] if p["fits"] else max(p["bytes_needed"], memory) for p in found)
