"""Tidy tables of an analysis: a row per run and site; a row per group and site, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from grokjax.analysis.logit_lens import rates_of
from grokjax.data.composition import COMPOSITION
from grokjax.data.task import Task
from grokjax.statistics.bootstrap import Intervals, rate_interval, ratio_interval
from grokjax.statistics.intervals import mean_interval

SITE = ["component", "place", "position", "head"]
_CELL = ["slot", "group"]
_PER_RUN = (
    "effect", "attributed_effect", "null_effect", "log_probability", "rank", "kl",
    "causal_strength",
)  # fmt: skip


def patching_by_run(patching: xr.Dataset) -> pd.DataFrame:
    """run, regime, step, slot, group, direction, site; effects, other measures and num_pairs."""
    names = [n for n in (*_PER_RUN, "num_pairs") if n in patching]
    frame = patching[names].to_dataframe().reset_index()
    return frame[["run", "regime", "step", *_CELL, "direction", *SITE, *names]]


def lens_by_run(lens: xr.Dataset) -> pd.DataFrame:
    """run, regime, step, type, subset, token, stream, stage, position; measures and num_queries."""
    names = ["top1", "rank", "reciprocal_rank", "log_probability"]
    frame = lens[[*names, "num_queries"]].to_dataframe().reset_index()
    place = ["type", "subset", "token", "stream", "stage", "position"]
    return frame[["run", "regime", "step", *place, *names, "num_queries"]].dropna(subset=["top1"])


def rates_by_group(
    lens: xr.Dataset, groups: Sequence[str], task: Task = COMPOSITION
) -> pd.DataFrame:
    """group, step, type, metric; mean over seeds with bounds (`mean_interval`), num_seeds."""
    rows = []
    for name, runs in _members(groups):
        own = lens.isel(run=runs)
        for step in own.step.to_numpy():
            for kind in own.type.to_numpy():
                for metric in (m for m in rates_of(task) if m in own):
                    values = own[metric].sel(step=step, type=kind).to_numpy()
                    by_seed = pd.Series(values).groupby(own.seeds.to_numpy()).mean().dropna()
                    if len(by_seed):
                        found = mean_interval(by_seed.to_numpy())
                        rows.append((name, int(step), str(kind), metric, *found))
    columns = [
        "group_of_runs", "step", "type", "metric", "mean", "low", "high", "num_seeds", "interval",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def patching_by_group(patching: xr.Dataset, groups: Sequence[str]) -> pd.DataFrame:
    """Effects pooled over the runs of a group: a ratio of means over seeds and pairs.

    Returns:
      group_of_runs, step, slot, group, direction, site; effect, low, high (95 %, bootstrap over
      seeds, then pairs), attributed_effect, null_effect, num_seeds, num_runs, num_pairs (of a run,
      the mean).
    """
    frames: list[pd.DataFrame] = []
    sites = pd.DataFrame({name: patching[name].to_numpy() for name in SITE})
    for name, runs in _members(groups):
        for step in range(patching.sizes["step"]):
            own = patching.isel(run=runs, step=step)
            own = own.isel(run=np.flatnonzero(np.isfinite(own.clean).any(["cell", "pair"])))
            if not own.sizes["run"]:
                continue
            for cell in range(patching.sizes["cell"]):
                for direction in patching.direction.to_numpy():
                    frame = _pooled(own.isel(cell=cell).sel(direction=direction), sites)
                    frame.insert(0, "group_of_runs", name)
                    frame.insert(1, "step", int(patching.step[step]))
                    frames.append(frame)
    return _joined(frames)


def _pooled(own: xr.Dataset, sites: pd.DataFrame) -> pd.DataFrame:
    """One cell and direction of a group's runs."""
    clean, corrupted = own.clean.to_numpy(), own.corrupted.to_numpy()
    is_denoising = str(own.direction.to_numpy()) == "denoising"
    host, sign = (corrupted, 1.0) if is_denoising else (clean, -1.0)
    total = clean - corrupted

    seeds = own.seeds.to_numpy()

    def pooled(difference: np.ndarray) -> Intervals:
        change = sign * (difference.transpose(0, 2, 1) - host[..., None])
        return ratio_interval(change, total, seeds)

    effect = pooled(own.logit_difference.to_numpy())
    linear = pooled(own.attribution.to_numpy() + host[:, None]).mean
    null = pooled(own.null.to_numpy()).mean if "null" in own else np.full_like(linear, np.nan)
    return sites.assign(
        slot=str(own.slot.to_numpy()),
        group=str(own.group.to_numpy()),
        direction=str(own.direction.to_numpy()),
        effect=effect.mean,
        low=effect.low,
        high=effect.high,
        attributed_effect=linear,
        null_effect=null,
        num_seeds=effect.n,
        num_runs=own.sizes["run"],
        num_pairs=float(own.num_pairs.mean()),
    )


def lens_by_group(
    lens: xr.Dataset, groups: Sequence[str], task: Task = COMPOSITION
) -> pd.DataFrame:
    """Shares of queries whose first choice is a hidden token or the target, by site.

    Queries whose hidden token is in the question, or the answer, are left out.

    Returns:
      group_of_runs, step, type, token, stream, stage, position; top1, low, high (95 %, bootstrap
      over seeds, then queries), num_seeds, num_queries (of a run, the mean).
    """
    frames = []
    place = ["stream", "stage", "position"]
    kinds = [str(t) for t in lens.type.to_numpy() if str(t) in task.read_types]
    tokens = (*(hidden.name for hidden in task.hidden), "target")
    for name, runs in _members(groups):
        for step in range(lens.sizes["step"]):
            for kind in kinds:
                for token in tokens:
                    own = lens.isel(run=runs, step=step)
                    own = own.sel(type=kind, token=token, subset="apart")
                    rates = own.top1.stack(site=place)
                    queries = own.num_queries.fillna(0).to_numpy().astype(int)
                    top1 = rate_interval(rates.to_numpy(), queries, own.seeds.to_numpy())
                    frame = rates.site.to_index().to_frame(index=False)
                    frame.insert(0, "group_of_runs", name)
                    frame.insert(1, "step", int(lens.step[step]))
                    frames.append(
                        frame.assign(
                            type=kind,
                            token=token,
                            top1=top1.mean,
                            low=top1.low,
                            high=top1.high,
                            num_seeds=top1.n,
                            num_queries=queries.mean(),
                        )
                    )
    return _joined(frames)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One below the other, all fractions equally wide."""
    wide = [f.astype(dict.fromkeys(f.select_dtypes("floating"), float)) for f in frames]
    return pd.concat(wide, ignore_index=True)


def effect_maps(
    patching: xr.Dataset, split: str, direction: str = "denoising"
) -> tuple[np.ndarray, pd.DataFrame]:
    """Each run's effects at one step, a row per run, [R, F]; and what each column is.

    Of the streams at the stages between the first and the last: what those carry is the same for
    every network, the question and the answer.

    Args:
      patching: of one step.
      split: of the pairs, "id" or "ood".
      direction: of the patches.
    """
    one_step = patching.isel(step=0)
    sites = pd.DataFrame({name: patching[name].to_numpy() for name in SITE})
    streams = sites[sites.component.isin(["z_H", "z_L"])]
    stages = list(dict.fromkeys(streams.place))
    between = streams.index[streams.place.isin(stages[1:-1])]
    chosen = one_step.isel(cell=np.flatnonzero(one_step.group == split), site=between)
    chosen, sites = chosen.sel(direction=direction), sites.loc[between]
    maps = chosen.effect.transpose("run", "cell", "site").to_numpy()
    columns = pd.concat([sites.assign(slot=str(s)) for s in chosen.slot.to_numpy()])
    return maps.reshape(len(maps), -1), columns.reset_index(drop=True)


def hidden_profiles(lens: xr.Dataset, kind: str, task: Task = COMPOSITION) -> np.ndarray:
    """Each run's shares of queries whose first choice is hidden, by token and site, [R, F]."""
    tokens = [hidden.name for hidden in task.hidden]
    own = lens.isel(step=0).sel(type=kind, token=tokens, subset="apart")
    top1 = own.top1.transpose("run", "token", ...).to_numpy()
    return top1.reshape(len(top1), -1)


def _members(groups: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    labels = np.asarray(groups, dtype=object)
    return [(name, np.flatnonzero(labels == name)) for name in dict.fromkeys(labels.tolist())]
