"""Finding 3: what do grokked runs do with new facts? Gathers finetunings of the confirmatory runs.

    T="grokjax transfer --config=experiments/transfer.py:confirmatory"
    P=runs/confirmatory/populations
    $T --from=$P/000 --workdir=runs/transfer_end --config.transfer.checkpoints=end
    $T --from=$P/001 --workdir=runs/transfer_both --config.transfer.checkpoints=end \\
        --config.transfer.control_atomic=False
    python experiments/results/confirmatory/transfers.py runs/transfer_end runs/transfer_both

Writes `transfers.csv`, a row per finetuning: accuracies at the end and half-way, what was
forgotten, and `halves.csv`'s site of each (which half of the circuit fails); and
`transfers_tests.csv`, the declared tests: natural at its end less the control, paired by seed.
"""

import pathlib
import sys

import numpy as np
import pandas as pd

import grokjax
from grokjax.base.names import CATEGORIES
from grokjax.statistics.permutation import holm, permutation_test
from grokjax.transfer.run import CONTROL

FOLDER = pathlib.Path(__file__).parent
KEPT = ("atomic_new", "kept_atomic", "kept_inferred", "id_atomic", "train_inferred")
NAMED = ["group", "checkpoint", "step", "run_hash"]  # of the source, as `transfer` has them
HALVES = ["component", "place", "position", "score", "accuracy", "old_patched", "new_patched"]


def rows(workdir):
    """Of one finetuning workdir, each run's."""
    results = grokjax.load(workdir)
    accuracy = results.curves.set_index(["run_id", "step"])
    accuracy = accuracy[[f"{name}/answer_accuracy" for name in (*CATEGORIES, *KEPT)]]
    accuracy.columns = [*CATEGORIES, *KEPT]
    end = int(results.curves.step.max())
    table = results.runs[["run_id", "run_hash", "seeds.data"]].rename(
        columns={"run_hash": "finetuning"}
    )
    for name in NAMED:
        table[f"source_{name}"] = [c.transfer[name] for c in results.run_configs]
    table["steps"] = end
    table = table.join(accuracy.xs(end, level="step"), on="run_id")
    half = accuracy.xs(end // 2, level="step")[list(CATEGORIES)].add_suffix("_half_way")
    halves = pd.read_csv(pathlib.Path(workdir) / "halves.csv").set_index("run_id")[HALVES]
    table = table.join(half, on="run_id").join(halves.add_prefix("half_"), on="run_id")
    return table.drop(columns="run_id")


def declared(table):
    """Natural at its end less the control, by seed; exact, Holm over the three categories."""
    ends = table[(table.source_checkpoint == "end")]
    ends = ends[ends.source_group.isin(["natural", CONTROL])]
    found = []
    for asked in CATEGORIES:
        test = permutation_test(
            ends[asked], ends.source_group == "natural", ends["seeds.data"].tolist()
        )
        by_seed = ends.pivot(index="seeds.data", columns="source_group", values=asked)
        apart = by_seed["natural"] - by_seed[CONTROL]
        found.append(
            {
                "asked": asked, "n": len(apart), "natural": by_seed["natural"].mean(),
                "control": by_seed[CONTROL].mean(), "difference": apart.mean(),
                "lowest": apart.min(), "highest": apart.max(),
                "above_0.9": int((by_seed["natural"] > 0.9).sum()),
                "p": test.p, "p_smallest": test.smallest,
            }
        )  # fmt: skip
    tests = pd.DataFrame(found)
    return tests.assign(p_holm=np.asarray(holm(tests.p)))


def main(*workdirs):
    table = pd.concat([rows(workdir) for workdir in workdirs], ignore_index=True)
    order = ["source_group", "source_checkpoint", "seeds.data"]
    table = table.sort_values(order, kind="stable")
    table.to_csv(FOLDER / "transfers.csv", index=False, lineterminator="\n")
    declared(table).to_csv(FOLDER / "transfers_tests.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
