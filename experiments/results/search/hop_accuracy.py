"""Answers of stored runs by which hop is OOD: writes `hop_accuracy.csv` rows to standard output.

    python experiments/results/search/hop_accuracy.py runs/natural

Natural training composes no OOD fact at all, so compositions of one ID and one OOD fact are as
unseen as those of two. Their accuracies come up earlier, and say which half a run lacks. EMA
weights of each run's newest analysis step, on every composition of its graph.
"""

import sys

import jax
import numpy as np

import grokjax
from grokjax.analysis.pairs import all_compositions
from grokjax.data.dataset import make_batch
from grokjax.data.graph import ANSWER, ID, OOD, QUERY
from grokjax.model import forward

HOPS = {"id_then_ood": (ID, OOD), "ood_then_id": (OOD, ID), "ood_then_ood": (OOD, OOD)}


def main(workdir: str) -> None:
    sweep = grokjax.load(workdir)
    print("run_hash,step", *(f"{name},{name}_queries" for name in HOPS), sep=",")
    for population in sweep.populations().values():
        answers = jax.jit(
            lambda weights, batch, model=population.model: forward(
                model, weights["ema_params"], weights["buffers"], batch
            ).logits.argmax(-1)
        )
        for run in population.runs.itertuples():
            dataset = population.dataset(run.run_id)
            rows, hops = all_compositions(dataset)
            batch = make_batch(rows[:, QUERY], dataset.vocabulary.end_id)
            predicted = np.asarray(answers(population.parameters(run.run_id), batch))
            position = np.asarray(batch.answer_position)[:, None]
            said = np.take_along_axis(predicted, position, axis=1)[:, 0]
            is_right = said == rows[:, ANSWER]
            cells = []
            for kinds in HOPS.values():
                own = is_right[(hops == kinds).all(axis=1)]
                cells += [f"{own.mean():.3f}", len(own)]
            print(run.run_hash, population.checkpoint_steps()[-1], *cells, sep=",", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
