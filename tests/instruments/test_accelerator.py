"""`grokjax bench --accelerator`: all of it runs here; what goes wrong loses nothing else."""

import importlib.util
import json
import re

import pandas as pd

from grokjax.cli import main
from grokjax.instruments import accelerator
from grokjax.instruments.accelerator import Case, Records

SECTIONS = ["parity", "ceilings", "population", "paper", "analysis", "official"]


def test_it_runs_from_end_to_end(tmp_path):
    assert main(["bench", "--accelerator", "--quick", f"--out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "measured.csv", keep_default_na=False)
    assert list(dict.fromkeys(table.section)) == SECTIONS
    failed = table[table.quantity == "error"]
    if importlib.util.find_spec("torch") is None:
        assert failed.section.tolist() == ["official"] and "torch" in failed.value.iloc[0]
    else:
        assert failed.empty
    assert not (table.quantity == "skipped").any()
    value = table.set_index(["section", "case", "quantity"]).value.sort_index()
    assert value["parity", "a_mlpt_forward", "beyond"] == "none"
    for section, case in (("population", "2 runs"), ("paper", "1 runs, remat none")):
        one = value[section, case].to_dict()
        assert float(one["step"]) > 0 and float(one["member-steps"]) > 0
        ratio = float(one["step"]) / float(one["predicted"])
        assert abs(float(one["measured / predicted"]) / ratio - 1) < 1e-6
        assert float(one["FLOPs, counted"]) > 0 and float(one["unknown loops, counted"]) == 0
    assert float(value["analysis", "lens, quickstart", "queries"]) > 0
    assert json.loads((tmp_path / "machine.json").read_text())["platform"] == "cpu"


def test_what_fails_or_comes_too_late_is_a_row(tmp_path):
    def fails():
        raise RuntimeError("RESOURCE_EXHAUSTED:\n out of memory")

    records = Records(tmp_path, minutes=1)
    records.measure("paper", Case("5 runs", 1, fails))
    records.measure("paper", Case("1 runs", 1, lambda: {"step": (0.5, "s")}))
    records.measure("official", Case("paper", 100, fails))
    table = pd.read_csv(tmp_path / "measured.csv")
    assert table.quantity.tolist() == ["error", "step", "skipped"]
    assert table.value[0] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert re.fullmatch(r"takes about 100 s of \d\d s left", table.value[2])
    assert (records.num_measured, records.num_skipped) == (1, 1)
    # Another call adds to it.
    Records(tmp_path, minutes=1).measure("paper", Case("again", 1, lambda: {"step": (1.5, "s")}))
    assert len(pd.read_csv(tmp_path / "measured.csv")) == 4


def test_a_missing_folder_is_told(capsys):
    assert main(["bench", "--accelerator"]) == 2
    assert "--out: missing" in capsys.readouterr().err


def test_power_is_what_the_driver_says(monkeypatch):
    readings = iter(["50.0", "50.0", "300.0", "300.0", "300.0", "300.0", "[N/A]"])
    monkeypatch.setattr(accelerator, "_asked", lambda fields: next(readings))
    monkeypatch.setattr(accelerator, "_EVERY", 0.0)
    with accelerator._Power() as power:
        power._thread.join()
    assert power.watts == 300.0
