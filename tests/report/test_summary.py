"""The closing table and the figure of a workdir whose numbers are known."""

import re

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from grokjax.base.errors import UserError
from grokjax.base.names import (
    OOD_ACCURACY,
    OOD_BRIDGE_CHANCE,
    OOD_BRIDGE_FOUND,
    OOD_BRIDGE_FOUND_STRICT,
    TRAINING_ACCURACY,
)
from grokjax.report import curves_figure, summary
from grokjax.results import Results
from grokjax.settings import default_config

STEPS = (0, 100, 200, 300, 400)


def make_results(folder, num_seeds=3, name="x"):
    """Two regimes; run 1 diverged; both_hop_full memorises at 100 and answers 0.9 + seed / 100."""
    runs, curves = [], []
    for regime in ("natural", "both_hop_full"):
        for seed in range(num_seeds):
            run_id = len(runs)
            status = "diverged" if run_id == 1 < num_seeds else "done"
            runs.append({"run_id": run_id, "regime": regime, "status": status})
            good = regime == "both_hop_full"
            for step in STEPS:
                learned = step >= (100 if good else 300)
                ood = (0.9 + seed / 100) * learned if good else 0.05
                curves.append(
                    {
                        "run_id": run_id,
                        "step": step,
                        TRAINING_ACCURACY: 1.0 * learned,
                        OOD_ACCURACY: 7.0 if status == "diverged" else ood,
                        OOD_BRIDGE_FOUND: 0.5,
                        OOD_BRIDGE_CHANCE: 0.15,
                        OOD_BRIDGE_FOUND_STRICT: 0.4,
                    }
                )
    config = default_config()
    config.name = name
    return Results(folder, config, 31, pd.DataFrame(runs), pd.DataFrame(curves))


def test_a_row_per_regime(tmp_path):
    r = make_results(tmp_path)
    natural, both = summary.summarize(r.runs, r.curves)
    assert (natural.regime, natural.num_runs, natural.num_diverged) == ("natural", 3, 1)
    # Two evaluations at the end are one too few to have memorised.
    assert natural.num_memorised == 0 and both.num_memorised == 3
    assert both.memorised_at == summary.Span(100, 100, 100, 3)
    ood = both.ood_accuracy
    np.testing.assert_allclose([ood.median, ood.low, ood.high, ood.n], [0.91, 0.9, 0.92, 3])
    assert natural.ood_accuracy.median == 0.05 and both.num_answering == 2


def test_numbers_are_of_runs_and_within_what_there_can_be(tmp_path):
    """Values at 0 and 1: a Student-t interval over them leaves the accuracies there are."""
    r = make_results(tmp_path, num_seeds=4)
    last = r.curves.step == 400
    for run_id, value in zip(range(4, 8), (0.0, 1.0, 1.0, 1.0), strict=True):
        r.curves.loc[last & (r.curves.run_id == run_id), OOD_ACCURACY] = value
    _, both = summary.summarize(r.runs, r.curves)
    assert both.ood_accuracy == summary.Span(1.0, 0.0, 1.0, 4)
    text = summary.summary_table([both], 400)
    assert "1.00 (0.00 to 1.00)" in text and "Student" not in text and "[" not in text


def test_a_run_given_twice_is_one(tmp_path):
    r = make_results(tmp_path)
    r.runs["run_hash"] = ["a", "b", "a", "d", "e", "d"]
    natural, both = summary.summarize(r.runs, r.curves)
    assert (natural.num_runs, natural.num_repeated, both.num_usable) == (2, 1, 2)
    text = summary.summary_table([natural, both], 400)
    assert re.search(r"natural +1 \(\+1 diverged, 1 repeated\)", text)


def test_the_table_says_it(tmp_path):
    r = make_results(tmp_path)
    text = summary.summary_table(summary.summarize(r.runs, r.curves), 400)
    assert re.search(r"natural +2 \(\+1 diverged\) +0 of 2 ", text)
    assert re.search(r"both_hop_full +3 +100 .* 0\.91 \(0\.90 to 0\.92\) +0\.50 .* 0\.15", text)
    assert "At step 400: median (lowest to highest run)" in text


def test_the_verdict_states_what_was_measured(tmp_path):
    r = make_results(tmp_path)
    text = summary.verdict(summary.summarize(r.runs, r.curves))
    assert text == (
        "natural answers 0.05 (0.05 to 0.05) of OOD compositions: 0 of 2 runs over 0.90.\n"
        "both_hop_full answers 0.91 (0.90 to 0.92) of OOD compositions: 2 of 3 runs over 0.90."
    )


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_figure_and_its_data(tmp_path, num_seeds):
    path = curves_figure.save_curves(make_results(tmp_path, num_seeds))
    image = matplotlib.image.imread(path)
    assert path == tmp_path / "figures" / "curves.png" and image.shape[1] > 1000
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50
    data = pd.read_csv(tmp_path / "figures" / "curves_bands.csv")
    own = data[(data.metric == OOD_ACCURACY) & (data.regime == "both_hop_full")]
    at_end = own[own.step == 400].iloc[0]
    middle, high = (0.91, 0.92) if num_seeds == 3 else (0.90, 0.90)
    np.testing.assert_allclose([at_end["median"], at_end.low, at_end.high], [middle, 0.9, high])
    assert data.low.max() <= 1  # no diverged run in any band


def test_populations_are_compared_by_name(tmp_path):
    a, b = make_results(tmp_path, name="ordinary"), make_results(tmp_path, name="looped")
    b.curves[OOD_ACCURACY] *= 0.5
    path = curves_figure.comparison_figure([a, b]).save(tmp_path / "new" / "comparison.png")
    assert matplotlib.image.imread(path).shape[1] > 1000
    data = pd.read_csv(tmp_path / "new" / "comparison.csv")
    own = data[(data.metric == OOD_ACCURACY) & (data.regime == "both_hop_full")]
    end = own[own.step == 400].set_index("model")["median"]
    np.testing.assert_allclose([end["ordinary"], end["looped"]], [0.91, 0.455])
    with pytest.raises(UserError, match="NAME=WORKDIR"):
        curves_figure.comparison_figure([a, a])
    a.runs["regime"] = "other"
    with pytest.raises(UserError, match="no regime in common"):
        curves_figure.comparison_figure([a, b])
