"""Appends a sweep's runs to `natural.csv`, a row each, and their curves to `natural_curves.csv`.

    python experiments/results/search/append_trials.py runs/natural

A run that the table has (by run_hash) is replaced if the workdir's has more steps. Columns that a
later trial needs are empty in the rows before. `flop` is counted (training alone), `minutes` the
run's share of the wall-clock time of its population, compilation and evaluation included; a step of
an event at level L is the first of three evaluations at L, empty if it has not come.
"""

import pathlib
import sys

import numpy as np
import pandas as pd

import grokjax
from grokjax.base import names
from grokjax.model.cost import train_flops
from grokjax.settings.config import flatten
from grokjax.statistics.events import first_crossing
from grokjax.workdir.tables import read_timing

TABLE = pathlib.Path(__file__).parent / "natural.csv"
CURVES = TABLE.with_name("natural_curves.csv")
LAST = {
    "training_accuracy": names.TRAINING_ACCURACY,
    "id_accuracy": f"{names.TEST_INFERRED_IID}/{names.ANSWER_ACCURACY}",
    "ood_accuracy": names.OOD_ACCURACY,
    "bridge_found": names.OOD_BRIDGE_FOUND,
    "bridge_chance": names.OOD_BRIDGE_CHANCE,
    "bridge_found_strict": names.OOD_BRIDGE_FOUND_STRICT,
}
EVENTS = {
    "memorised_step": (names.TRAINING_ACCURACY, names.EVENT_AT),
    "path_0.5_step": (names.OOD_BRIDGE_FOUND_STRICT, 0.5),
    "path_0.9_step": (names.OOD_BRIDGE_FOUND_STRICT, 0.9),
    "ood_0.5_step": (names.OOD_ACCURACY, 0.5),
    "ood_0.9_step": (names.OOD_ACCURACY, 0.9),
}
CURVE = ("training_accuracy", "id_accuracy", "ood_accuracy", "bridge_found_strict")
# Besides the settings that the table has: those that a trial changed.
SETTINGS = (
    "model.num_heads",
    "model.expansion",
    "model.mlp_multiple",
    "model.dtype",
    "optimizer.warmup_steps",
    "optimizer.beta2",
    "optimizer.orthograd",
    "optimizer.ema_rate",
    "optimizer.name",
    "optimizer.schedule",
    "optimizer.weight_decay_schedule",
    "optimizer.decay_steps",
    "data.iid_test_fraction",
)


def trials(workdir: pathlib.Path, setting_columns: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per trained run of the workdir's sweep: settings, what it came to, cost; the curves."""
    rows, curves = [], []
    for population in grokjax.load(workdir).populations().values():
        sessions = read_timing(population.workdir)
        minutes = sum(s["seconds"] for s in sessions) / 60 / len(population.runs)
        for run in population.runs.itertuples():
            own = population.curves[population.curves.run_id == run.run_id].sort_values("step")
            settings = flatten(population.run_configs[run.run_id])
            last = own.iloc[-1]
            row = {name: settings[name] for name in setting_columns}
            row |= {"regime": run.regime, "seed": settings["seeds.data"], "step": int(last.step)}
            row |= {name: round(last[metric], 3) for name, metric in LAST.items()}
            row["best_ood_accuracy"] = round(own[names.OOD_ACCURACY].max(), 3)
            for name, (metric, level) in EVENTS.items():
                step = first_crossing(own.step, own[metric], level)
                row[name] = int(step) if np.isfinite(step) else ""
            example = train_flops(population.model)
            row["flop"] = f"{example * settings['train.batch_size'] * last.step:.3g}"
            row["minutes"] = round(minutes, 1)
            row |= {"status": run.status, "run_hash": run.run_hash}
            rows.append(row)
            columns = {name: own[LAST[name]].round(3) for name in CURVE}
            curves.append(pd.DataFrame({"run_hash": run.run_hash, "step": own.step} | columns))
    return pd.DataFrame(rows), pd.concat(curves)


def main(workdir: str) -> None:
    before = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    known = [name for name in before if "." in name and not name.endswith("_step")]
    settings = [*known, *(name for name in SETTINGS if name not in known)]
    new, curves = trials(pathlib.Path(workdir), settings)
    both = pd.concat([before, new.astype(str)], ignore_index=True).fillna("")
    both["_steps"] = both.step.astype(int)
    is_named = both.run_hash != ""
    longest = both[is_named].sort_values("_steps", kind="stable")
    longest = longest.drop_duplicates("run_hash", keep="last")
    kept = both.loc[both[~is_named].index.union(longest.index)].drop(columns="_steps")
    kept.to_csv(TABLE, index=False, lineterminator="\n")
    if CURVES.exists():
        curves = pd.concat([pd.read_csv(CURVES, dtype={"run_hash": str}), curves])
    curves = curves.drop_duplicates(["run_hash", "step"], keep="last")
    curves.to_csv(CURVES, index=False, lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
