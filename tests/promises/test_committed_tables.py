"""The committed tables of runs: who each run is, and what became of it."""

import pandas as pd
import pytest
from tiny import ROOT

RESULTS = ROOT / "experiments" / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/runs.csv"))
TEXTS = {"run_hash": str, "population": str}


def tables_of_runs(folder):
    """Those with a row per run, by name."""
    paths = [path for path in (RESULTS / folder).glob("*.csv") if path.stem in ("runs", "outcomes")]
    return {path.stem: pd.read_csv(path, dtype=TEXTS) for path in paths}


@pytest.mark.parametrize("folder", FOLDERS)
def test_runs_are_gathered_by_hash_and_numbered_alike(folder):
    tables = tables_of_runs(folder)
    runs = tables.pop("runs").set_index("run_hash")
    assert runs.index.is_unique and runs.run_id.tolist() == list(range(len(runs)))
    assert runs.regime.notna().all()
    for name, table in tables.items():
        assert {"run_hash", "regime", "run_id"} <= set(table), name
        own = runs.loc[table.run_hash]
        for column in ("run_id", "regime"):
            assert own[column].tolist() == table[column].tolist(), (name, column)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_plan_and_its_runs_are_numbered_alike(folder):
    path = RESULTS / folder / "plan.json"
    if not path.exists():
        return
    plan = pd.read_json(path, typ="series").populations
    hashes = [run_hash for population in plan for run_hash in population["run_hashes"]]
    runs = tables_of_runs(folder)["runs"]
    assert runs.run_hash.tolist() == hashes
    of = [population["name"] for population in plan for _ in population["run_hashes"]]
    assert runs.population.tolist() == of


def test_nothing_that_was_stopped_is_running():
    for path in RESULTS.rglob("*.csv"):
        table = pd.read_csv(path, low_memory=False)
        if "status" in table:
            assert "running" not in set(table.status), path


def test_the_sources_of_a_finetuning_are_named_by_hash():
    sources = pd.read_csv(RESULTS / "transfer" / "sources.csv", dtype=TEXTS)
    runs = pd.read_csv(RESULTS / "transfer" / "runs.csv", dtype=str)
    named = sources.dropna(subset=["step"]).groupby("run_id").run_hash.agg(set)
    for run_id, own in runs.groupby("transfer.run_id")["transfer.run_hash"]:
        assert set(own) <= named[int(run_id)]
