"""Each task trains, is reported and is analysed by the same code, in its own words."""

import numpy as np
import pandas as pd
import pytest
from tiny import fast

import grokjax
from grokjax.analysis import draw_pairs, logit_lens, patch_effects
from grokjax.analysis.onset import causal_score, order_of_events
from grokjax.analysis.pairs import SPLITS
from grokjax.analysis.questions import (
    patch_question,
    question,
    questions_table,
    read_question,
)
from grokjax.base.errors import UserError
from grokjax.data.comparison import COMPARISON
from grokjax.data.modular import MODULAR
from grokjax.report import write_report
from grokjax.report.analysis_figures import patching_figure
from grokjax.report.wording import split_names

pytestmark = pytest.mark.usefixtures("unpainted")

SETTINGS = {
    "modular": {"data__modulus": 7, "data__train_share": 0.6},
    "comparison": {"data__num_attributes": 3, "data__num_values": 4, "data__phi": 3.0},
}


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request, tmp_path_factory):
    config = fast(
        data__task=request.param, data__ood_fraction=0.3, model__kind="decoder",
        model__num_layers=1, evaluate__path_position="answer", **SETTINGS[request.param],
    )  # fmt: skip
    return grokjax.train_and_evaluate(config, tmp_path_factory.mktemp(request.param) / "w")


def test_curves_and_tables_have_its_columns(trained):
    task, curves = trained.task, trained.curves
    kinds = {column.partition("/")[0] for column in curves if "/" in column}
    assert kinds == {*task.type_names, *(h.name for h in task.hidden if len(task.hidden) > 1)}
    read = {column.rpartition("/")[2] for column in curves if column.endswith("_found")}
    assert read == {"target_found", *(r for r in task.readings if r.endswith("_found"))}
    assert curves[task.accuracy].between(0, 1).all()
    assert (trained.runs.regime == ("add" if task == MODULAR else "comparison")).all()


def test_of_two_hidden_tokens_both_are_read_or_there_is_no_path(trained):
    task, curves = trained.task, trained.curves
    if task != COMPARISON:
        pytest.skip("hides nothing")
    for reading in ("found", "chance", "found_strict"):
        each = curves[[f"{task.generalisation}/{h.name}_{reading}" for h in task.hidden]]
        both = curves[f"{task.generalisation}/path_{reading}"]
        assert (both <= each.min(axis=1) + 1e-6).all()


def test_the_report_speaks_of_it(trained, tmp_path):
    page = write_report(trained, tmp_path).read_text()
    task, outcomes = trained.task, pd.read_csv(tmp_path / "outcomes.csv")
    assert f"Accuracy is of {task.unseen}" in page and "compos" not in page
    assert "bridge" not in page and ("Path or answer first" in page) == bool(task.hidden)
    assert ("path_score" in outcomes) == bool(task.hidden)
    assert outcomes.num_queries.iloc[0] == trained.dataset(0).counts[f"num_{task.generalisation}"]


def test_pairs_for_patching_are_called_as_the_task_calls_them(trained):
    task = trained.task
    wanted = ("training", "test") if task == MODULAR else ("ID", "OOD")
    assert split_names(task) == dict(zip(SPLITS, wanted, strict=True))
    table = pd.DataFrame({
        "group": ["ood"], "direction": ["denoising"], "component": ["stream"], "head": [-1],
        "place": ["Embedding"], "position": [task.question[0]], "slot": [task.question[0]],
        "group_of_runs": ["one run"], "num_seeds": [1], "num_pairs": [3], "step": [0],
        "effect": [0.5], "low": [0.5], "high": [0.5], "null_effect": [0.0],
        "null_low": [0.0], "null_high": [0.0],
    })  # fmt: skip
    figure = patching_figure(table, "ood", "denoising", task=task).figure
    said = " ".join(text.get_text() for text in figure.texts)
    assert f"{wanted[1]} queries" in " ".join(said.split()), said


def test_single_questions_are_asked_by_its_names(trained):
    task, dataset = trained.task, trained.dataset(0)
    pairs = draw_pairs(dataset, task.question[-1], "id", 1)
    clean, corrupted = pairs.clean[0], pairs.corrupted[0]
    names = [dataset.vocabulary.name(token) for token in clean[:-1]]
    assert question(dataset, *names).tolist() == clean.tolist()
    model, weights = trained.model, trained.weights(0)
    read = read_question(model, weights, dataset, clean)
    assert list(read.columns) == list(task.positions) and len(read) == len(model.evaluation_stages)
    other = dataset.vocabulary.name(corrupted[-2])
    effects = patch_question(model, weights, dataset, clean, corrupted)
    assert f"{task.question[-1]}: {names[-1]} for {other}" in effects.columns
    assert np.isfinite(effects.to_numpy()).all()
    with pytest.raises(UserError, match=f"a question is {', '.join(task.question)}; 2 names"):
        question(dataset, *names[:2])
    with pytest.raises(UserError, match="nobody asks"):
        question(dataset, *names[:-1], "Alice")
    with pytest.raises(UserError, match="differ in nothing"):
        patch_question(model, weights, dataset, clean, clean)


@pytest.mark.slow
def test_it_is_analysed(trained):
    """Lens, pairs and patching by its names; what a site holds, where something is hidden."""
    task, dataset, model = trained.task, trained.dataset(0), trained.model
    weights = trained.weights(0)
    lens = logit_lens(model, weights, dataset.probes, path_site=("best", "answer"), task=task)
    assert lens.position.to_numpy().tolist() == list(task.question)
    assert lens.token.to_numpy().tolist()[-3:] == list(task.question)
    last = trained.curves.iloc[-1]
    for kind in lens.type.to_numpy():
        found = float(lens.answer_accuracy.sel(type=kind))
        assert found == pytest.approx(last[f"{kind}/answer_accuracy"])
    cells = [(slot, split) for slot in task.question for split in ("id", "ood")]
    pairs = [draw_pairs(dataset, slot, split, 3) for slot, split in cells]
    for (slot, _), two in zip(cells, pairs, strict=True):
        clean, corrupted = two.queries
        differs = (clean != corrupted)[:, :-1]
        wanted = [name == slot for name in task.question]
        assert np.all(differs == wanted) and np.all(clean[:, -1] != corrupted[:, -1])
        assert len(clean) or slot == "operator"  # a run has one
    some = [two for two in pairs if len(two.clean)]
    effects = patch_effects(model, weights, some, direction="denoising")
    assert effects.logit_difference.notnull().any()
    asked = questions_table(model, weights, dataset, 2)
    assert {h.name for h in task.hidden} == set(asked) & {"value1", "value2", "bridge"}
    if task.hidden:
        one = {"step": [0], "run": [0]}
        stacked = effects.expand_dims(one).assign_coords(regime=("run", ["comparison"]))
        assert causal_score(stacked, "id", task).shape == (1, 1)
        read = lens.expand_dims(one).assign_coords(regime=("run", ["comparison"]))
        assert len(order_of_events(stacked, read, task)) == 6


def test_new_facts_are_of_compositions_alone(trained, tmp_path):
    from grokjax.transfer import transfer

    with pytest.raises(UserError, match="has no facts that new ones could be chained with"):
        transfer("experiments/transfer.py", [], trained.workdir, tmp_path / "transfer")
