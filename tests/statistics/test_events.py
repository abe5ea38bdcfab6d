"""First crossings and intervals over seeds (docs/protocol.md, section 4)."""

import importlib.resources
import json
import math

import numpy as np
import pandas as pd
import pytest

from grokjax.base.names import EVENT_METRICS
from grokjax.statistics import events
from grokjax.statistics.events import first_crossing, student_interval

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


def test_student_interval():
    """Student's own example: extra hours of sleep, n = 10."""
    hours = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    interval = student_interval(hours)
    np.testing.assert_allclose(interval, [2.33, 0.8976775, 3.7623225, 10], rtol=1e-6)


def test_few_seeds_say_little():
    mean, low, high, n = student_interval([0.4])
    assert (mean, n) == (0.4, 1) and math.isnan(low) and math.isnan(high)
    assert math.isnan(student_interval([]).mean)


NEVER = [0.0] * 6
RISES = {1: [0, 1, 1, 1, 1, 1.0], 3: [0, 0, 0, 1, 1, 1.0]}


def make(*runs):
    """Runs of (regime, status, step, training accuracy, path score, OOD accuracy)."""
    table, curves = [], []
    for run_id, (regime, status, step, *values) in enumerate(runs):
        table.append({"run_id": run_id, "regime": regime, "status": status, "step": step})
        columns = dict(zip(EVENT_METRICS.values(), values, strict=True))
        curves.append(pd.DataFrame({"run_id": run_id, "step": STEPS} | columns))
    return pd.DataFrame(table), pd.concat(curves)


def test_events_are_observed_censored_or_diverged():
    runs, curves = make(
        ("a", "done", 500, RISES[1], RISES[3], RISES[3]),
        ("b", "done", 500, RISES[1], NEVER, NEVER),
        ("b", "diverged", 250, RISES[1], NEVER, RISES[3]),
    )
    table = events.event_table(runs, curves, (0.95,)).set_index(["run_id", "event"])
    assert table.loc[(0, "grokked"), ["status", "step", "step_before"]].tolist() == [
        "observed", 300, 200,
    ]  # fmt: skip
    assert table.loc[(1, "grokked"), ["status", "step"]].tolist() == ["censored", 500]
    # What a diverged run's frozen weights say later is not its doing.
    assert table.loc[(2, "grokked"), ["status", "step"]].tolist() == ["diverged", 250]
    several = events.event_table(runs, curves)
    assert set(several.threshold) == {0.95, 0.5, 0.9, 0.99} and len(several) == 3 * 3 * 4


def test_true_and_fake_grokking():
    half = [0, 0.1, 0.2, 0.6, 0.2, 0.1]
    runs, curves = make(
        ("true", "done", 500, RISES[1], RISES[3], RISES[3]),
        ("fake", "done", 500, RISES[3], NEVER, RISES[3]),
        ("unclear", "done", 500, RISES[1], half, RISES[3]),
        ("none", "done", 500, RISES[1], RISES[3], NEVER),
        ("diverged", "diverged", 300, RISES[1], NEVER, NEVER),
    )
    table = events.grok_table(runs, curves).set_index("regime")
    assert table.grok.to_dict() == {name: name for name in table.index}
    assert table.delay["true"] == 200 and not table.simultaneous["true"]
    assert table.delay["fake"] == 0 and table.simultaneous["fake"]
    assert np.isnan(table.delay["none"]) and np.isnan(table.grokked["none"])


def test_the_papers_own_curves():
    """Landmarks of the published runs, one evaluation at a time."""
    file = importlib.resources.files("grokjax.report") / "paper_curves.json"
    curves = json.loads(file.read_text())["pretrain"]

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
