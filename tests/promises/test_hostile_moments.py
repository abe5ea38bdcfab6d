"""Kills, hang-ups, stalls and races of whole commands; each ends as one that nothing disturbed.

`tests/support/hostile_trials.py` does it; its counts: experiments/results/operations.
"""

import subprocess
import sys

import hostile_trials
import pandas as pd
import pytest
from tiny import ROOT

SHORT = ("together", "clock")
DISK = ("stall", "refuse")


def may_mount():
    """Whether mount namespaces may be made, which takes the same right."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


def tried(kinds, trials, folder):
    script, out = ROOT / "tests" / "support" / "hostile_trials.py", folder / "trials.csv"
    command = [sys.executable, str(script), *kinds, f"--trials={trials}", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return pd.read_csv(out)


def test_one_of_each_short_kind(tmp_path):
    table = tried(SHORT, 1, tmp_path)
    assert table.kind.tolist() == list(SHORT)


@pytest.mark.kill
@pytest.mark.parametrize("kind", hostile_trials.KINDS)
def test_five_of_each_kind(kind, tmp_path):
    if kind in DISK and not may_mount():
        pytest.skip("mounting is not allowed here")
    table = tried([kind], 5, tmp_path)
    assert len(table) == 5 and table.events.sum() > 0
