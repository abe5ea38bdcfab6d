"""What optimisers came to on modular addition, as docs/tasks.md shows it."""

from __future__ import annotations

import pandas as pd
from markdown_of_tables import markdown, spread, table

_METHODS = {  # (name, Grokfast's lambda, OrthoGrad, loss) as a page calls them; the usual one first
    ("adamw", 0.0, False, "softmax"): "AdamW",
    ("adamw", 2.0, False, "softmax"): "Grokfast (EMA, lambda 2)",
    ("adamw", 0.0, True, "softmax"): "OrthoGrad, no weight decay",
    ("adamw", 0.0, False, "stablemax"): "stablemax",
    ("adamw", 0.0, True, "stablemax"): "OrthoGrad and stablemax, no weight decay",
    ("adam_atan2", 0.0, False, "softmax"): "Adam-atan2",
}
_AT_END = ("final_ood_accuracy", "final_training_accuracy")
_SETTINGS = ["optimizer.name", "optimizer.grokfast_lambda", "optimizer.orthograd", "train.loss"]


def modular_optimizers() -> str:
    """Each method at its best rate: of the lowest mean of steps, and then by accuracy."""
    runs = table("optimizers", "runs").set_index("run_id")
    own = table("optimizers", "outcomes").join(
        runs[[*_SETTINGS, "optimizer.learning_rate"]], on="run_id"
    )
    own["method"] = [_METHODS[key] for key in own[_SETTINGS].itertuples(index=False, name=None)]
    own["steps"] = own["answer_0.95"].fillna(own.end_step)  # at least, of one that had not
    best = {
        method: min(
            (these for _, these in mine.groupby("optimizer.learning_rate")),
            key=lambda these: (these.steps.mean(), *(-these[c].mean() for c in _AT_END)),
        )
        for method, mine in own.groupby("method")
    }
    first = best[next(iter(_METHODS.values()))].set_index("seeds.init")
    rows = []
    for method in _METHODS.values():
        mine = own[own.method == method]
        reached = [
            f"{these['answer_0.95'].notna().sum()}"
            for _, these in mine.groupby("optimizer.learning_rate", sort=True)
        ]
        these = best[method].set_index("seeds.init")
        came = these["answer_0.95"].notna()
        rows.append(
            [
                method,
                ", ".join(reached),
                f"{these['optimizer.learning_rate'].iloc[0]:g}",
                _listed(these["answer_0.95"]),
                f"{these.steps.mean():,.0f}" if came.any() else "all censored",
                _ratio(these, first) if these is not first and not these.equals(first) else "",
                *(spread(these[column]) for column in _AT_END[::-1]),
            ]
        )
    header = (
        "method", "runs at 0.95 by the end, of 4, at each rate", "best rate",
        "step at 0.95, seeds 0 to 3", "mean of steps up to the end",
        "its ratio to AdamW's (single seeds)", "training accuracy at the end", "test accuracy",
    )  # fmt: skip
    return markdown(header, rows)


def _listed(steps: pd.Series) -> str:
    return ", ".join("not" if pd.isna(x) else f"{x:,.0f}" for x in steps.sort_index())


def _ratio(these: pd.DataFrame, first: pd.DataFrame) -> str:
    """Of restricted means; a bound, where one side has runs that had not come by the end."""
    late, early = these["answer_0.95"].isna(), first["answer_0.95"].isna()
    bound = (
        ""
        if not late.any() and not early.any()
        else "at least "
        if not early.any()
        else "no bound: "
    )
    by_seed = (these.steps / first.steps).dropna()
    ratio = these.steps.mean() / first.steps.mean()
    return f"{bound}{ratio:.2f} ({by_seed.min():.2f} to {by_seed.max():.2f})"


TASKS = (modular_optimizers,)
