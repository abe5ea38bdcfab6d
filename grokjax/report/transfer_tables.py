"""What finetuning populations say: transfer per category, its cost, and who transfers alike."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from grokjax.base.errors import UserError
from grokjax.base.names import CATEGORIES
from grokjax.data.graph import HOP_SETTINGS
from grokjax.model.cost import train_flops
from grokjax.results import Results, load
from grokjax.settings.declarations import SEEDS
from grokjax.statistics.events import first_crossing, student_interval
from grokjax.statistics.survival import restricted_mean
from grokjax.training.resolve import model_config
from grokjax.workdir.tables import usable_runs

OLD = ("id_atomic", "train_inferred", "test_inferred_iid")  # what may be forgotten
ASKED = ("atomic_new", *CATEGORIES, "kept_atomic", "kept_inferred", *OLD)
BRIDGE_METRICS = ("bridge_found", "bridge_chance", "bridge_found_strict")
LEVELS = (0.5, 0.95)
MARGIN = 0.1  # of an accuracy: within it, two groups transfer alike
EARLY = "control_early"
REFERENCE = "both_hop_full"
# Settings that say where a run comes from; any other one that was varied makes a group.
_NAMING = ("source", "run_id", "run_hash", "step", "checkpoint", "group", "checkpoints")


@dataclasses.dataclass(frozen=True)
class Transfers:
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


def read_transfers(results: Results) -> Transfers:
    """Sorts a finetuning population into groups.

    `control_early` are natural runs at saturation whose path was not yet readable by then: the
    second reading of the paper's control group.

    Raises:
      UserError: nothing was finetuned here.
    """
    if not results.config.transfer.source:
        raise UserError(f"{results.workdir}: holds no finetuning; see grokjax transfer")
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
            "pretraining_flops": _steps_before(source, t) * _flops_per_step(source or results),
            "finetuning_flops": int(flat.step) * _flops_per_step(results),
        }
        checkpoints = t.checkpoint.split("+")
        rows += [row | {"checkpoint": name} for name in checkpoints]
        if t.group == "natural" and "saturation" in checkpoints and "path" not in checkpoints:
            rows.append(row | {"group": EARLY, "checkpoint": "saturation"})
    members = pd.DataFrame(rows).sort_values("group", key=lambda g: g == EARLY, kind="stable")
    first = ["group", "checkpoint", "variant"]
    return Transfers(results, members[[*first, *members.columns.drop(first)]])


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


def _flops_per_step(results: Results) -> float:
    model = model_config(results.config, results.vocab_size)
    return float(train_flops(model)) * results.config.train.batch_size


def accuracy_table(data: Transfers) -> pd.DataFrame:
    """What each group answers after finetuning.

    Returns:
      group, checkpoint, variant, asked (a category, or old or new facts and compositions),
      num_runs, num_queries (of one run, mean), accuracy with low and high (mean and 95 % Student-t
      interval over runs), bridge_found, bridge_chance, bridge_found_strict (means; NaN of facts).
    """
    rows = []
    for cell, own in data.cells():
        last = data.final.loc[own.run_id]
        counts = data.results.runs.set_index("run_id").loc[own.run_id]
        for asked in ASKED:
            if f"{asked}/answer_accuracy" not in last:
                continue
            accuracy = student_interval(last[f"{asked}/answer_accuracy"].to_numpy())
            row = cell | {
                "asked": asked,
                "num_runs": accuracy.n,
                "num_queries": float(counts[f"num_{asked}"].mean()),
                "accuracy": accuracy.mean,
                "low": accuracy.low,
                "high": accuracy.high,
            }
            for metric in BRIDGE_METRICS:
                name = f"{asked}/{metric}"
                row[metric] = float(last[name].mean()) if name in last else math.nan
            rows.append(row)
    return pd.DataFrame(rows)


def crossing_steps(data: Transfers, asked: str, level: float) -> pd.Series:
    """By run: the finetuning step from which three evaluations are at the level; inf if none."""
    metric = f"{asked}/answer_accuracy"
    return pd.Series(
        {
            run_id: first_crossing(own.step.to_numpy(), own[metric].to_numpy(), level)
            for run_id, own in data.curves.items()
        }
    )


def time_table(data: Transfers, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """Finetuning steps until an accuracy; runs that end first are censored, not dropped.

    Returns:
      group, checkpoint, variant, asked (new facts or a category), level, num_runs, reached,
      mean_steps with low and high (restricted to the finetuning's length, 95 %).
    """
    end = data.results.curves.groupby("run_id").step.max().astype(float)
    horizon = float(end.max())
    rows = []
    for asked in ("atomic_new", *CATEGORIES):
        for level in levels:
            at = crossing_steps(data, asked, level)
            for cell, own in data.cells():
                time = at[own.run_id].to_numpy()
                reached = np.isfinite(time)
                mean = restricted_mean(np.where(reached, time, end[own.run_id]), reached, horizon)
                rows.append(
                    cell
                    | {"asked": asked, "level": level, "num_runs": len(own)}
                    | {"reached": int(reached.sum()), "mean_steps": mean.mean}
                    | {"low": mean.low, "high": mean.high}
                )
    return pd.DataFrame(rows)


def worth_table(data: Transfers) -> pd.DataFrame:
    """Is it worthwhile: what was spent before and in finetuning, and what it answers then.

    Returns:
      group, checkpoint, variant, asked (a category), num_runs, pretraining_flops,
      finetuning_flops (means), accuracy with low and high; gain with gain_low and gain_high: over
      the same seeds' earliest checkpoint in the group (num_pairs, 95 % Student-t; NaN of itself).
    """
    rows = []
    for (group, variant), own in data.members.groupby(["group", "variant"], sort=False):
        present = in_order(own)
        for asked in CATEGORIES:
            accuracy = data.final[f"{asked}/answer_accuracy"]
            for checkpoint in present:
                these = own[own.checkpoint == checkpoint]
                pairs = _paired(own, present[0], checkpoint)
                late, early = (accuracy.loc[pairs[f"run_id_{n}"]] for n in ("late", "early"))
                gain = student_interval(late.to_numpy() - early.to_numpy())
                mean = student_interval(accuracy.loc[these.run_id].to_numpy())
                rows.append(
                    {
                        "group": group, "checkpoint": checkpoint, "variant": variant,
                        "asked": asked, "num_runs": mean.n,
                        "pretraining_flops": these.pretraining_flops.mean(),
                        "finetuning_flops": these.finetuning_flops.mean(),
                        "accuracy": mean.mean, "low": mean.low, "high": mean.high,
                        "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high,
                        "num_pairs": gain.n,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def break_even_table(data: Transfers, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """After how many finetunings a longer pretraining has paid for itself.

    Two checkpoints of the same run: the later one costs more once, and may cost less each time that
    new facts are learned to a given accuracy. Break-even: extra pretraining FLOPs over the FLOPs
    saved in a finetuning.

    Returns:
      group, variant, asked, level, early, late (checkpoints), num_pairs (seeds with both),
      only_late, only_early, neither (reached the level), pays (seeds where the later one saves),
      break_even (median number of finetunings among those; NaN if none).
    """
    per_step = _flops_per_step(data.results)
    at = {(asked, x): crossing_steps(data, asked, x) for asked in CATEGORIES for x in levels}
    rows = []
    for (group, variant), own in data.members.groupby(["group", "variant"], sort=False):
        for early, late in itertools.combinations(in_order(own), 2):
            pairs = _paired(own, early, late)
            for (asked, level), step in at.items() if len(pairs) else ():
                first, then = (step[pairs[f"run_id_{n}"]].to_numpy() for n in ("early", "late"))
                extra = (pairs.pretraining_flops_late - pairs.pretraining_flops_early).to_numpy()
                reached = np.isfinite(first), np.isfinite(then)
                pays = reached[0] & reached[1] & (first > then) & (extra > 0)
                times = extra[pays] / ((first[pays] - then[pays]) * per_step)
                rows.append(
                    {
                        "group": group, "variant": variant, "asked": asked, "level": level,
                        "early": early, "late": late, "num_pairs": len(pairs),
                        "only_late": int((reached[1] & ~reached[0]).sum()),
                        "only_early": int((reached[0] & ~reached[1]).sum()),
                        "neither": int((~reached[0] & ~reached[1]).sum()),
                        "pays": int(pays.sum()),
                        "break_even": float(np.median(times)) if len(times) else math.nan,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def in_order(own: pd.DataFrame) -> list[str]:
    """A group's checkpoints by what their pretraining cost."""
    cost = own.groupby("checkpoint", sort=False).pretraining_flops.mean()
    return cost.sort_values(kind="stable").index.tolist()


def _paired(own: pd.DataFrame, early: str, late: str) -> pd.DataFrame:
    """The seeds that have both checkpoints, where those are different steps."""
    parts = [own[own.checkpoint == name] for name in (early, late)]
    suffixes = ("_early", "_late")
    both = parts[0].merge(parts[1], on="seed", suffixes=suffixes, validate="one_to_one")
    return both[both.run_id_early != both.run_id_late]


def equivalence_table(data: Transfers, margin: float = MARGIN) -> pd.DataFrame:
    """Whether groups transfer as `both_hop_full` at its end: two one-sided tests, paired by seed.

    Two that answer next to nothing are equivalent as well: look at `accuracy`.

    Args:
      data: with at least two groups.
      margin: of the accuracy; equivalent if the 90 % interval of the mean difference is within it.

    Returns:
      group, checkpoint, variant, asked, accuracy (mean), num_pairs, difference (less the reference)
      with low and high (90 % Student-t), margin, p (of not being equivalent; NaN with one pair),
      equivalent. No rows without a reference.
    """
    reference = data.members[(data.members.group == REFERENCE) & (data.members.checkpoint == "end")]
    rows = []
    for cell, own in data.cells():
        base = reference[reference.variant == cell["variant"]]
        if not len(base) or (cell["group"], cell["checkpoint"]) == (REFERENCE, "end"):
            continue
        pairs = own.merge(base, on="seed", suffixes=("", "_base"), validate="one_to_one")
        pairs = pairs[pairs.run_id != pairs.run_id_base]
        for asked in CATEGORIES:
            accuracy = data.final[f"{asked}/answer_accuracy"]
            difference = (
                accuracy.loc[pairs.run_id].to_numpy() - accuracy.loc[pairs.run_id_base].to_numpy()
            )
            named = {"asked": asked, "accuracy": float(accuracy.loc[pairs.run_id].mean())}
            rows.append(cell | named | _equivalence(difference, margin))
    return pd.DataFrame(rows)


def _equivalence(difference: np.ndarray, margin: float) -> dict[str, Any]:
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    low = high = p = math.nan
    if n > 1:
        error = float(difference.std(ddof=1)) / math.sqrt(n)
        half = float(stats.t.ppf(0.95, n - 1)) * error
        low, high = mean - half, mean + half
        distance = margin - abs(mean)
        p = float(stats.t.sf(distance / error, n - 1)) if error else float(distance <= 0)
    return {
        "num_pairs": n, "difference": mean, "low": low, "high": high, "margin": margin, "p": p,
        "equivalent": bool(n > 1 and -margin < low and high < margin),
    }  # fmt: skip
