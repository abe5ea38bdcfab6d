"""docs/tour.ipynb: every cell runs, one after the other, as a notebook runs them."""

import ast
import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from tiny import ROOT

from grokjax.base.errors import UserError
from grokjax.report.style import Picture


def run_cells(monkeypatch, tmp_path):
    """(value of the last line, or None) of each cell; and what they have defined."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GROKJAX_TOUR", "tiny")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
    known: dict = {}
    shown = []
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"] and cell["execution_count"] is None
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "tour", "exec"), known)
        value = None
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "tour", "eval"), known)
        shown.append(value)
    return shown, known


def test_the_tour(monkeypatch, tmp_path, capsys):
    shown, known = run_cells(monkeypatch, tmp_path)
    plt.close("all")
    kinds = [type(value) for value in shown if value is not None]
    assert kinds.count(Picture) == 2 and kinds.count(pd.DataFrame) == 3
    assert "2 runs" in repr(shown[1])

    dataset, clean = known["dataset"], known["clean"]
    name, analysis = dataset.vocabulary.name, known["grokjax"].analysis
    head, first, _, second, _ = map(name, clean)
    assert analysis.question(dataset, head, first, second).tolist() == clean.tolist()
    with pytest.raises(UserError, match="has no entity 'Alice'"):
        analysis.question(dataset, "Alice", first, second)

    # At the first stage nothing but the clean head's own embedding can carry anything.
    effects = known["effects"]
    other = name(known["corrupted"][0])
    assert effects.loc[("embedding", "Init"), f"head: {head} for {other}"] == pytest.approx(
        1, abs=1e-3
    )
    assert effects.loc[("embedding", "Init"), "relation1"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(UserError, match="differ in nothing"):
        analysis.patch_question(known["model"], known["weights"], dataset, clean, clean)

    # Names of questions, and what is said of them, are those of the probes.
    questions = analysis.questions_table(known["model"], known["weights"], dataset, num=1000)
    curves = known["results"].curves
    last = curves[(curves.run_id == 0) & (curves.step == 20)].iloc[0]
    correct = (questions.said == questions.answer).mean()
    assert correct == pytest.approx(last["test_inferred_ood/answer_accuracy"])
    found = (questions["bridge first read at"] != "-").mean()
    assert found == pytest.approx(last["test_inferred_ood/bridge_found"])
    assert questions.question.str.match(r"e_\d+, r_\d+, r_\d+").all()
