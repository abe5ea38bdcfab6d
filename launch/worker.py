"""What a job runs: preflight on the machine it has been given, then one population."""

from __future__ import annotations

import os
import pathlib
import sys

from grokjax.base.errors import UserError
from grokjax.runtime.interrupt import withheld
from grokjax.sweeps.plan import note_failure, population_folder, require_plan
from launch.preflight import check_disk, check_workdir


def run(workdir: pathlib.Path, population: str, devices: str, experiment: str = "") -> None:
    """Becomes `grokjax sweep --population`: this process is then the one that gets the signals.

    An experiment is for the files of the user's own that it names.

    Raises:
      UserError: what preflight has found; it is also left in the row's `error.txt`.
    """
    check_workdir(workdir)
    planned = require_plan(workdir).population(population)
    try:
        check_disk(workdir, [planned])
    except UserError as error:
        note_failure(population_folder(workdir, population), f"{error}\n")
        raise
    command = [
        *(sys.executable, "-m", "grokjax", "sweep"),
        *(f"--workdir={workdir}", f"--population={population}", f"--devices={devices}"),
        *([f"--config={experiment}"] if experiment else []),
    ]
    with withheld():  # between this program and that one nobody would answer
        os.execv(sys.executable, command)
