"""What a transfer report rests on: finetuned runs by where they started and what they learned."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from grokjax.base.errors import UserError
from grokjax.base.names import PATH, SATURATION
from grokjax.data.graph import HOP_SETTINGS
from grokjax.model.cost import train_flops
from grokjax.results import Results, load
from grokjax.settings.declarations import SEEDS
from grokjax.training.resolve import model_config
from grokjax.workdir.tables import usable_runs

EARLY = "control_early"
MEMBERS = [
    "group", "checkpoint", "variant", "run_id", "seed", "dose", "pretraining_flops",
    "finetuning_flops",
]  # fmt: skip
# Settings that say where a run comes from; any other one that was varied makes a group.
_NAMING = ("source", "run_id", "run_hash", "step", "checkpoint", "group", "checkpoints")


@dataclasses.dataclass(frozen=True)
class TransferRuns:
    """A finetuning workdir. `members`: a row for each run in each group that it belongs to.

    members: group, checkpoint, variant (other settings that were varied; often empty), run_id,
    seed, dose, pretraining_flops, finetuning_flops (of the whole finetuning).
    """

    results: Results
    members: pd.DataFrame

    @functools.cached_property
    def final(self) -> pd.DataFrame:
        """The last row of each run's curves, by run_id."""
        return pd.concat([own.tail(1) for own in self.curves.values()]).set_index("run_id")

    @functools.cached_property
    def curves(self) -> dict[int, pd.DataFrame]:
        """Each run's curves, in the order of steps."""
        return dict(iter(self.results.curves.sort_values("step").groupby("run_id")))

    def cells(self) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
        """({group, checkpoint, variant}, its members), in order."""
        keys = ["group", "checkpoint", "variant"]
        for values, own in self.members.groupby(keys, sort=False):
            yield dict(zip(keys, values, strict=True)), own


def read_transfers(results: Results) -> TransferRuns:
    """Sorts a finetuning population into groups.

    `control_early` are natural runs at saturation whose path was not yet readable by then: the
    second reading of the paper's control group.

    Raises:
      UserError: nothing was finetuned here, or what was measured is lost.
    """
    if not results.config.transfer.source:
        raise UserError(f"{results.workdir}: holds no finetuning; see grokjax transfer")
    results.require_curves()
    runs = usable_runs(results.runs)
    varied = [c for c in runs if "." in c and c.split(".")[-1] not in _NAMING and c not in SEEDS]
    varied = [c for c in varied if c not in ("data.regime", *HOP_SETTINGS)]  # the group's name
    sources: dict[str, Results | None] = {}
    rows = []
    for run_id in runs.run_id:
        run = results.run_config(run_id)
        t = run.transfer
        if t.source not in sources:
            sources[t.source] = _source(t.source)
        source = sources[t.source]
        flat = runs.loc[run_id]
        row = {
            "group": t.group,
            "variant": ", ".join(f"{c.split('.')[-1]} {flat[c]}" for c in varied),
            "run_id": run_id,
            "seed": "/".join(str(run.seeds[kind]) for kind in ("data", "init", "order")),
            "dose": t.new_share,
            "pretraining_flops": _steps_before(source, t) * flops_per_step(source or results),
            "finetuning_flops": int(flat.step) * flops_per_step(results),
        }
        checkpoints = t.checkpoint.split("+")
        rows += [row | {"checkpoint": name} for name in checkpoints]
        if t.group == "natural" and SATURATION in checkpoints and PATH not in checkpoints:
            rows.append(row | {"group": EARLY, "checkpoint": SATURATION})
    members = pd.DataFrame(rows, columns=MEMBERS)
    is_early = members.group == EARLY
    return TransferRuns(results, members.iloc[np.argsort(is_early, kind="stable")])


def _source(workdir: str) -> Results | None:
    """The pretraining, if it is still there: only its costs are asked for."""
    try:
        return load(workdir)
    except UserError:
        return None


def _steps_before(source: Results | None, transfer: Any) -> int:
    """Those of the pretraining; a run that left it early stands at its last one from then on."""
    if source is None:
        return int(transfer.step)
    return min(int(transfer.step), int(source.runs.step[transfer.run_id]))


def flops_per_step(results: Results) -> float:
    """Of training one run."""
    model = model_config(results.config, results.vocab_size, results.task)
    return float(train_flops(model)) * results.config.train.batch_size


def in_order(own: pd.DataFrame) -> list[str]:
    """A group's checkpoints by what their pretraining cost."""
    cost = own.groupby("checkpoint", sort=False).pretraining_flops.mean()
    return cost.sort_values(kind="stable").index.tolist()
