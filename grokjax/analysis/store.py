"""What an analysis leaves on the disk: a NetCDF file per run, checkpoint and part."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from grokjax.base.errors import UserError
from grokjax.base.files import append_line, read_json, replacing, sha256, write_atomically
from grokjax.results import Results
from grokjax.settings.declarations import SEEDS
from grokjax.settings.rows import flat_runs

PARTS = ("lens", "patching")
SUMS = "SHA256SUMS"  # as `sha256sum --check` reads it


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Labelled arrays of all analysed runs and steps; their first dimensions are run and step.

    Where a run was not analysed at a step, values are NaN.
    """

    lens: xr.Dataset
    patching: xr.Dataset
    settings: Mapping[str, Any]

    def last(self) -> Analysis:
        """The last step alone."""
        lens, patching = (x.isel(step=[-1]) for x in (self.lens, self.patching))
        return Analysis(lens, patching, self.settings)


def analysis_folder(results: Results, out: str | os.PathLike | None = None) -> pathlib.Path:
    """Where an analysis goes: `analysis` in the workdir unless told otherwise."""
    return results.workdir / "analysis" if out is None else pathlib.Path(out)


def part_path(folder: pathlib.Path, part: str, step: int, run_id: int) -> pathlib.Path:
    return folder / part / f"step{step:09d}_run{run_id:05d}.nc"


def write_part(path: pathlib.Path, data: xr.Dataset, settings: Mapping[str, Any]) -> None:
    """One file, compressed, replaced in one step; its SHA-256 is noted last, which seals it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {name: {"zlib": True} for name, x in data.items() if x.ndim and x.dtype.kind in "fi"}
    stored = data.assign_attrs(settings=json.dumps(dict(settings)))
    with replacing(path) as scratch:
        stored.to_netcdf(scratch, engine="h5netcdf", encoding=packed)
        digest = sha256(scratch)
    folder = path.parents[1]
    append_line(folder / SUMS, f"{digest}  {path.relative_to(folder)}")


def read_sums(folder: pathlib.Path) -> dict[str, str] | None:
    """SHA-256 of each sealed file, by its path in the folder; None in folders of before."""
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{folder / SUMS}: cannot be read ({error.strerror})") from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def begin_sums(folder: pathlib.Path) -> None:
    """Notes the files of a folder of before as they are, so that new ones can be told from torn."""
    if not (folder / SUMS).exists():
        paths = sorted(path for part in PARTS for path in (folder / part).glob("step*_run*.nc"))
        lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in paths]
        write_atomically(folder / SUMS, "".join(lines))


def is_sealed(folder: pathlib.Path, path: pathlib.Path, sums: Mapping[str, str] | None) -> bool:
    """Whether a part is there, and noted; what it has is not looked at."""
    return path.exists() and (sums is None or str(path.relative_to(folder)) in sums)


def check_settings(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Refuses to mix analyses made with other settings.

    Raises:
      UserError: what differs.
    """
    stored = read_settings(folder)
    if stored is None:
        return
    for name, value in settings.items():
        if stored.get(name) != value:
            raise UserError(
                f"{folder}: was made with {name} {stored.get(name)}, not {value}; give another"
                " --out, or remove it"
            )


def write_settings(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "settings.json", json.dumps(dict(settings), indent=1) + "\n")


def read_settings(folder: pathlib.Path) -> dict[str, Any] | None:
    """None where nothing has been analysed."""
    path = folder / "settings.json"
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path}: damaged; remove the folder and analyse again") from None


def load_analysis(results: Results, folder: str | os.PathLike | None = None) -> Analysis:
    """Reads back what `grokjax analyze` has stored of a workdir, labelled with its runs.

    Raises:
      UserError: there is nothing, or a file is damaged.
    """
    path = analysis_folder(results, folder)
    settings = read_settings(path)
    if settings is None:
        raise UserError(f"{path}: no analysis; run grokjax analyze --workdir={results.workdir}")
    sums = read_sums(path)
    lens, patching = (_read(path, part, results, sums) for part in PARTS)
    # Cut off in between, one of them may be further.
    shared = {name: np.intersect1d(lens[name], patching[name]) for name in ("run", "step")}
    return Analysis(lens.sel(shared), patching.sel(shared), settings)


def _read(
    folder: pathlib.Path, part: str, results: Results, sums: Mapping[str, str] | None
) -> xr.Dataset:
    by_step: dict[int, dict[int, xr.Dataset]] = {}
    for path in sorted((folder / part).glob("step*_run*.nc")):
        if not is_sealed(folder, path, sums):  # cut off just before it was noted
            continue
        step, run_id = (int(text.lstrip("steprun")) for text in path.stem.split("_"))
        try:
            if sums is not None and sha256(path) != sums[str(path.relative_to(folder))]:
                raise ValueError("not what was written")
            with xr.open_dataset(path, engine="h5netcdf") as file:
                by_step.setdefault(step, {})[run_id] = file.load().drop_attrs()
        except (OSError, ValueError, KeyError):
            raise UserError(f"{path}: damaged; remove it and analyse again") from None
    if not by_step:
        raise UserError(f"{folder}: holds no {part}; run grokjax analyze again")
    run_ids = sorted({run for runs in by_step.values() for run in runs})
    steps = [
        xr.concat(list(runs.values()), _index("run", list(runs))).reindex(run=run_ids)
        for runs in by_step.values()
    ]
    joined = xr.concat(steps, _index("step", list(by_step)))
    regimes = results.runs.set_index("run_id").regime
    settings = flat_runs(results.config)
    seeds = ["/".join(str(settings[run][name]) for name in SEEDS) for run in run_ids]
    return joined.transpose("run", "step", ...).assign_coords(
        regime=("run", [str(regimes[run]) for run in run_ids]), seeds=("run", seeds)
    )


def _index(name: str, values: Sequence[int]) -> xr.DataArray:
    return xr.DataArray(list(values), dims=name, coords={name: list(values)}, name=name)
