"""Tables of a finetuning, on curves with known answers."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_config

from grokjax.base.names import CATEGORIES
from grokjax.model.cost import train_flops
from grokjax.report import transfer_figures, transfer_page
from grokjax.report.html import interval, show_wide
from grokjax.report.published import published_finetuning
from grokjax.report.transfer_runs import TransferRuns
from grokjax.report.transfer_tables import (
    accuracy_table,
    break_even_table,
    compared,
    equivalence_table,
    time_table,
    worth_table,
)
from grokjax.results import Results
from grokjax.settings import load_experiment
from grokjax.training.resolve import model_config

STEPS = np.arange(0, 100, 10)
# group, checkpoint, seed, final accuracy, step from which accuracy is 0.6 (None: never), FLOPs
RUNS = [
    ("natural", "saturation", "0", 0.1, None, 1000.0),
    ("natural", "saturation", "1", 0.6, 60, 1000.0),
    ("natural", "end", "0", 0.6, 20, 4000.0),
    ("natural", "end", "1", 0.6, 30, 4000.0),
    ("both_hop_full", "end", "0", 0.62, 20, 4000.0),
    ("both_hop_full", "end", "1", 0.61, 20, 4000.0),
]


@pytest.fixture
def data():
    members, frames = [], []
    for run_id, (group, checkpoint, seed, final, at, flops) in enumerate(RUNS):
        accuracy = np.where(at <= STEPS, 0.6, 0.0) if at is not None else np.zeros(len(STEPS))
        accuracy[5 if run_id == 0 else -1] = final  # where its curve ends
        columns = {f"{name}/answer_accuracy": accuracy for name in CATEGORIES}
        columns |= {f"{name}/bridge_found": 0.4 for name in CATEGORIES}
        columns |= {f"{name}/bridge_chance": 0.1 for name in CATEGORIES}
        columns["atomic_new/answer_accuracy"] = np.linspace(0, 1, len(STEPS))
        frames.append(pd.DataFrame({"run_id": run_id, "step": STEPS} | columns))
        members.append((group, checkpoint, "", run_id, seed, 0.0, flops, 9000.0))
    names = ["group", "checkpoint", "variant", "run_id", "seed", "dose"]
    names += ["pretraining_flops", "finetuning_flops"]
    config = tiny_config()
    config.train.num_steps = 90
    runs = pd.DataFrame({"run_id": range(6), "status": "done", "num_atomic_new": 7})
    runs = runs.assign(**{f"num_{name}": [5, 7, 5, 7, 5, 7] for name in CATEGORIES})
    curves = pd.concat(frames)
    curves = curves[(curves.run_id != 0) | (curves.step <= 50)]  # one has left early
    results = Results(pathlib.Path("nowhere"), config, 30, runs, curves)
    return TransferRuns(results, pd.DataFrame(members, columns=names))


def test_a_table_without_a_row_has_its_header(data):
    """No run is left: each table names the same columns as with runs."""
    nobody = dataclasses.replace(data, members=data.members.iloc[:0])
    for made in (accuracy_table, time_table, worth_table, break_even_table, equivalence_table):
        empty, full = made(nobody), made(data)
        assert not len(empty) and len(full) and list(empty) == list(full)
    page = transfer_page.page(nobody)
    assert "nothing can be said" in page.findings[0].text and not page.sections
    assert all(len(table.columns) for table in page.tables.values())


def test_new_states_are_told_beside_the_baseline(data, tmp_path):
    """Runs without a site are left out; what new brings is told less what another old one does."""
    results = dataclasses.replace(data.results, workdir=tmp_path)
    data = TransferRuns(results, data.members)
    halves = pd.DataFrame({"run_id": range(6), "score": [0.9, 0.9, 0.9, 0.9, 0.3, 0.8]})
    names = ("old_effect", "accuracy", "old_patched", "new_patched")
    halves = halves.assign(num_pairs=9, **dict.fromkeys(names, 0.5))
    halves["same_effect"], halves["new_effect"] = [0.8] * 6, [0.7, 0.7, 0.3, 0.5, 0.8, 0.6]
    halves.to_csv(tmp_path / "halves.csv", index=False)
    table = transfer_page.read_halves(data)
    end = table[(table.group == "natural") & (table.checkpoint == "end")].iloc[0]
    assert (end.same_effect, end.new_effect) == (pytest.approx(0.8), pytest.approx(0.4))
    assert end.new_less_same == pytest.approx(-0.4)
    assert (end.new_less_same_low, end.new_less_same_high) == pytest.approx((-0.5, -0.3))
    both = table[table.group == "both_hop_full"].iloc[0]
    assert (both.num_with_site, both.num_runs) == (1, 2)
    assert both.new_less_same == pytest.approx(-0.2)


def of(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_accuracies_have_the_runs_and_queries_that_they_rest_on(data):
    row = of(accuracy_table(data), group="natural", checkpoint="saturation", asked="old_then_new")
    assert row.num_runs == 2 and row.num_queries == 6
    assert row.accuracy == pytest.approx(0.35)
    # Of two runs their own values, not an interval beyond 0 and 1.
    assert (row.low, row.high, row.interval) == (pytest.approx(0.1), pytest.approx(0.6), "range")
    assert row.accuracy_median == pytest.approx(0.35)
    assert row.bridge_found == pytest.approx(0.4) and row.bridge_chance == pytest.approx(0.1)


def test_runs_that_never_get_there_are_censored(data):
    table = time_table(data)
    early = of(table, group="natural", checkpoint="saturation", asked="new_then_old", level=0.5)
    assert (early.reached, early.num_runs) == (1, 2)
    # Nothing is known of a run beyond the step where it left: to 50, both have no event yet.
    assert early.horizon == 50 and early.mean_steps == pytest.approx(50)
    assert (early.earliest, early.latest) == (60, 60)
    assert np.isnan(early.median_high)  # at two runs the bounds would hold every time
    late = of(table, group="natural", checkpoint="end", asked="new_then_old", level=0.5)
    assert late.reached == 2 and late.mean_steps == pytest.approx(25) and late["median"] == 20


def test_gain_is_paired_by_seed(data):
    table = worth_table(data)
    row = of(table, group="natural", checkpoint="end", asked="new_then_new")
    assert row.pretraining_flops == 4000 and row.finetuning_flops == 9000
    assert row.gain == pytest.approx((0.5 + 0.0) / 2)
    assert (row.gain_low, row.gain_high) == (pytest.approx(0.0), pytest.approx(0.5))
    first = of(table, group="natural", checkpoint="saturation", asked="new_then_new")
    assert np.isnan(first.gain)


def test_break_even_counts_finetunings(data):
    row = of(break_even_table(data), group="natural", asked="new_then_old", level=0.5)
    assert (row.early, row.late, row.num_pairs) == ("saturation", "end", 2)
    assert (row.only_late, row.only_early, row.neither, row.pays) == (1, 0, 0, 1)
    # Seed 1: 3000 more FLOPs once, (60 - 30) steps less each time.
    config = data.results.config
    per_step = train_flops(model_config(config, 30)) * config.train.batch_size
    assert row.break_even == pytest.approx(3000 / (30 * per_step))
    row = of(break_even_table(data), group="natural", asked="new_then_old", level=0.95)
    assert row.neither == 2 and np.isnan(row.break_even)


def test_equivalence_is_an_exact_test_of_pairs(data):
    table = equivalence_table(data, margin=0.1)
    same = of(table, group="natural", checkpoint="end", asked="old_then_new")
    assert same.num_pairs == 2 and same.difference == pytest.approx(-0.015)
    # Two pairs have four signs: no p below a quarter, and nothing is shown.
    assert same.p_equivalent == same.p_smallest == 0.25 and same.verdict == "not shown"
    assert (same.low, same.high) == (pytest.approx(-0.02), pytest.approx(-0.01))


def test_what_is_compared_is_larger_than_the_margin():
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.02, 0.02, 8)
    high, low = 0.7 + noise, 0.05 + noise
    other = rng.uniform(-0.02, 0.02, 8)
    assert compared(high + other, high, 0.1)["verdict"] == "equivalent"
    assert compared(low + other, low, 0.1)["verdict"] == "floor"
    apart = compared(high - 0.4, high, 0.1)
    assert apart["verdict"] == "different" and apart["p_different"] == 2 / 2**8
    assert compared(high - 0.1 + other, high, 0.1)["verdict"] == "not shown"


def test_pictures_show_what_the_tables_say(data):
    grid = transfer_figures.transfer_figure(data)
    last = grid.data[(grid.data.group == "natural") & (grid.data.step == 90)]
    shown = last[(last.curve == "answer") & (last.asked == "old_then_new")].iloc[0]
    assert shown["median"] == pytest.approx(0.6) and shown.n == 2  # from the end alone
    assert "seeds" not in transfer_page.caption(data)
    assert "new then old 5 to 7" in transfer_page.caption(data)
    assert not transfer_figures.has_doses(data)
    wide = show_wide(
        accuracy_table(data), transfer_page._RUNS, "asked", interval("accuracy", "low", "high")
    )
    assert wide.loc[1, "old_then_new"] == "0.60 [0.60, 0.60]"
    worth = transfer_figures.worth_figure(data)
    assert set(worth.data.group) == {"natural", "both_hop_full"}


def test_the_published_curves_are_drawn_where_the_setting_is_theirs(data):
    config = load_experiment("experiments/paper.py")
    config.transfer.source = "runs/x"
    paper = published_finetuning(config)
    assert paper["control_group"]["final_answer_accuracy"]["new_then_old"][-1] < 0.5
    figure = transfer_figures.transfer_figure(data, paper).figure
    lines = figure.axes[0].get_lines()
    drawn = {line.get_label(): line.get_ydata() for line in lines}
    curve = drawn["published run, answer"]
    assert list(curve) == paper["natural"]["final_answer_accuracy"]["new_then_old"]
    config.transfer.num_kept = 100
    assert published_finetuning(config) is None
