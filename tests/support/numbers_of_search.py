"""The search's trials as docs/results.md shows them: what each changed, and how far it came."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import listed, markdown, table

# What a trial of the search differs from, in the order that differences are told.
_SEARCHED_FROM = {
    "data.num_entities": 30, "data.out_degree": 8, "data.ood_fraction": 0.25,
    "model.hidden_size": 32, "model.num_heads": 4, "model.H_cycles": 4,
    "train.batch_size": 32, "train.loss": "softmax", "optimizer.learning_rate": 0.01,
    "optimizer.weight_decay": 0.1, "optimizer.warmup_steps": 500, "optimizer.beta2": 0.95,
    "optimizer.orthograd": False, "optimizer.name": "adamw",
}  # fmt: skip
_TOLD_FROM = 2000  # steps; what was broken off before says nothing


def search() -> str:
    own = table("search", "natural")
    own = own[own.run_hash.notna() & (own.step >= _TOLD_FROM)]
    changed = [
        ", ".join(
            f"{name.split('.')[-1]} {row[name]:g}"
            if isinstance(row[name], (int, float)) and not isinstance(usual, bool)
            else f"{name.split('.')[-1]} {str(row[name]).split('@')[0]}"
            for name, usual in _SEARCHED_FROM.items()
            if row[name] != usual
        )
        for row in own.to_dict("records")
    ]
    rows = []
    for (what, step), these in own.assign(changed=changed).groupby(["changed", "step"], sort=False):
        when = ["not" if pd.isna(x) else f"{x:,.0f}" for x in these.memorised_step]
        ends = (these.training_accuracy, these.id_accuracy, these.ood_accuracy)
        rows.append(
            [
                what or "nothing", ", ".join(map(str, these.seed)), ", ".join(when), f"{step:,}",
                *(listed(end) for end in ends),
            ]
        )  # fmt: skip
    header = (
        "changed", "seeds", "memorised at step", "last step", "training", "held-out ID", "OOD"
    )  # fmt: skip
    return markdown(header, rows)
