"""The tables of a workdir: `curves.csv` (a row per run and evaluation), `runs.csv`, timing."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from grokjax.base.errors import UserError
from grokjax.base.files import leads_out, read_json, write_atomically
from grokjax.base.names import DIVERGED, INTERRUPTED, RUNNING, STOPPED
from grokjax.workdir.lock import is_locked

CURVES, RUNS, TIMING = "curves.csv", "runs.csv", "timing.json"
PATH_SITE = ("path_stage", "path_position")  # columns of names among the measures
EMPTY_CURVES = pd.DataFrame({"run_id": [], "step": []}, dtype=int)
_TEXTS = {"run_hash": str, "regime": str, "status": str}


class CurveWriter:
    """Appends evaluations to `curves.csv`; each (run_id, step) appears once, resumed or not.

    A table keeps the columns that it began with.

    Args:
      workdir: exists.
      start_step: the step that training starts from. Rows beyond it, left by a process that was
        stopped after its last checkpoint, are dropped: they will be made again. At 0 all are.
    """

    def __init__(self, workdir: str | os.PathLike, start_step: int = 0):
        self._path = pathlib.Path(workdir) / CURVES
        self._columns: list[str] | None = None
        if self._path.exists():
            self._rewind(start_step)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows through to the disk. Floats are written so that they read back exactly."""
        if self._columns is None:
            self._columns = list(rows[0])
            self._write([self._columns])
        if any(not set(self._columns) <= set(row) for row in rows):
            raise ValueError(f"{self._path}: a row lacks columns of the table")
        self._write([[_text(row[name]) for name in self._columns] for row in rows])

    def _rewind(self, start_step: int) -> None:
        lines = self._path.read_text(errors="replace").splitlines(keepends=True)
        try:
            header, kept = _rows_up_to(lines, start_step)
        except csv.Error:
            raise UserError(f"{self._path}: not a table; restore it or train again") from None
        kept = self._once(header, kept)
        if not start_step or "step" not in header:
            self._path.unlink()
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *kept])
        write_atomically(self._path, text.getvalue())
        self._columns = header

    def _once(self, header: Sequence[str], rows: Sequence[list[str]]) -> list[list[str]]:
        """Rows without those that somebody has doubled.

        Raises:
          UserError: two rows say different things of one evaluation.
        """
        if not {"run_id", "step"} <= set(header):
            return list(rows)
        run_id, step = header.index("run_id"), header.index("step")
        first: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            if first.setdefault((row[run_id], row[step]), row) != row:
                raise UserError(
                    f"{self._path}: has two rows of run {row[run_id][:20]} at step"
                    f" {row[step][:20]}; take one of them out"
                )
        if len(first) < len(rows):
            print(f"{self._path}: {len(rows) - len(first)} doubled rows taken out", flush=True)
        return list(first.values())

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        with open(self._path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            os.fsync(file.fileno())


def _rows_up_to(lines: Sequence[str], last: float) -> tuple[list[str], list[list[str]]]:
    """Header and whole rows of the table, up to a step."""
    header = next(csv.reader(lines[:1]), [])
    step = header.index("step") if "step" in header else 0
    rows = [
        row
        for line in lines[1:]
        if line.endswith("\n")  # a torn last line is none
        and len(row := next(csv.reader([line]))) == len(header)
        and row[step].isdecimal()
        and float(row[step]) <= last
    ]
    return header, rows


def write_runs(workdir: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces `runs.csv`, if it says anything else."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([[_text(value) for value in row.values()] for row in rows])
    path = pathlib.Path(workdir) / RUNS
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():
        write_atomically(path, text.getvalue())


def read_table(workdir: str | os.PathLike, name: str) -> pd.DataFrame:
    """`curves.csv` or `runs.csv` as written; a line that a kill has torn is none.

    Raises:
      UserError: there is none, or it is not such a table.
    """
    path = pathlib.Path(workdir) / name
    damaged = UserError(f"{path}: not a table; restore it or train again")
    if leads_out(path, path.parent) or (path.exists() and not path.is_file()):
        raise damaged
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; has this workdir been trained in?") from None
    except ValueError:
        raise damaged from None
    text = text[: text.rfind("\n") + 1]
    if name == CURVES:
        text = _whole_lines(text)
    if not text and name == CURVES:
        return EMPTY_CURVES
    try:  # a regime may be called nan: only an empty field is no number
        table = pd.read_csv(io.StringIO(text), dtype=_TEXTS, keep_default_na=False, na_values=[""])
    except (ValueError, OverflowError):
        raise damaged from None
    required = ("run_id", "status") if name == RUNS else ("run_id", "step")
    if not set(required) <= set(table):
        raise damaged
    if name == CURVES:
        table = _without_doubles(path, table)
    for column in table:
        is_whole = pd.api.types.is_integer_dtype(table[column])
        is_number = is_whole or pd.api.types.is_float_dtype(table[column])
        counts = column in ("run_id", "step")
        measured = not column.endswith(PATH_SITE) if name == CURVES else column[:4] == "num_"
        if len(table) and ((counts and not is_whole) or (measured and not is_number)):
            raise damaged
    return table


def _whole_lines(text: str) -> str:
    """Those that have as many fields as the first one: a row cut short reads as one of NaNs."""
    lines = text.splitlines(keepends=True)
    width = lines[0].count(",") if lines else 0
    return "".join(line for line in lines if line.count(",") >= width)


def _without_doubles(path: pathlib.Path, table: pd.DataFrame) -> pd.DataFrame:
    """Each evaluation of a run once.

    Raises:
      UserError: two rows say different things of one.
    """
    once = table.drop_duplicates(ignore_index=True)
    again = once[once.duplicated(["run_id", "step"])]
    if len(again):
        row = again.iloc[0]
        raise UserError(
            f"{path}: has two rows of run {row.run_id} at step {row.step}; take one of them out"
        )
    return once


def _text(value: Any) -> str:
    """Numbers by `repr`, the shortest text that reads back as the same number; NaN is empty."""
    if isinstance(value, float):
        return "" if value != value else repr(value)
    return str(value)


def read_runs(workdir: str | os.PathLike) -> pd.DataFrame:
    """`runs.csv`, where only a run that still trains is running: one that was killed is not.

    Raises:
      UserError: as `read_table` does.
    """
    runs = read_table(workdir, RUNS)
    if is_locked(pathlib.Path(workdir)):
        return runs
    return runs.assign(status=runs.status.replace(RUNNING, INTERRUPTED))


def read_timing(workdir: pathlib.Path) -> list[Any]:
    """What each session of training spent, up to its last checkpoint; empty where no log tells."""
    try:
        return list(read_json(workdir / TIMING))
    except (OSError, ValueError, TypeError):  # none yet, or damaged: it is only a log
        return []


def write_timing(workdir: pathlib.Path, sessions: Sequence[Any]) -> None:
    write_atomically(workdir / TIMING, json.dumps(sessions, indent=1) + "\n")


def usable_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs that statistics may use: those that have not diverged."""
    return runs[runs.status != DIVERGED]


def held_curves(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: str, by: str = "regime"
) -> pd.DataFrame:
    """A metric of the usable runs of each group, at each step where it was measured.

    Runs that left early keep their last value while others of the group train: without them the
    median would be that of the slow ones.

    Args:
      runs, curves: tables of a workdir.
      metric: a column of `curves`.
      by: the column of `runs` that groups them.

    Returns:
      Columns `by`, run_id, step and the metric.
    """
    usable = usable_runs(runs)[list(dict.fromkeys(["run_id", by, "status"]))]
    own = curves.merge(usable, on="run_id").dropna(subset=[metric])
    columns = list(dict.fromkeys([by, "run_id", "step", metric]))
    return pd.concat([own[columns], *_held(own, metric, by)], ignore_index=True)


def bands(
    runs: pd.DataFrame, curves: pd.DataFrame, metric: str, by: str = "regime"
) -> pd.DataFrame:
    """Median and band of a metric over the usable runs of each group, at each step.

    Args:
      runs, curves, metric, by: as `held_curves` takes them.

    Returns:
      Columns `by`, step, median, low, high, n. The band is the full range of up to 9 runs, and
      the 10th to 90th percentile of more. No rows where there is nothing to show.
    """
    own = held_curves(runs, curves, metric, by)
    grouped = own.groupby([by, "step"])[metric]
    n = grouped.size().astype(float)
    quantiles = [0.0, 0.1, 0.5, 0.9, 1.0]
    at = grouped.quantile(quantiles).unstack().reindex(index=n.index, columns=quantiles)
    few = n < 10
    table = pd.DataFrame(
        {
            "median": at[0.5],
            "low": at[0.0].where(few, at[0.1]),
            "high": at[1.0].where(few, at[0.9]),
            "n": n,
        }
    )
    order = {name: i for i, name in enumerate(own[by].unique())}
    return table.reset_index().sort_values(
        by, key=lambda names: names.map(order), kind="stable", ignore_index=True
    )


def _held(own: pd.DataFrame, metric: str, by: str) -> Iterator[pd.DataFrame]:
    """The last value of each run that left early, at the later steps of its group."""
    for run_id, run in own[own.status == STOPPED].groupby("run_id"):
        last = run.loc[run.step.idxmax()]
        steps = own.step[(own[by] == last[by]) & (own.step > last.step)].unique()
        held = pd.DataFrame({by: last[by], "run_id": run_id, "step": steps, metric: last[metric]})
        if len(held):
            yield held
