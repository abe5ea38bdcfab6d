"""First crossings and intervals over seeds (docs/protocol.md, section 4)."""

import importlib.resources
import json
import math

import numpy as np
import pandas as pd
import pytest

from grokjax.data.composition import COMPOSITION
from grokjax.statistics import events
from grokjax.statistics.events import When, at_kept_site, first_crossing, order_of, when

STEPS = [0, 100, 200, 300, 400, 500]


@pytest.mark.parametrize("values, step", [
    ([0, 0.2, 0.95, 0.96, 0.99, 1.0], 200),  # the first of three in a row, at or above
    ([0, 1.0, 1.0, 0.9, 1.0, 1.0], math.inf),  # two in a row are not enough
    ([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 0),  # what came later does not undo it
    ([0, 0, 0, 0.9, 1.0, 1.0], math.inf),
    ([0, 0, math.nan, 1, 1, 1], 300),
])  # fmt: skip
def test_first_crossing(values, step):
    assert first_crossing(STEPS, values, 0.95) == step


def test_one_evaluation_may_do():
    assert first_crossing(STEPS, [0, 0, 0, 0, 0, 0.5], 0.5, consecutive=1) == 500


NEVER = [0.0] * 6
RISES = {1: [0, 1, 1, 1, 1, 1.0], 3: [0, 0, 0, 1, 1, 1.0]}


def make(*runs):
    """Runs of (regime, status, step, training accuracy, path strict, anywhere, OOD accuracy)."""
    table, curves = [], []
    for run_id, (regime, status, step, *values) in enumerate(runs):
        table.append({"run_id": run_id, "regime": regime, "status": status, "step": step})
        columns = dict(zip(COMPOSITION.event_metrics.values(), values, strict=True))
        curves.append(pd.DataFrame({"run_id": run_id, "step": STEPS} | columns))
    return pd.DataFrame(table), pd.concat(curves)


def test_events_are_observed_censored_or_diverged():
    runs, curves = make(
        ("a", "done", 500, RISES[1], RISES[3], RISES[1], RISES[3]),
        ("b", "done", 500, RISES[1], NEVER, NEVER, NEVER),
        ("b", "diverged", 250, RISES[1], NEVER, NEVER, RISES[3]),
    )
    table = events.event_table(runs, curves, (0.95,)).set_index(["run_id", "event"])
    assert table.loc[(0, "answer"), ["status", "step", "step_before"]].tolist() == [
        "observed", 300, 200,
    ]  # fmt: skip
    assert table.loc[(1, "answer"), ["status", "step"]].tolist() == ["censored", 500]
    # What a diverged run's frozen weights say later is not its doing.
    assert table.loc[(2, "answer"), ["status", "step"]].tolist() == ["diverged", 250]
    several = events.event_table(runs, curves)
    assert set(several.threshold) == {0.95, 0.5, 0.9, 0.99} and len(several) == 3 * 4 * 4


def test_path_and_answer_are_ordered_at_one_level():
    """An answer in spite of its path coming later is no true grokking, whatever comes of it."""
    late = [0, 0, 0.6, 0.6, 0.6, 0.6]
    runs, curves = make(
        ("path first", "done", 500, RISES[1], RISES[1], RISES[1], RISES[3]),
        ("answer first", "done", 500, RISES[3], RISES[3], RISES[1], RISES[1]),
        ("together", "done", 500, RISES[1], RISES[3], RISES[1], RISES[3]),
        ("no path", "done", 500, RISES[1], late, RISES[1], RISES[3]),
        ("no answer", "done", 500, RISES[1], RISES[3], RISES[1], late),
        ("neither", "done", 500, RISES[1], NEVER, NEVER, NEVER),
        ("diverged", "diverged", 300, RISES[1], NEVER, NEVER, NEVER),
    )
    table = events.order_table(runs, curves).set_index("regime")
    assert table["order_0.95"].tolist() == [
        "path first", "answer first", "together", "answer first", "path first", "undecided",
        "undecided",
    ]  # fmt: skip
    assert table["lag_0.95"].tolist()[:3] == [200, -200, 0]
    first = table.loc["path first"]
    assert (first["lag_0.95_low"], first["lag_0.95_high"]) == (100, 300)
    label = table["order_label_0.95"]
    assert label["no path"] == "answer first, no path by 500"
    assert label["no answer"] == "path first, no answer by 500"
    assert label["neither"] == "undecided, neither by 500"
    assert label["diverged"] == "undecided, neither before it diverged at 300"
    assert label["together"] == "together, within 100"
    bounds = ["lag_0.95", "lag_0.95_low", "lag_0.95_high"]
    np.testing.assert_equal(table.loc["no path", bounds].tolist(), [np.nan, -np.inf, -200])
    np.testing.assert_equal(table.loc["no answer", bounds].tolist(), [np.nan, 200, np.inf])
    # At 0.5 both have come: the level is the same for path and answer.
    assert table["order_0.5"]["no path"] == "path first" and table["lag_0.5"]["no path"] == 100
    assert table["any_order_0.95"]["answer first"] == "together"
    assert table.delay["path first"] == 200 and not table.simultaneous["path first"]
    assert table.delay["answer first"] == -200
    assert table.delay["together"] == 200 and np.isnan(table.delay["neither"])


def test_the_site_of_the_path_is_kept_for_all_steps():
    """Chosen anew at each evaluation, the best of many sites is as noisy as they are."""
    site = "test_inferred_ood/bridge_found_at"
    curves = pd.DataFrame(
        {
            "run_id": [0, 0, 0],
            "step": [0, 100, 200],
            "path_stage": ["H1_Commit", "H0_Commit", "H0_Commit"],
            "path_position": ["answer", "head", "answer"],
            "test_inferred_ood/bridge_found_strict": [0.9, 0.8, 0.7],
            f"{site}/H0_Commit/answer": [0.1, 0.2, 0.7],
            f"{site}/H1_Commit/answer": [0.9, 0.0, 0.0],
        }
    )
    kept = at_kept_site(curves)
    assert kept["test_inferred_ood/bridge_found_at_site"].tolist() == [0.1, 0.2, 0.7]
    assert kept.path_site_kept.all()
    # A diverged run's end is where it diverged.
    diverged = at_kept_site(curves, {0: 0})
    assert diverged["test_inferred_ood/bridge_found_at_site"].tolist() == [0.9, 0.0, 0.0]
    # Tables of before have no rate per site, and say so.
    before = at_kept_site(curves.drop(columns=[c for c in curves if site in c]))
    assert before["test_inferred_ood/bridge_found_at_site"].tolist() == [0.9, 0.8, 0.7]
    assert not before.path_site_kept.any()


def published():
    file = importlib.resources.files("grokjax.report") / "paper_curves.json"
    return json.loads(file.read_text())["pretrain"]


def of_published(regime, metric, level) -> When:
    curve = published()[regime]
    return when(curve["step"], curve[metric], level, consecutive=1)


def test_the_order_in_the_papers_own_runs():
    """docs/protocol.md, section 4: what is called fake must call second_hop_full so."""

    def order(regime):
        path, answer = (of_published(regime, m, 0.5) for m in ("bridge_found", "target_found"))
        return order_of(path, answer)

    lags = {"natural": 177, "first_hop_full": 686, "second_hop_full": -356, "both_hop_full": -15}
    for regime, lag in lags.items():
        found = order(regime)
        assert found.lag / 1000 == pytest.approx(lag, abs=1), regime
        assert found.word == ("path first" if lag > 0 else "answer first")
        assert found.low <= found.lag <= found.high
    second = "second_hop_full"
    never = order_of(
        of_published(second, "bridge_found", 0.95), of_published(second, "target_found", 0.95)
    )
    assert never.word == "answer first" and never.label.startswith("answer first, no path by 1,")


def test_the_papers_own_curves():
    """Landmarks of the published runs, one evaluation at a time."""
    curves = published()

    def first(regime, metric, threshold):
        curve = curves[regime]
        return first_crossing(curve["step"], curve[metric], threshold, consecutive=1) / 1000

    assert first("natural", "training_accuracy", 0.95) == pytest.approx(64, abs=1)
    assert first("natural", "training_accuracy", 0.99) == pytest.approx(106, abs=1)
    assert first("natural", "bridge_found", 0.5) == pytest.approx(219, abs=1)
    assert first("natural", "target_found", 0.5) == pytest.approx(396, abs=1)
    assert first("natural", "target_found", 0.95) == np.inf
    assert first("both_hop_full", "target_found", 0.95) == pytest.approx(45, abs=1)
    assert first("first_hop_full", "target_found", 0.5) == pytest.approx(744, abs=1)
    assert first("second_hop_full", "bridge_found", 0.5) == pytest.approx(647, abs=1)
    assert first("second_hop_full", "target_found", 0.95) == pytest.approx(997, abs=1)
