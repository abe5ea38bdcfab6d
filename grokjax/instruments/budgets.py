"""What the programs may cost on machines that are not here: the rows, and how they are kept.

`grokjax budgets` compiles each row, compares it with what it must not exceed and with the table
that is committed, and writes that table. The tests of the marker `targets` do the same.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from grokjax.base.errors import UserError
from grokjax.base.files import write_atomically
from grokjax.instruments.compile import compile_for, in_units, versions
from grokjax.settings import load_experiment

TABLE = "counts.csv"
COMMITTED = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "accelerators" / TABLE
# What a change may add to a row, as a factor; of all else that is listed, nothing.
_GROWTH = {
    "flops": 1.1,
    "bytes_per_run": 1.25,
    "cycles_per_run": 1.25,
    "temporary_bytes": 1.25,
    "kernels": 1.25,
    "collective_bytes": 1.1,
    "num_collectives": 1.0,
    "unknown_loops": 1.0,
    "host_transfers": 1.0,
}
_QUICKSTART = "tests/data/workdirs/15fac09_quickstart.json"  # as it was at that commit
_PAPER = "experiments/paper.py"


@dataclasses.dataclass(frozen=True)
class Budget:
    """One row.

    Attributes:
      name: of the row.
      config, target, num_runs, num_devices, program: as `compile_for` has them; None: all devices.
      settings: that are changed.
      most: {column: what it must not exceed}.
      short: whether it compiles in a minute, and belongs to the short form.
    """

    name: str
    config: str
    target: str
    num_runs: int
    num_devices: int | None = None
    program: str = "training"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    most: Mapping[str, float] = dataclasses.field(default_factory=dict)
    short: bool = False

    @property
    def command(self) -> str:
        """That prints the same."""
        given = {"--config": self.config, "--target": self.target, "--runs": self.num_runs}
        if self.num_devices:
            given["--devices"] = self.num_devices
        given["--programs"] = self.program
        given |= {f"--config.{name}": value for name, value in self.settings.items()}
        return " ".join(["grokjax compile", *(f"{n}={v}" for n, v in given.items())])


_NO_WAITS = {"unknown_loops": 0, "host_transfers": 0}
_AS_BEFORE = {"model.matmul_precision": "default"}  # which 15fac09 left to JAX
BUDGETS = (
    Budget(
        "quickstart, 64 runs, sm_90",
        _QUICKSTART,
        "h200",
        64,
        most={"bytes_per_run": 40e6, "kernels": 150, **_NO_WAITS},
    ),
    Budget(
        "quickstart, 64 runs, sm_80",
        _QUICKSTART,
        "a100",
        64,
        most=_NO_WAITS,
    ),
    Budget(
        "quickstart, 8 runs, v5e",
        _QUICKSTART,
        "v5e",
        8,
        num_devices=1,
        most=_NO_WAITS,
        short=True,
    ),
    Budget(
        "quickstart, 64 runs, v5e",
        _QUICKSTART,
        "v5e",
        64,
        num_devices=1,
        most={"cycles_per_run": 150e3, **_NO_WAITS},
    ),
    Budget(
        "quickstart, 256 runs, v5e",
        _QUICKSTART,
        "v5e",
        256,
        num_devices=1,
        most={"cycles_per_run": 150e3, **_NO_WAITS},
    ),
    Budget(
        "quickstart, 64 runs, v5e, default precision",
        _QUICKSTART,
        "v5e",
        64,
        num_devices=1,
        settings=_AS_BEFORE,
        most={"cycles_per_run": 150e3, **_NO_WAITS},
    ),
    Budget(
        "evaluation of 64 quickstart runs, v5e",
        _QUICKSTART,
        "v5e",
        64,
        num_devices=1,
        program="evaluation",
        most={"temporary_bytes": 0.8e9},
    ),
    Budget(
        "paper, one sm_90",
        _PAPER,
        "h100",
        1,
        most={"bytes": 120e9, "temporary_bytes": 12 * 2**30, **_NO_WAITS},
    ),
    Budget(
        "paper, five runs, one sm_90 of 80 GB",
        _PAPER,
        "h100",
        5,
        most={"bytes_needed": 80e9, **_NO_WAITS},
    ),
    Budget(
        "paper, one v5e",
        _PAPER,
        "v5e",
        1,
        num_devices=1,
        most={"flops": 1.35 * 24.2e12, "cycles_per_run": 600e6, **_NO_WAITS},
    ),
    Budget(
        "paper, its batch on four v5e",
        _PAPER,
        "v5e",
        1,
        settings={"train.batch_devices": 4},
        most={"flops": 6.35e12, "cycles": 200e6, "largest_gather_bytes": 20e6, **_NO_WAITS},
    ),
    Budget(
        "quickstart, 64 runs, v6e",
        _QUICKSTART,
        "v6e",
        64,
        num_devices=1,
        most=_NO_WAITS,
    ),
    Budget(
        "quickstart, 64 runs, v5p",
        _QUICKSTART,
        "v5p",
        64,
        num_devices=1,
        most=_NO_WAITS,
    ),
)


def measure(budget: Budget) -> dict[str, Any]:
    """Compiles a row and counts it.

    Raises:
      UserError: it does not fit, or its compiler is not installed.
    """
    (found,) = compile_for(
        load_experiment(budget.config, dict(budget.settings)),
        budget.target,
        num_runs=budget.num_runs,
        num_devices=budget.num_devices,
        programs=(budget.program,),
    )
    row = found.row()
    runs = found.num_runs / found.num_devices  # of a device; a part of one where batches are split
    row["num_collectives"] = len(row.pop("collectives"))
    del row["compile_seconds"]  # of the machine that counts, and no count
    row["cycles_per_run"] = row["cycles"] / runs
    row["bytes_per_run"] = row["bytes"] / runs
    return {"name": budget.name, "command": budget.command} | row | versions()


def problems(
    budget: Budget, row: Mapping[str, Any], committed: Mapping[str, Any] | None = None
) -> list[str]:
    """What is wrong with a row's counts, one text each: too much, or more than is committed.

    Args:
      budget: what it must not exceed.
      row: its counts.
      committed: of before; of other compilers they say nothing.
    """
    wrong = [
        f"{name} {row[name]:.4g}, must be at most {most:.4g}"
        for name, most in budget.most.items()
        if not row[name] <= most
    ]
    if committed is None or any(committed.get(n) != v for n, v in versions().items()):
        return wrong
    return wrong + [
        f"{name} {row[name]:.4g}, committed {committed[name]:.4g}"
        for name, growth in _GROWTH.items()
        if row[name] > growth * committed[name] + 1e-9
    ]


def read_table(path: str | os.PathLike = COMMITTED) -> dict[str, dict[str, Any]]:
    """A table's rows by name; none if there is no such file."""
    if not pathlib.Path(path).exists():
        return {}
    table = pd.read_csv(path, keep_default_na=False)
    return {row["name"]: row for row in table.to_dict("records")}


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of docs/accelerators.md."""
    header = "| row | FLOPs | bytes | temporaries | kernels | cycles a run | collectives | must |"
    lines = [header, "|" + "---|" * 8]
    most = {b.name: b.most for b in BUDGETS}
    for row in rows:
        limits = [f"{n} {in_units(v)}" for n, v in most[row["name"]].items() if v]
        told = [
            row["name"],
            in_units(row["flops"]),
            f"{in_units(row['bytes'])}B",
            f"{in_units(row['temporary_bytes'])}B",
            f"{row['kernels']:,.0f}",
            in_units(row["cycles_per_run"]) if row["cycles"] else "",
            f"{in_units(row['collective_bytes'])}B" if row["num_collectives"] else "none",
            ", ".join(text.strip() for text in limits) or "no waits",
        ]
        lines.append(f"| {' | '.join(text.strip() for text in told)} |")
    return "\n".join(lines).replace("_", " ")


def main(
    out: str | os.PathLike | None = None,
    only: Iterable[str] = (),
    measured: Callable[[Budget], dict[str, Any]] = measure,
) -> bool:
    """Compiles the rows and prints what they come to; whether each is as it must be.

    Args:
      out: a folder whose table gets the rows, each as soon as it is counted; None compares alone.
      only: rows whose names have one of these texts; default: all.
      measured: how a row is counted.
    """
    texts = list(only)
    exact = [b for b in BUDGETS if b.name in texts]
    chosen = exact or [b for b in BUDGETS if not texts or any(text in b.name for text in texts)]
    if not chosen:
        raise UserError(f"--only={texts[0]}: no such row; they are {'; '.join(_names())}")
    path = COMMITTED if out is None else pathlib.Path(out) / TABLE
    good = True
    for budget in chosen:
        before = read_table(path)
        try:
            row = measured(budget)
            wrong = problems(budget, row, None if out else before.get(budget.name))
            if out is None and budget.name not in before:
                wrong.append("not in the committed table; write it with --out")
        except UserError as error:
            row, wrong = None, [str(error)]
        good &= not wrong
        print(f"{budget.name}: {'; '.join(wrong) or 'holds'}", flush=True)
        if out is not None and row is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = before | {budget.name: row}
            kept = pd.DataFrame([rows[name] for name in _names() if name in rows])
            write_atomically(path, kept.to_csv(index=False, lineterminator="\n"))
    return good


def _names() -> list[str]:
    return [budget.name for budget in BUDGETS]


if __name__ == "__main__":  # prints the table of docs/accelerators.md
    print(page(read_table().values()))
