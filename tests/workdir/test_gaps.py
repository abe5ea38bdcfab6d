"""What somebody has taken out of a workdir is named, by whoever trains on or reports."""

import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import ROOT, fast, rows, tiny_config

import grokjax
from grokjax.base.errors import UserError
from grokjax.cli import main
from grokjax.report import write_report
from grokjax.settings import seeds
from grokjax.workdir.gaps import missing_evaluations

TRANSFER = [f"--config={ROOT}/experiments/transfer.py:small"]
pytestmark = pytest.mark.usefixtures("unpainted")


def table(*pairs):
    return pd.DataFrame(pairs, columns=["run_id", "step"])


def test_evaluations_are_counted_as_far_as_each_run_came():
    whole = table((0, 0), (0, 10), (0, 20), (1, 0), (1, 10), (0, 25))
    assert missing_evaluations(whole, [25, 14], 10) == ""
    said = missing_evaluations(whole, [30, 29, 9], 10)
    assert said == "4 of 10 evaluations are missing (run 0: 30; run 1: 20, 25; run 2: 0)"
    assert missing_evaluations(table(), [10**4], 10).endswith(
        "(run 0: 0, 10, 20, 30, and 997 more)"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gaps") / "w"
    grokjax.train_and_evaluate(config_of(40), workdir)
    return workdir


def config_of(num_steps, **changes):
    config = tiny_config(train__num_steps=num_steps, **changes)
    config.runs = tuple(seeds(2))
    return config


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


def lines_of(workdir):
    return (workdir / "curves.csv").read_text().splitlines(keepends=True)


DAMAGES = {
    "deleted": (lambda lines: None, "10 of 10 evaluations are missing (run 0: 0, 10, 20, 30, and"),
    "emptied": (lambda lines: [], "10 of 10 evaluations are missing"),
    "cut": (lambda lines: lines[:-2], "2 of 10 evaluations are missing (run 0: 40; run 1: 40)"),
    "torn": (lambda lines: [*lines[:-1], lines[-1][:9]], "1 of 10 evaluations are missing"),
    "torn amidst": (
        lambda lines: [*lines[:4], lines[4][:9] + "\n", *lines[5:]],
        "1 of 10 evaluations are missing (run 1: 10)",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_curves_that_lack_rows_are_told_of(what, copied, capsys):
    change, said = DAMAGES[what]
    lines = change(lines_of(copied))
    if lines is None:
        (copied / "curves.csv").unlink()
    else:
        (copied / "curves.csv").write_text("".join(lines))
    grokjax.train_and_evaluate(config_of(60), copied)
    printed = capsys.readouterr().out
    assert f"{copied / 'curves.csv'}: {said}" in printed
    found = grokjax.load(copied)
    assert found.curves.step.max() == 60 and not found.curves.duplicated(["run_id", "step"]).any()
    assert main(["compare", f"a={copied}", f"b={copied}", f"--out={copied / 'c.png'}"]) == 0
    assert said.split(" of ")[0] + " of 14" in capsys.readouterr().out
    page = write_report(found).read_text()
    assert "What is shown is not whole:" in page and said.split(" of ")[0] + " of 14" in page
    assert "evaluations are missing" in capsys.readouterr().out


def test_doubled_rows_are_taken_out_and_others_refused(copied, capsys, trained):
    lines = lines_of(copied)
    (copied / "curves.csv").write_text("".join([*lines, *lines[3:7]]))
    assert len(grokjax.load(copied).curves) == 10
    grokjax.train_and_evaluate(config_of(60), copied)
    assert "4 doubled rows taken out" in capsys.readouterr().out
    assert lines_of(copied)[:11] == lines
    other = lines[5].replace(".", ".1", 1)
    (copied / "curves.csv").write_text("".join([*lines_of(copied), other]))
    for use in (lambda: grokjax.load(copied), lambda: train_to(copied, 80)):
        with pytest.raises(UserError, match="has two rows of run 0 at step 20; take one"):
            use()


def train_to(workdir, num_steps):
    grokjax.train_and_evaluate(config_of(num_steps), workdir)


def test_who_ends_by_its_curves_does_not_go_on_without_them(tmp_path):
    config = config_of(40, train__stop_at=1.0, train__stop_margin=30)
    grokjax.train_and_evaluate(config, tmp_path)
    (tmp_path / "curves.csv").write_text("".join(lines_of(tmp_path)[:-4]))
    config.train.num_steps = 60
    with pytest.raises(UserError, match=r"4 of 10 evaluations are missing .* by which"):
        grokjax.train_and_evaluate(config, tmp_path)


def test_without_any_curves_the_weights_are_still_there(trained, copied, tmp_path, capsys):
    """A training that had ended, whose table was deleted since."""
    (copied / "curves.csv").unlink()
    train_to(copied, 40)
    said = f"{copied / 'curves.csv'}: 10 of 10 evaluations are missing"
    assert said in capsys.readouterr().out
    found, whole = grokjax.load(copied), grokjax.load(trained)
    assert found.curves.empty and "no curves" in repr(found)
    jax.tree.map(np.testing.assert_array_equal, found.parameters(1), whole.parameters(1))
    finetuning = ["transfer", str(tmp_path / "t"), *TRANSFER, f"--from={copied}"]
    for command in (["report", str(copied)], finetuning):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_lost_weights_are_told_of(copied, capsys):
    analysis = copied / "checkpoints" / "analysis"
    (analysis / "10" / "manifest.json").unlink()
    train_to(copied, 60)
    said = f"{analysis}: 1 of 3 steps are missing (10)"
    assert said in capsys.readouterr().out
    assert said.replace("of 3", "of 4") in write_report(grokjax.load(copied)).read_text()


def test_lost_events_come_back_as_they_were(copied, tmp_path, capsys):
    """From the curves, which have more columns than TensorBoard is given."""
    shutil.copytree(copied, tmp_path / "whole")
    shutil.rmtree(copied / "tensorboard")
    for workdir in (copied, tmp_path / "whole"):
        train_to(workdir, 60)
    assert "events of 2 runs were not whole" in capsys.readouterr().out
    ours, whole = (events_of(workdir) for workdir in (copied, tmp_path / "whole"))
    assert ours == whole and len(whole) > 20


def events_of(workdir):
    found = {}
    for folder in sorted((workdir / "tensorboard").iterdir()):
        reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            found[folder.name, tag] = [(e.step, e.value) for e in reader.Scalars(tag)]
    return found


def test_whole_ones_are_not(copied, capsys):
    """Extended in odd portions, too."""
    for num_steps in (57, 60, 63):
        train_to(copied, num_steps)
    assert "missing" not in capsys.readouterr().out
    assert main(["report", str(copied)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_a_populations_lost_curves_are_told_of(tmp_path, capsys):
    found = grokjax.run_sweep(fast(), rows(2, (16, 32)), tmp_path)
    (tmp_path / "populations" / "001" / "curves.csv").unlink()
    found = grokjax.load(tmp_path)
    assert found.runs.status.tolist() == ["done"] * 4
    write_report(found)
    said = f"{tmp_path}/populations/001/curves.csv: 6 of 6 evaluations are missing"
    assert said in capsys.readouterr().out
    assert list(found.populations()) == ["000", "001"]  # whose weights are all there
    (tmp_path / "populations" / "000" / "curves.csv").unlink()
    with pytest.raises(UserError, match=r"000/curves.csv: 6 of 6 .*001/curves.csv: 6 of 6 "):
        write_report(grokjax.load(tmp_path))
