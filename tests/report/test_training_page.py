"""The report: its numbers on curves with known answers, its page in a browser."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.report import training_comparisons, training_runs, training_tables
from grokjax.report.curves_figure import curves_figure
from grokjax.report.html import Finding, Page, Section, Shown, render
from grokjax.report.published import published_pretraining
from grokjax.report.survival_figure import survival_figure
from grokjax.report.training_runs import TrainingRuns, read_training
from grokjax.settings import default_config, product, seeds

STEPS = np.arange(0, 1001, 100)


def rises(at):
    return (at <= STEPS).astype(float)


def make_runs(rows):
    """Runs of (group, seed, status, memorises at, path at, groks at); inf is never."""
    runs, curves = [], []
    for run_id, (group, seed, status, memorised, path, grokked) in enumerate(rows):
        runs.append(
            {
                "run_id": run_id, "run_hash": f"{run_id}", "regime": group, "group": group,
                "seeds.data": seed, "status": status, "step": 1000 if status == "done" else 450,
                "flops_per_step": 10.0, "evaluation_flops": 5.0, "seconds_per_step": 0.01,
                "evaluation_seconds_per_step": 0.002, "copies": 1, "also_in": "",
                "num_test_inferred_ood": 50,
            }
        )  # fmt: skip
        curves.append(
            pd.DataFrame(
                {
                    "run_id": run_id,
                    "step": STEPS,
                    "training_accuracy": rises(memorised),
                    "test_inferred_ood/bridge_found_strict": rises(path),
                    "test_inferred_ood/bridge_found_at_site": rises(path),
                    "test_inferred_iid/answer_accuracy": rises(memorised),
                    "test_inferred_ood/bridge_found": rises(path),
                    "test_inferred_ood/bridge_chance": 0.1,
                    "test_inferred_ood/answer_accuracy": rises(grokked),
                }
            )
        )
    origin = "hash h; d, jax j, commit c. Repeat: grokjax"
    nowhere, unknown = pathlib.Path("nowhere"), pd.DataFrame()
    return TrainingRuns(
        "x", nowhere, pd.DataFrame(runs), pd.concat(curves), default_config(), origin, unknown
    )


NEVER = math.inf
RUNS = make_runs([
    ("natural", 0, "done", 200, 500, 800),
    ("natural", 1, "done", 200, 600, NEVER),
    ("natural", 2, "diverged", NEVER, NEVER, NEVER),
    ("both", 0, "done", 200, 200, 400),
    ("both", 1, "done", 200, 300, 200),
    ("second", 0, "done", 200, NEVER, 600),
])  # fmt: skip


def test_times_count_whom_they_rest_on():
    table = training_tables.times_table(RUNS)
    grok = table[table.level == 0.95].set_index(["group", "event"]).loc[("natural", "answer")]
    assert grok[["n", "observed", "censored", "diverged"]].tolist() == [3, 1, 1, 1]
    # The diverged run ends at 450, before the only event: it competes, and cannot have it.
    assert grok.probability == pytest.approx(2 / 3 * 1 / 2) and grok["median"] == math.inf
    assert (grok.earliest, grok.middle, grok.latest) == (800, 800, 800)
    # All are known up to 1,000: 800, never, diverged. Three runs: their range, no bootstrap.
    assert grok.restricted_mean == pytest.approx((800 + 1000 + 1000) / 3)
    assert (grok.restricted_mean_low, grok.restricted_mean_high) == (800, 1000)
    assert grok.interval == "range" and grok.horizon == 1000 and grok.resolution == 100
    both = table[table.level == 0.95].set_index(["group", "event"]).loc[("both", "answer")]
    assert both.probability == 1.0 and both.restricted_mean == pytest.approx(300)
    assert 0.3 < both.probability_low < 0.4  # two of two runs, by Wilson
    # One group's training is shorter, but all of it got there: the others' means go on.
    short = dataclasses.replace(RUNS, curves=RUNS.curves[
        ~RUNS.curves.run_id.isin([3, 4]) | (RUNS.curves.step <= 600)
    ])  # fmt: skip
    again = training_tables.times_table(short).set_index(["group", "event", "level"])
    assert again.loc[("natural", "answer", 0.95)].restricted_mean == grok.restricted_mean


def test_a_survival_curve_ends_where_nobody_is_left_who_could():
    short = dataclasses.replace(RUNS, curves=RUNS.curves[
        ~RUNS.curves.run_id.isin([3, 4, 5]) | (RUNS.curves.step <= 600)
    ])  # fmt: skip
    drawn = survival_figure(short).data
    ends = drawn[drawn.event == "answer"].groupby("group").time.max()
    assert ends.to_dict() == {"natural": 1000, "both": 1000, "second": 600}


def test_a_ratio_with_a_censored_run_is_a_bound():
    """Of natural one run has not answered: it costs more than it shows, and the ratio is less."""
    table = training_comparisons.cost_table(RUNS)
    table = table[(table.level == 0.95) & (table.unit == "FLOP")].set_index("group")
    assert table.reached.to_dict() == {"natural": 1, "both": 2, "second": 1}
    assert table.restricted_mean["both"] == pytest.approx(3000) and table.horizon["both"] == 10_000
    # Seeds 0 and 1 are paired: (4000 + 2000) / (8000 + 10,000 and more).
    assert table.ratio["both"] == pytest.approx(6000 / 18_000)
    assert table.ratio_bound["both"] == "at most"
    assert math.isnan(table.ratio["natural"])
    seconds = training_comparisons.cost_table(RUNS).set_index(["unit", "level", "group"])
    assert seconds.restricted_mean["device-seconds", 0.95, "both"] == pytest.approx(3.0)
    assert (table.restricted_mean_low.dropna() > 0).all()


def test_a_higher_level_never_looks_cheaper():
    """At 0.95 only the fast run is left: a mean of those that got there would fall."""
    rows = [("a", seed, "done", 100, 100, NEVER) for seed in range(4)]
    data = make_runs(rows)
    ood = "test_inferred_ood/answer_accuracy"
    for run_id, (half, whole) in enumerate([(200, 300), (700, NEVER), (800, NEVER), (800, NEVER)]):
        own = data.curves.run_id == run_id
        data.curves.loc[own, ood] = 0.6 * rises(half) + 0.4 * rises(whole)
    table = training_comparisons.cost_table(data)
    flops = table[table.unit == "FLOP"].set_index("level")
    assert flops.reached.to_dict() == {0.5: 4, 0.95: 1}
    assert flops.earliest[0.95] < flops.restricted_mean[0.5] < flops.restricted_mean[0.95]
    assert flops["median"][0.5] < flops["median"][0.95] == math.inf


def eight(group, at, status="done"):
    return [(group, seed, status, 100, 100, step) for seed, step in enumerate(at)]


def test_comparisons_are_exact_paired_and_adjusted():
    slow = [500, 600, 700, 800, 500, 600, 700, 800]
    rows = eight("a", slow) + eight("b", [200] * 8) + eight("c", slow[::-1])
    table = training_comparisons.comparison_table(make_runs(rows))
    answers = table[(table.quantity == "steps to answer") & (table.level == 0.95)]
    b, c = (answers[(answers.group_a == "a") & (answers.group_b == g)].iloc[0] for g in "bc")
    assert b.method == "paired by data seed, exact" and b.num_permutations == 2**8
    assert b.p == b.p_smallest == 2 / 2**8 and b.num_pairs == 8 and b.interval == "bootstrap"
    assert b.estimate == pytest.approx(200 / 650) and b.low < b.estimate < b.high and not b.bound
    assert c.p > 0.5 and c.estimate == 1.0
    # Two levels by two groups against the first: a family of four.
    assert b.family == "declared" and b.p_holm == pytest.approx(4 * b.p) and c.p_holm >= c.p
    between = answers[answers.group_a == "b"].iloc[0]
    assert between.family == "not declared"
    others = table[table.family == "not declared"]
    assert set(others.family_size) == {others.p.notna().sum()}
    assert (others.p_holm >= others.p).all() and len(others) + 4 == len(table)


def test_the_family_is_what_the_experiment_declares():
    """Two quantities together, one alone, or the whole page: another number of comparisons."""
    rows = eight("a", [500, 600, 700, 800] * 2) + eight("b", [200] * 8) + eight("c", [300] * 8)
    data = make_runs(rows)
    sizes = {}
    for family in ("steps to answer, final OOD accuracy", "steps to memorise", ""):
        config = default_config()
        config.report.family = family
        table = training_comparisons.comparison_table(dataclasses.replace(data, config=config))
        own = table[table.family == "declared"]
        sizes[family] = len(own)
        assert set(own.family_size) == {own.p.notna().sum()}
        best = own.p.min()
        assert own.p_holm.min() == pytest.approx(min(best * own.p.notna().sum(), 1.0))
    assert list(sizes.values()) == [2 * 2 + 2, 2, len(table)]


def test_small_samples_are_not_asymptotic():
    """Three against three: the log-rank's normal p is 0.02, and no exact one is below 0.1."""
    rows = [("a", s, "done", 100, 100, t) for s, t in enumerate((600, 700, 800))]
    rows += [("b", s + 3, "done", 100, 100, t) for s, t in enumerate((200, 300, 400))]
    table = training_comparisons.comparison_table(make_runs(rows))
    row = table[(table.quantity == "steps to answer") & (table.level == 0.95)].iloc[0]
    assert row.method == "unstratified, exact" and row.num_permutations == 20
    assert row.p == row.p_smallest == pytest.approx(0.1)


def test_identical_rows_are_one_run(tmp_path):
    """By another name of its regime a run is still that run, in its workdir and beside it."""
    config = tiny_config(train__num_steps=20, checkpoint__every=10)
    natural = {"data.hop1_ratio": -1.0, "data.hop2_ratio": -1.0}
    nothing_added = {"data.hop1_ratio": 0.0, "data.hop2_ratio": 0.0}
    for name, rows in {
        "w": [
            {"seeds.init": 0} | natural,
            {"seeds.init": 0} | nothing_added,
            {"seeds.init": 1} | natural,
        ],
        "elsewhere": [nothing_added, {"seeds.init": 2}, {"seeds.init": 3}],
    }.items():
        own = config.copy_and_resolve_references()
        own.runs = tuple(rows)
        grokjax.train_and_evaluate(own, tmp_path / name)
    data = read_training(grokjax.load(tmp_path / "w"))
    assert data.outcomes.run_id.tolist() == [0, 2] and data.outcomes.copies.tolist() == [2, 1]
    assert data.outcomes.also_in.tolist() == ["elsewhere", ""]
    assert (training_tables.times_table(data).n == 2).all()


def test_the_seeds_that_were_swept_share_the_variance():
    """Order decides when a run memorises, and nothing else does."""
    rows = [
        ("a", data, "done", 200 + 100 * order, 500, 600)
        for data in (0, 1, 2)
        for order in (0, 1, 2, 3)
    ]
    crossed = make_runs(rows)
    crossed.runs["seeds.order"] = [0, 1, 2, 3] * 3
    table = training_tables.seed_variance(crossed).set_index(["quantity", "source"])
    order = table.loc[("memorised", "seeds.order")]
    assert order.share == pytest.approx(1.0) and order.share_low == pytest.approx(1.0)
    assert table.share["memorised", "seeds.data"] == 0.0 and set(table.n) == {12}
    assert order.swept == "seeds.data x seeds.order" and order.num_levels == 4
    together = make_runs(rows)
    together.runs["seeds.data"] = together.runs["seeds.order"] = range(12)
    table = training_tables.seed_variance(together).set_index("quantity")
    assert table.source["memorised"] == "seeds.data + seeds.order"
    assert "not to be told apart" in table.swept["memorised"] and table.share["memorised"] == 1
    one = make_runs(rows)
    one.runs["seeds.data"] = range(12)
    assert "alone" in training_tables.seed_variance(one).set_index("quantity").swept["memorised"]
    not_crossed = make_runs(rows[:-1])
    not_crossed.runs["seeds.order"] = ([0, 1, 2, 3] * 3)[:-1]
    table = training_tables.seed_variance(not_crossed)
    assert table.swept.str.endswith("not crossed").all() and table.share.isna().all()


def test_the_published_run_is_drawn_where_the_setting_is_its_own():
    """And only there."""
    for changes, expected in (({}, True), ({"phi": 9.0}, False)):
        config = default_config()
        config.data.update(changes)
        data = dataclasses.replace(RUNS, config=config)
        paper = published_pretraining(data.config)
        assert (paper is not None) == expected
        figure = curves_figure(data.runs, data.curves, "group", paper=paper).figure
        labels = [line.get_label() for line in figure.axes[0].get_lines()]
        assert ("published run, training accuracy" in labels) == expected


def test_the_order_of_path_and_answer_is_told_with_its_horizon():
    table = training_tables.order_shares(RUNS)
    strict = table[(table.reading == "strict") & (table.level == 0.95)]
    counts = strict.pivot(index="group", columns="order", values="count")
    assert counts.loc["natural"].to_dict() == {
        "path first": 2, "answer first": 0, "together": 0, "undecided": 1,
    }  # fmt: skip
    assert counts.loc["both", "path first"] == counts.loc["both", "answer first"] == 1
    assert counts.loc["second", "answer first"] == 1
    share = strict.set_index(["group", "order"]).loc[("both", "path first")]
    assert (share.share, share.n) == (0.5, 2) and 0 < share.share_low < share.share_high < 1
    assert share.lag_median == 200
    outcomes = RUNS.outcomes.set_index(["group", "seeds.data"])
    label = outcomes["order_label_0.95"]
    assert label["natural", 0] == "path first by 300"
    assert label["natural", 1] == "path first, no answer by 1,000"
    assert label["natural", 2] == "undecided, neither before it diverged at 450"
    assert label["second", 0] == "answer first, no path by 1,000"
    assert outcomes["lag_0.95"]["natural", 0] == 300
    assert math.isnan(outcomes["lag_0.95"]["natural", 1])
    assert outcomes["lag_0.95_low"]["natural", 1] == 400
    assert outcomes["flops_to_0.95"].tolist()[0] == 8000 and len(outcomes) == 6
    assert outcomes.final_iid_accuracy["both", 0] == 1.0 and outcomes.any_chance["both", 0] == 0.1
    assert list(RUNS.outcomes) == training_runs.OUTCOMES


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    config = tiny_config(train__num_steps=20, checkpoint__every=10)
    ratios = [
        {"data.hop1_ratio": a, "data.hop2_ratio": b, "data.hop1_k": 2, "data.hop2_k": 2}
        for a in (0.0, 1.0)
        for b in (0.0, 1.0)
    ]
    return grokjax.run_sweep(
        config, list(product(ratios, seeds(2))), tmp_path_factory.mktemp("swept") / "w"
    )


def test_the_page_holds_all_and_needs_nobody(swept, capsys):
    assert main(["report", str(swept.workdir)]) == 0
    page = (swept.workdir / "report.html").read_text()
    assert str(swept.workdir / "report.html") in capsys.readouterr().out
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,', page)
    assert len(images) == 5 and all(len(alt) > 20 for alt in images)
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    for expected in ("The map", "Is it worthwhile?", "hop 1 ratio 1", "jax 0."):
        assert expected in page
    for name in ("outcomes", "times", "order", "costs", "comparisons", "variance", "machine"):
        assert len(pd.read_csv(swept.workdir / f"{name}.csv"))
    for picture in ("survival", "lag", "map", "cost", "report_curves"):
        path = swept.workdir / "figures" / f"{picture}.png"
        assert matplotlib.image.imread(path).std() > 0.02 and path.with_suffix(".csv").exists()


def test_one_population_has_a_report_too(swept, tmp_path, capsys):
    folder = swept.workdir / "populations" / "000"
    assert main(["report", str(folder), f"--out={tmp_path / 'r'}"]) == 0
    assert (tmp_path / "r" / "report.html").exists() and not (folder / "report.html").exists()
    data = read_training(grokjax.load(folder))
    assert len(data.groups) == 4 and data.runs.seconds_per_step.notna().all()
    (took,) = data.machine.itertuples()
    assert min(took.training_seconds, took.evaluation_seconds, took.compile_seconds) > 0
    (session,) = json.loads((folder / "timing.json").read_text())
    device_seconds = (session["seconds"] - session["compile_seconds"]) * session["num_devices"]
    assert took.training_seconds + took.evaluation_seconds == pytest.approx(device_seconds)
    assert took.peak_bytes > 2**20
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_untrained_sweep_says_so(swept, tmp_path):
    (tmp_path / "plan.json").write_text((swept.workdir / "plan.json").read_text())
    with pytest.raises(UserError, match="nothing has been trained"):
        read_training(grokjax.load(tmp_path))


def test_text_is_escaped():
    shown = Shown("<t>", pd.DataFrame({"<u>": ["<s>"]}), "<c>")
    section = Section("<i>", "x < y", (), [shown])
    page = render(Page("<b>", [Finding("<f>", "<t>")], "a & b", [section], {}), {})
    assert not re.search(r"<(b|s|f|t|u|c|i)>", page)
    assert "&lt;s&gt;" in page and "a &amp; b" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_shows_it(swept, tmp_path, width):
    """At a desk's and a phone's width, offline: text and every picture are painted."""
    main(["report", str(swept.workdir), f"--out={tmp_path}"])
    shot = tmp_path / "shot.png"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},3000", f"--screenshot={shot}", f"file://{tmp_path / 'report.html'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = matplotlib.image.imread(shot)[..., :3]
    assert pixels.shape[1] == pytest.approx(max(width, 500), abs=100)
    # Something is painted in every tenth of the page's upper 2,000 pixels.
    assert all(part.std() > 0.02 for part in np.array_split(pixels[:2000], 10))
