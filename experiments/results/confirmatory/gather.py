"""Puts the runs of a reported sweep into `outcomes.csv`, by run_hash: a row each, the longer kept.

    grokjax report runs/confirmatory
    python experiments/results/confirmatory/gather.py runs/confirmatory

Columns are those of the report's `outcomes.csv` (docs/tables.md), with what the units differ in.
Beside it the report's `costs.csv` and `comparisons.csv`, if the sweep has all runs gathered so far.
"""

import pathlib
import shutil
import sys

import pandas as pd

import grokjax
from grokjax.settings.config import flatten

TABLE = pathlib.Path(__file__).parent / "outcomes.csv"
UNIT = ("data.phi", "data.hop2_ratio", "data.hop2_k", "train.num_steps")


def main(workdir: str) -> None:
    new = pd.read_csv(pathlib.Path(workdir) / "outcomes.csv")
    settings = {}
    for population in grokjax.load(workdir).populations().values():
        for run in population.runs.itertuples():
            flat = flatten(population.run_configs[run.run_id])
            settings[run.run_hash] = {name: flat[name] for name in UNIT}
    units = pd.DataFrame([settings[run_hash] for run_hash in new.run_hash], columns=UNIT)
    new = pd.concat([new[["run_hash"]], units, new.drop(columns=["run_id", "run_hash"])], axis=1)
    reported = set(new.run_hash)
    if TABLE.exists():
        new = pd.concat([pd.read_csv(TABLE, dtype={"run_hash": str}), new])
    new = new.sort_values("end_step", kind="stable").drop_duplicates("run_hash", keep="last")
    order = ["data.phi", "data.hop2_k", "regime", "seeds.data"]
    new.sort_values(order).to_csv(TABLE, index=False, lineterminator="\n")
    if reported == set(new.run_hash):
        for name in ("costs.csv", "comparisons.csv"):
            shutil.copyfile(pathlib.Path(workdir) / name, TABLE.with_name(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
