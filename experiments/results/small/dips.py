"""Evaluations around each fall of training accuracy, to `dips.csv`: did answers fall, or copies?

    python experiments/results/small/dips.py runs/seed0 runs/seed1 ...

A fall: after memorisation, more than 0.02 below what had been reached. Around it, three evaluations
before and after; of a run without one, the deepest fall and the last evaluation. Training accuracy
is exact match, the copied question and the end token included; `answer` is the answer's token
alone. EMA weights. `loss` is of the trained weights, the mean over the steps since the evaluation
before; num_evaluations counts those after memorisation.
"""

import pathlib
import sys

import pandas as pd

import grokjax
from grokjax.base import names

OUT = pathlib.Path(__file__).parent / "dips.csv"
FALL, AROUND = 0.02, 3
TYPES = (*names.OLD_FOLDER_TYPES,)


def dips(workdir: str) -> pd.DataFrame:
    """A row per evaluation that is told, of every run."""
    found = grokjax.load(workdir)
    rows = []
    for run in found.runs.itertuples():
        own = found.curves[found.curves.run_id == run.run_id].sort_values("step")
        accuracy = own[names.TRAINING_ACCURACY].reset_index(drop=True)
        best = accuracy.cummax()
        fell = (best >= names.EVENT_AT) & (accuracy < best - FALL)
        near = fell.rolling(2 * AROUND + 1, center=True, min_periods=1).max().astype(bool)
        if not near.any():
            deepest = (accuracy - best)[best >= names.EVENT_AT].idxmin()
            near[[deepest, len(near) - 1]] = True
        told = own[near.to_numpy()]
        seed = found.run_config(run.run_id).seeds.data
        shown = {"run_hash": run.run_hash, "regime": run.regime, "seed": seed, "step": told.step}
        shown |= {"loss": told.loss, "training_accuracy": told[names.TRAINING_ACCURACY]}
        for kind in TYPES:
            for short, metric in (("exact", names.EXACT_MATCH), ("answer", names.ANSWER_ACCURACY)):
                shown[f"{kind}/{short}"] = told[f"{kind}/{metric}"]
        evaluations = int((best >= names.EVENT_AT).sum())
        rows.append(
            pd.DataFrame(shown).assign(fell=fell[near].to_numpy(), num_evaluations=evaluations)
        )
    return pd.concat(rows)


if __name__ == "__main__":
    table = pd.concat([dips(workdir) for workdir in sys.argv[1:]])
    table.to_csv(OUT, index=False, lineterminator="\n", float_format="%.4g")
    print(table.to_string(index=False))
