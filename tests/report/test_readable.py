"""What a reader who knows nothing of the project takes from a page: signs, bounds, reasons."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from fabricated import NEVER, Course, fabricate, ratios, regimes

from grokjax.report import training_columns
from grokjax.report.findings import findings
from grokjax.report.html import Page, Section, Shown, around, interval, render, show
from grokjax.report.training_page import page
from grokjax.report.training_runs import group_labels, read_training
from grokjax.report.training_tables import seed_variance
from grokjax.settings import seeds
from grokjax.statistics.permutation import holm
from grokjax.statistics.survival import CENSORED, EVENT, aalen_johansen, median_time
from grokjax.sweeps.results import load

TWO = ("natural", "both_hop_full")


def runs_of(tmp_path, rows, story):
    return read_training(load(fabricate(tmp_path / "alone" / "w", list(rows), story)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs_of(tmp_path_factory.mktemp("sooner"), regimes(3, TWO), sooner)


@pytest.fixture(scope="module")
def made(data):
    return page(data)


def told(data, made, **tables):
    """The sentences on top, some of the tables replaced."""
    return [f.text for f in findings(data, dict(made.tables) | tables)]


def only(sentences, part):
    """The one sentence with that in it."""
    (text,) = (s for s in sentences if part in s)
    return text


def section(made, title):
    (found,) = (s for s in made.sections if s.title == title)
    return found


def sooner(settings, rng):
    """Run 2 of each never answers; natural comes later, and generalises."""
    answer = 6000 if settings["data.regime"] == "natural" else 2000
    return Course(1500, 4000, NEVER if settings["seeds.data"] == 2 else answer)


def test_signs_are_those_that_the_note_tells(tmp_path):
    def story(settings, rng):
        natural = settings["data.regime"] == "natural"
        return Course(1500, answer=6000, top=0.7) if natural else Course(1500, answer=2000)

    made = page(runs_of(tmp_path, regimes(3, TWO), story))
    rows = made.tables["comparisons"]
    assert (rows.group_a == "natural").all() and (rows.group_b == "both_hop_full").all()
    ends = made.tables["outcomes"].groupby("group").final_ood_accuracy.mean()
    difference = rows[rows.quantity == "final OOD accuracy"].estimate.iloc[0]
    assert difference == pytest.approx(ends["both_hop_full"] - ends["natural"]) and difference > 0.1
    ratio = rows[(rows.quantity == "steps to answer") & (rows.level == 0.5)].estimate.iloc[0]
    assert ratio < 0.7
    note = section(made, "What differs").text
    assert "difference is b less a" in note and "ratio is b over a" in note
    assert "below 1, b is sooner" in note and "a less b" not in note


def test_what_could_not_hold_is_told_after_the_correction(data, made):
    """Eight rows whose smallest p is 0.0156: each is below 0.05, and Holm leaves 0.125."""
    row = made.tables["comparisons"].iloc[[0]].assign(quantity="steps to answer", family="declared")
    table = pd.concat([row] * 8, ignore_index=True).assign(p=0.5, p_holm=1.0, p_smallest=2 / 128)
    text = only(told(data, made, comparisons=table), "declared comparisons")
    assert "none could have" in text and "0.12 or more" in text
    # Two of three could: one of them needs what the third leaves.
    table = table[:3].assign(p_smallest=[0.001, 0.002, 0.9])
    text = only(told(data, made, comparisons=table), "declared comparisons")
    assert "1 could not have" in text and "0.9 or more" in text
    table = table.assign(p_smallest=0.001)
    text = only(told(data, made, comparisons=table), "declared comparisons")
    assert "could" not in text and holm(table.p_smallest).max() < 0.05


def test_the_dearest_is_the_highest_of_what_is_compared(data, made):
    """One late run makes the highest cost of all, and not the highest mean."""
    costs = made.tables["costs"]
    row = costs[(costs.unit == "FLOP") & (costs.level == 0.5)].iloc[[0]]
    table = pd.concat([row] * 7, ignore_index=True).assign(
        group=[f"g{i}" for i in range(7)],
        reached=[3, 3, 3, 3, 3, 3, 0],
        restricted_mean=[2e9, 1e9, 3e9, 7e9, 4e9, 5e9, 9e9],
        earliest=[2e9, 9e8, 3e8, 6e9, 4e9, 5e9, math.nan],
        latest=[2e9, 2e9, 8e9, 7.5e9, 4e9, 5e9, math.nan],
        ratio=[math.nan, 0.5, 1.5, 3.5, 2.0, 2.5, 4.5],
    )
    text = only(told(data, made, costs=table), "cheapest")
    assert text.index("g1 3 of 3, 1.0e+09") < text.index("g3 3 of 3, 7.0e+09")
    assert "g2" not in text and "no run of 1 group got there" in text


def test_regimes_beside_numbers_of_ones_own_are_groups_of_their_own():
    """A regime's own hops are -1 in every regime: they name none."""
    runs = pd.DataFrame(
        [
            ("natural", -1.0, -1, math.inf),
            ("both_hop_full", -1.0, -1, math.inf),
            ("both_hop_full", -1.0, -1, 4.88),
            ("h1ratio0_h1k0_h2ratio1_h2k2", 1.0, 2, math.inf),
        ],
        columns=["regime", "data.hop2_ratio", "data.hop2_k", "data.phi"],
    )
    assert group_labels(runs) == [
        "natural, phi inf",
        "both_hop_full, phi inf",
        "both_hop_full, phi 4.88",
        "hop 2 ratio 1, hop 2 k 2, phi inf",
    ]


def test_generalisation_is_told_from_exposure(data, made):
    text = only(told(data, made), "in-distribution")
    assert "both_hop_full" in text and "natural" not in text
    assert text.startswith("OOD accuracy equals held-out ID accuracy within 0.05 in")
    assert "compositions of OOD facts were trained on there" in text
    assert "2 of 3 runs of both_hop_full" in text
    text = only(told(data, made), "generalisation")
    assert "2 of 3 runs of natural" in text and "no compositions of OOD facts were" in text
    # Where nobody knows what was composed, neither is said.
    unknown = dataclasses.replace(
        data, runs=data.runs.drop(columns=["num_hop1_added", "num_hop2_added"])
    )
    text = only(told(unknown, made), "within 0.05 in 2 of 3 runs of each of natural and both")
    assert "generalisation" not in text and "in-distribution" not in text


def test_the_order_says_by_which_reading_and_where_they_differ(data, made):
    outcomes = made.tables["outcomes"]
    same = outcomes.assign(**{"any_order_0.5": outcomes["order_0.5"]})
    text = only(told(data, made, outcomes=same), "Path or answer first")
    assert "strict" in text and "The bridge anywhere gives all of them the same order" in text
    strict = ["answer first"] * 2 + ["path first"] * 4
    anywhere = ["path first"] * 2 + ["path first"] * 3 + ["together"]
    other = outcomes.assign(**{"order_0.5": strict, "any_order_0.5": anywhere})
    text = only(told(data, made, outcomes=other), "Path or answer first")
    assert "The bridge anywhere gives 3 of 6 runs another order" in text
    assert "2 path first, not answer first" in text and "1 together, not path first" in text


def test_the_page_says_what_its_brackets_are(data, made):
    about = section(made, "Time to memorise, to the path, to the answer").tables[0].caption
    assert "of shares 0 and 1 Wilson's" in about and "lowest and highest run" in about
    assert "bootstrap" not in about
    costs = made.tables["costs"].assign(interval="bootstrap")
    assert "95 % bootstrap" in training_columns.brackets(costs.interval)
    both = training_columns.brackets(["bootstrap", "range", ""])
    assert "95 % bootstrap" in both and "lowest and highest" in both and "fewer" in both


def test_an_interval_that_holds_everything_is_none():
    time, cause = np.array([3000.0, 9000, 9000]), np.array([EVENT, CENSORED, CENSORED])
    for n in (1, 2, 3):
        found = median_time(aalen_johansen(time[:n], cause[:n]), n)
        assert math.isnan(found.low) and math.isnan(found.high) and found.kind == ""
    many = median_time(aalen_johansen(np.repeat(time, 20), np.repeat(cause, 20)), 60)
    assert many.low == 9000 or math.isinf(many.low)
    table = pd.DataFrame({"m": [3000.0, 3000, math.inf, math.inf], "m_low": [math.nan, 2000, 8000,
        math.inf], "m_high": [math.nan, math.inf, math.inf, math.inf]})  # fmt: skip
    assert around("m", ",.0f")(table) == [
        "3,000", "3,000 [from 2,000]", "not reached [from 8,000]", "not reached",
    ]  # fmt: skip
    assert "inf" not in "".join(interval("m", "m_low", "m_high", ".1e")(table))


def test_whole_numbers_are_whole(made):
    comparisons = made.tables["comparisons"]
    shown = show(comparisons, training_columns.COMPARED)
    assert shown["over the family"].str.fullmatch(r"(not )?declared, \d+ rows?").all()
    assert pd.api.types.is_integer_dtype(comparisons.family_size)


def test_columns_are_told_apart_and_empty_ones_named(data, made):
    shown = section(made, "The runs").tables[0]
    headings = [h.strip() for h in shown.table]
    assert len(set(headings)) == len(headings) and "anywhere, by chance" in headings
    # The fabricated runs have no strict chance: that column says nothing, and the note why.
    assert "at its site, by chance" not in headings
    assert "Not measured: at its site, by chance." in shown.caption


def test_bounds_and_lags_say_what_they_rest_on(made):
    for title in ("What differs", "Is it worthwhile?"):
        assert "No bound:" in section(made, title).tables[0].caption
    order = made.tables["order"]
    assert (order.lag_n <= order["count"]).all() and order.lag_n.max() > 0
    assert "lags of" in section(made, "Path or answer first").tables[0].table
    for row in order[order.lag_n == 0].itertuples():
        assert math.isnan(row.lag_median)


def test_seeds_that_cannot_be_told_apart_are_a_sentence(data, made):
    shown = section(made, "Which seed matters")
    assert not shown.tables and "cannot be told" in shown.text and "seeds.data" in shown.text
    assert len(made.tables["variance"])
    alike = data.outcomes.assign(final_ood_accuracy=1.0, memorised=500.0)
    for changed in (
        alike,
        alike.assign(**{"seeds.order": [0, 1, 1] * 2, "seeds.data": [0, 0, 1] * 2}),
    ):
        frozen = dataclasses.replace(data)
        frozen.__dict__["outcomes"] = changed
        assert seed_variance(frozen).share.isna().all()


def test_the_titles_question_is_answered_or_said_to_be_open(data, made, tmp_path):
    costs = made.tables["costs"]

    def answer(**changed):
        table = costs.assign(**changed)
        return only(told(data, made, costs=table), "Worth its compute")

    both = costs.group == "both_hop_full"
    lower = answer(ratio=np.where(both, 0.4, math.nan), ratio_bound="")
    assert "both_hop_full takes 0.4 times the FLOP of natural" in lower and "cheaper" in lower
    assert "not shown" in lower  # three pairs: no p is small enough
    higher = answer(ratio=np.where(both, 2.5, math.nan), ratio_bound="at least")
    assert "at least 2.5 times" in higher and "natural is the cheapest" in higher
    bounded = answer(ratio=np.where(both, 2.5, math.nan), ratio_bound="at most")
    assert "cannot be said" in bounded
    assert "cannot be said" in answer(ratio=0.4, ratio_bound="no bound")
    assert "no run" in answer(reached=0)
    alone = page(runs_of(tmp_path, seeds(2), sooner))
    assert "one group" in only([f.text for f in alone.findings], "Worth its compute")


def test_one_seed_that_fails_everywhere_is_named(data, made):
    assert "data seed 2" in only(told(data, made), "In both groups")
    mixed = made.tables["outcomes"].copy()
    mixed.loc[mixed.group == "natural", "seeds.data"] = [2, 1, 0]
    assert not [s for s in told(data, made, outcomes=mixed) if "data seed" in s]


def test_what_is_not_drawn_is_not_told(data):
    assert "What it took" in [s.title for s in page(data).sections]
    silent = dataclasses.replace(
        data,
        runs=data.runs.assign(seconds_per_step=math.nan, evaluation_seconds_per_step=math.nan),
        machine=pd.DataFrame({"population": ["000"], "num_runs": [6], "steps": [math.nan],
            "num_devices": [math.nan], "training_seconds": [math.nan],
            "evaluation_seconds": [math.nan], "compile_seconds": [math.nan],
            "peak_bytes": [math.nan]}),
    )  # fmt: skip
    silent = page(silent)
    assert "What it took" not in [s.title for s in silent.sections]
    (picture,) = section(silent, "Is it worthwhile?").pictures
    assert "device-seconds" not in picture.alt and "FLOPs" in picture.alt
    assert "Device-seconds" not in section(silent, "Is it worthwhile?").text


def test_who_sees_too_many_lines_is_sent_to_the_table(data, made, tmp_path):
    many = page(runs_of(tmp_path, ratios(1), sooner))
    titles = {"Time to memorise, to the path, to the answer": "times", "Is it worthwhile?": "costs"}
    for title, table in titles.items():
        assert (
            f"9 lines: read single groups in {table}.csv"
            in section(many, title).pictures[0].caption
        )
        assert ".csv" not in section(made, title).pictures[0].caption


def test_long_texts_wrap_and_numbers_do_not():
    cells = ["hop 1 ratio 0, hop 2 ratio 0.5", "1.26e+12 [1.22e+12, 1.35e+12]", "short"]
    shown = Shown("t", pd.DataFrame([cells]), "")
    text = render(Page("", [], "", [Section("", "", (), [shown])], {}), {})
    assert "td.text { white-space: normal" in text and "td { white-space: nowrap" in text
    assert f"<td class=text>{cells[0]}</td><td>{cells[1]}</td><td>{cells[2]}</td>" in text
