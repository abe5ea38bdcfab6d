"""Tables that survive whatever stopped the writer."""

import math

import numpy as np
import pandas as pd
import pytest

from grokjax.base.errors import UserError
from grokjax.base.names import RUN_STATUSES
from grokjax.workdir.lock import locked
from grokjax.workdir.tables import (
    CurveWriter,
    bands,
    read_runs,
    read_table,
    usable_runs,
    write_runs,
)


def rows(step, runs=2):
    return [
        {"run_id": i, "step": step, "loss": 1 / 3 + i, "id_atomic/exact_match": step / 7}
        for i in range(runs)
    ]


def written(tmp_path, *steps, start=0):
    writer = CurveWriter(tmp_path, start)
    for step in steps:
        writer.append(rows(step))


def test_numbers_come_back_exactly(tmp_path):
    written(tmp_path, 0, 10)
    curves = read_table(tmp_path, "curves.csv")
    assert list(curves) == ["run_id", "step", "loss", "id_atomic/exact_match"]
    assert curves.loss.tolist() == [1 / 3, 4 / 3] * 2 and curves.step.tolist() == [0, 0, 10, 10]


@pytest.mark.parametrize("regime", ["nan", "NA", "None", "007", "1e5"])
def test_a_regime_is_text(regime, tmp_path):
    """A data folder may have any name, and names the regime."""
    write_runs(tmp_path, [{"run_id": 0, "run_hash": "1e3", "regime": regime, "status": "done"}])
    runs = read_table(tmp_path, "runs.csv")
    assert runs.regime.tolist() == [regime] and runs.run_hash.tolist() == ["1e3"]


def test_only_what_trains_is_running(tmp_path):
    """A kill -9 leaves its runs as they were; whoever reads them finds nobody at work."""
    runs = [{"run_id": i, "run_hash": f"{i}", "status": s} for i, s in enumerate(RUN_STATUSES)]
    write_runs(tmp_path, runs)
    with locked(tmp_path):
        assert read_runs(tmp_path).status.tolist() == list(RUN_STATUSES)
    assert read_runs(tmp_path).status.tolist() == ["interrupted", *RUN_STATUSES[1:]]


def test_readers_see_no_torn_line(tmp_path):
    written(tmp_path, 0, 10)
    with open(tmp_path / "curves.csv", "a") as file:
        file.write("0,20,0.5,0.1")
    assert read_table(tmp_path, "curves.csv").step.tolist() == [0, 0, 10, 10]
    (tmp_path / "curves.csv").write_text("run_id,st")
    assert len(read_table(tmp_path, "curves.csv")) == 0


def test_a_resume_makes_no_row_twice(tmp_path):
    written(tmp_path, 0, 10, 20, 30)
    written(tmp_path, 30, 40, start=20)  # the last checkpoint was at 20
    curves = read_table(tmp_path, "curves.csv")
    assert curves.step.tolist() == [s for s in (0, 10, 20, 30, 40) for _ in range(2)]
    assert not curves.duplicated(["run_id", "step"]).any()


def test_a_table_keeps_its_columns(tmp_path):
    """What a later version measures too has no place in a table that was begun before."""
    written(tmp_path, 0, 10, start=0)
    writer = CurveWriter(tmp_path, 10)
    writer.append([row | {"new": 1.0} for row in rows(20)])
    curves = read_table(tmp_path, "curves.csv")
    assert "new" not in curves and curves.step.tolist() == [0, 0, 10, 10, 20, 20]


def test_a_start_from_nothing_has_no_rows_yet(tmp_path):
    written(tmp_path, 0, 10)  # stopped before its first checkpoint
    written(tmp_path, 0, 10)
    assert read_table(tmp_path, "curves.csv").step.tolist() == [0, 0, 10, 10]


def test_a_torn_line_is_dropped(tmp_path):
    written(tmp_path, 0, 10)
    with open(tmp_path / "curves.csv", "a") as file:
        file.write("0,20,0.5")
    written(tmp_path, 20, start=20)
    assert read_table(tmp_path, "curves.csv").step.tolist() == [0, 0, 10, 10, 20, 20]
    with open(tmp_path / "curves.csv", "a") as file:
        file.write("0,20,0.5,0.1")  # every column, the last one cut short
    written(tmp_path, 30, start=20)
    assert read_table(tmp_path, "curves.csv").step.tolist() == [0, 0, 10, 10, 20, 20, 30, 30]
    (tmp_path / "curves.csv").write_text("run_id,st")
    written(tmp_path, 0)
    assert read_table(tmp_path, "curves.csv").step.tolist() == [0, 0]


def test_missing_columns_are_an_error(tmp_path):
    writer = CurveWriter(tmp_path)
    writer.append(rows(0))
    with pytest.raises(ValueError, match="lacks columns"):
        writer.append([{"run_id": 0, "step": 1}])


def test_not_a_number_is_empty(tmp_path):
    CurveWriter(tmp_path).append([{"run_id": 0, "step": 0, "loss": math.nan}])
    assert (tmp_path / "curves.csv").read_text() == "run_id,step,loss\n0,0,\n"
    assert math.isnan(read_table(tmp_path, "curves.csv").loss[0])


def test_missing_and_foreign_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"runs\.csv: no such file"):
        read_table(tmp_path, "runs.csv")
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a table"):
        read_table(tmp_path, "runs.csv")


def make_population(tmp_path, num_runs, diverged=()):
    write_runs(
        tmp_path,
        [
            {
                "run_id": i,
                "run_hash": f"{i:012d}",
                "regime": "natural",
                "status": "diverged" if i in diverged else "done",
            }
            for i in range(num_runs)
        ],
    )
    CurveWriter(tmp_path).append([{"run_id": i, "step": 5, "x": i / 10} for i in range(num_runs)])
    return read_table(tmp_path, "runs.csv"), read_table(tmp_path, "curves.csv")


def test_bands_leave_diverged_runs_out(tmp_path):
    runs, curves = make_population(tmp_path, 5, diverged=(4,))
    assert runs.run_hash[0] == "000000000000"  # text, not a number
    assert usable_runs(runs).run_id.tolist() == [0, 1, 2, 3]
    band = bands(runs, curves, "x").iloc[0]
    np.testing.assert_allclose([band["median"], band.low, band.high, band.n], [0.15, 0, 0.3, 4])


def test_bands_of_many_seeds_are_percentiles(tmp_path):
    runs, curves = make_population(tmp_path, 11)
    band = bands(runs, curves, "x").iloc[0]
    np.testing.assert_allclose([band["median"], band.low, band.high], [0.5, 0.1, 0.9])


def test_runs_that_left_early_keep_their_last_value():
    runs = pd.DataFrame({"run_id": [0, 1, 2], "regime": "a", "status": ["stopped", "done", "done"]})
    curves = pd.DataFrame(
        {
            "run_id": [0, 0, 1, 1, 1, 2, 2],  # the last one is still on its way
            "step": [0, 10, 0, 10, 20, 0, 10],
            "x": [0.0, 1.0, 0.0, 0.2, 0.4, 0.0, 0.3],
        }
    )
    table = bands(runs, curves, "x").set_index("step")
    assert table.n.tolist() == [3, 3, 2]
    assert table.loc[20, ["median", "low", "high"]].tolist() == pytest.approx([0.7, 0.4, 1.0])


def test_bands_of_nothing_are_empty(tmp_path):
    runs, curves = make_population(tmp_path, 2, diverged=(0, 1))
    assert not len(bands(runs, curves, "x")) and "median" in bands(runs, curves, "x")
    curves["x"] = math.nan
    runs["status"] = "done"
    assert not len(bands(runs, curves, "x"))
