"""Folders from anybody: links out of them, huge numbers, deep nesting. One line, exit code 2."""

import ast
import json
import os
import shutil

import pytest
from conftest import ROOT, tiny_config
from tiny import fast, rows

import grokjax
from grokjax.base.files import read_json
from grokjax.cli import main
from grokjax.sweeps.plan import Plan, write_plan
from grokjax.sweeps.planner import extend_plan


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("hostile") / "w"
    grokjax.train_and_evaluate(tiny_config(train__num_steps=20), workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


def changed(name, change):
    """Rewrites a file of the workdir by its text."""

    def apply(workdir):
        path = workdir / name
        text = change(path.read_text())
        assert text != path.read_text()
        path.write_text(text)

    return apply


def replaced(name, old, new):
    return changed(name, lambda text: text.replace(old, new))


def linked(name):
    """Moves a thing out of the workdir and leaves a link."""

    def apply(workdir):
        outside = workdir.parent / "outside"
        shutil.move(workdir / name, outside)
        (workdir / name).symlink_to(outside)

    return apply


DEEP = "[" * 100_000 + "]" * 100_000
STEPS = '"num_steps": 20'
READ = {
    "a torn config": changed("config.json", lambda text: text[:300]),
    "an empty config": changed("config.json", lambda text: ""),
    "a nested config": changed("config.json", lambda text: DEEP),
    "400 digits": replaced("config.json", STEPS, f'"num_steps": 1{"0" * 400}'),
    "1e400": replaced("config.json", STEPS, '"num_steps": 1e400'),
    "no number": replaced("config.json", STEPS, '"num_steps": null'),
    "rows that are none": replaced("config.json", '"runs": []', '"runs": [7]'),
    "a section that is none": replaced("config.json", '"seeds": {', '"seeds": 3, "x": {'),
    "a vast vocabulary": replaced("config.json", '"vocab_size": ', '"vocab_size": 1e300, "y": '),
    "a linked config": linked("config.json"),
    "a ring of links": lambda w: (
        (w / "config.json").unlink(), (w / "config.json").symlink_to("config.json")
    ),
    "a pipe": lambda w: ((w / "config.json").unlink(), os.mkfifo(w / "config.json")),
    "torn runs": changed("runs.csv", lambda text: text[:20]),
    "runs of 1e400 steps": replaced("runs.csv", ",20,", ",1e400,"),
    "linked curves": linked("curves.csv"),
    "curves of a huge step": replaced("curves.csv", "0,20,", f"0,{'9' * 400},"),
    "words for numbers": replaced("curves.csv", "0,20,", "0,20,__import__('os')"),
    "binary curves": lambda w: (w / "curves.csv").write_bytes(bytes(range(256)) * 99),
}  # fmt: skip


LOGS = {"nested": DEEP, "other": '[{"a": 1}]'}


@pytest.mark.parametrize("what", LOGS)
def test_a_log_is_no_reason_to_fail(what, workdir):
    """`timing.json` gives the seconds of a step, where it can be read."""
    (workdir / "timing.json").write_text(LOGS[what])
    assert main(["report", str(workdir)]) == 0


@pytest.mark.parametrize("what", READ)
def test_a_hostile_workdir_is_one_line(what, workdir, capsys, unchecked):
    READ[what](workdir)
    assert main(["report", str(workdir)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("grokjax: error: ") and error.count("\n") == 1, error
    assert len(error) < 500


WRITTEN = ("checkpoints", "checkpoints/state", "checkpoints/state/20", "tensorboard", "curves.csv")


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_written_through_a_link(name, workdir):
    linked(name)(workdir)
    before = {p: p.stat().st_mtime_ns for p in workdir.parent.rglob("*")}
    with pytest.raises(grokjax.UserError, match="is a link out of it"):
        grokjax.train_and_evaluate(tiny_config(train__num_steps=40), workdir)
    assert {p: p.stat().st_mtime_ns for p in workdir.parent.rglob("*")} == before


LINKS = {
    "figures": ["report", "{w}"],
    "runs_table.csv": ["report", "{w}"],
    "report.html": ["report", "{w}"],
    "figures/curves.png": ["train"],
    "analysis": ["analyze", "--workdir={w}"],
    "analysis/patching": ["analyze", "--workdir={w}"],
}


@pytest.mark.parametrize("name", LINKS)
def test_no_command_writes_through_a_link(name, workdir, capsys):
    outside = workdir.parent / "outside"
    outside.mkdir()
    (outside / "curves.csv").write_text("another's")
    link = workdir / name
    shutil.rmtree(link, ignore_errors=True)
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside / "curves.csv" if link.suffix else outside)
    if LINKS[name] == ["train"]:
        with pytest.raises(grokjax.UserError, match="is a link out of it"):
            grokjax.train_and_evaluate(tiny_config(train__num_steps=40), workdir)
    else:
        assert main([word.format(w=workdir) for word in LINKS[name]]) == 2
        error = capsys.readouterr().err
        assert f"{name} is a link out of it" in error and error.count("\n") == 1
    assert [p.read_text() for p in outside.iterdir()] == ["another's"]


@pytest.mark.parametrize("name", ["populations", "populations/000", "runs.csv"])
def test_no_sweep_writes_through_a_link(name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "w" / name).parent.mkdir(parents=True)
    (tmp_path / "w" / name).symlink_to(outside)
    with pytest.raises(grokjax.UserError, match=f"{name} is a link out of it"):
        grokjax.run_sweep(fast(), rows(1), tmp_path / "w")
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["launch", "launch/jobs.jsonl", "launch/logs", "launch/stop"])
@pytest.mark.parametrize("command", ["local", "stop"])
def test_no_launcher_writes_through_a_link(name, command, tmp_path, capsys):
    from launch.__main__ import main as launch

    workdir, outside = tmp_path / "w", tmp_path / "outside"
    write_plan(workdir, extend_plan(Plan(), fast(), rows(1)))
    (workdir / name).parent.mkdir(exist_ok=True)
    (workdir / name).symlink_to(outside)
    assert (
        launch([command, *((str(workdir),) if command == "stop" else (f"--workdir={workdir}",))])
        == 2
    )
    error = capsys.readouterr().err
    assert f"{name} is a link out of it" in error and error.count("\n") == 1
    assert not outside.exists()


def manifest(workdir):
    return workdir / "checkpoints" / "state" / "20" / "manifest.json"


MANIFESTS = {
    "nested": lambda text: DEEP,
    "huge": lambda text: text.replace('"size": ', f'"size": 1{"0" * 400}, "was": '),
    "infinite": lambda text: text.replace('"size": ', '"size": 1e400, "was": '),
    "not a number": lambda text: text.replace('"size": ', '"size": NaN, "was": '),
    "a list": lambda text: "[]",
    "outside": lambda text: text.replace('"default/_METADATA"', '"../../../config.json"'),
    "no name": lambda text: text.replace('"default/_METADATA"', '"a\\u0000b"'),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_hostile_manifest_is_one_line(what, workdir, capsys):
    manifest(workdir).write_text(MANIFESTS[what](manifest(workdir).read_text()))
    assert main(["checkpoints", str(workdir)]) == 1
    assert "state     20    damaged" in capsys.readouterr().out
    with pytest.raises(grokjax.UserError, match="no usable checkpoint") as error:
        grokjax.train_and_evaluate(tiny_config(train__num_steps=40), workdir)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../up", "/tmp/x", ".."])
def test_a_plan_names_no_folder_outside(name, tmp_path):
    write_plan(tmp_path, extend_plan(Plan(), fast(), rows(1)))
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["populations"][0]["name"] = name
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(grokjax.UserError, match="damaged"):
        grokjax.load(tmp_path)


def test_json_is_read_with_suspicion(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 9223372036854775807, "b": Infinity, "c": 1e300}')
    assert read_json(path) == {"a": 2**63 - 1, "b": float("inf"), "c": 1e300}
    for text in (DEEP, "1" * 5000, "1e999", "{"):
        path.write_text(text)
        with pytest.raises(ValueError):
            read_json(path)
    with open(path, "wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(ValueError, match="256 MiB"):
        read_json(path)


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
# Of the very bytes whose hash is part of the identity; `test_own_functions.py` has who may.
OF_NAMED_FILES = {("own_functions.py", "exec"), ("own_functions.py", "compile")}


def test_no_code_of_ours_unpickles_or_evaluates():
    """What is executed is an experiment file, which the user names, and the files that it names."""
    for path in (ROOT / "grokjax").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if (path.name, called) not in OF_NAMED_FILES:
                    assert called not in FORBIDDEN, f"{path.name}: {called}"
                assert called != "pd.read_pickle"
                if called == "np.load":
                    assert "allow_pickle=False" in ast.unparse(node), path.name
                if called.endswith("exec_module"):
                    assert path.name == "experiment.py"
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node)
