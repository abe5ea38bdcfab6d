"""Event files, read back with TensorBoard's own reader."""

import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from grokjax.training.tensorboard import TensorBoardWriters, run_folder

RUNS = [{"run_id": 0, "regime": "natural"}, {"run_id": 1, "regime": "both_hop_full"}]
HPARAMS = [{"regime": r["regime"], "seeds.init": i} for i, r in enumerate(RUNS)]


def rows_at(*steps):
    others = {"path_stage": "Init", "x": float("nan")}
    return [{"run_id": i, "step": s, "loss": s + i} | others for s in steps for i in range(2)]


def write(folder, steps, start_step=0, curves=()):
    writers = TensorBoardWriters(folder, RUNS, HPARAMS, start_step, curves)
    for step in steps:
        writers.append(rows_at(step))
    writers.close()


def read(folder, run="001-both_hop_full"):
    reader = EventAccumulator(str(folder / run))
    reader.Reload()
    return reader


def test_every_run_under_its_own_name(tmp_path):
    write(tmp_path, [0, 10])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000-natural", "001-both_hop_full"]
    reader = read(tmp_path)
    assert reader.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in reader.Scalars("loss")] == [(0, 1.0), (10, 11.0)]


def test_a_name_says_what_is_swept(tmp_path):
    run = {"run_id": 7, "regime": "natural", "seeds.data": 1, "optimizer.weight_decay": 0.3}
    run |= {"optimizer.schedule": "my/own.py:linear@0123456789ab", "status": "running"}
    assert (
        run_folder(tmp_path, run).name == "007-natural-weight_decay=0.3-schedule=my_own.py_linear"
    )
    (tmp_path / "007-natural").mkdir()  # of a workdir from before
    assert run_folder(tmp_path, run).name == "007-natural"
    assert run_folder(tmp_path, run | {"run_id": 8}).name.startswith("008-natural-weight_decay=0.3")


@pytest.mark.parametrize("saved, again", [(10, [20, 30]), (0, [0, 10, 20, 30])])
def test_a_resume_makes_no_step_twice(tmp_path, saved, again):
    write(tmp_path, [0, 10, 20])  # stopped after 20, the last checkpoint was at `saved`
    write(tmp_path, again, start_step=saved)
    files = [p.name.split(".") for p in (tmp_path / "001-both_hop_full").iterdir()]
    assert len({name[3] for name in files}) == 2  # a second each, by which readers order them
    assert [e.step for e in read(tmp_path).Scalars("loss")] == [0, 10, 20, 30]


def test_the_hparams_table(tmp_path):
    write(tmp_path, [0])
    plugin = read(tmp_path).summary_metadata
    assert {metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG} <= set(plugin)
    content = plugin[metadata.SESSION_START_INFO_TAG]
    assert isinstance(content, SummaryMetadata)
    data = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
    values = data.session_start_info.hparams
    assert values["regime"].string_value == "both_hop_full"
    assert values["seeds.init"].number_value == 1


def only_file(folder, run="001-both_hop_full"):
    (path,) = (folder / run).iterdir()
    return path


def gone(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def torn_early(path):
    path.write_bytes(path.read_bytes()[:40])


def doubled(path):
    path.with_name(path.name + ".copy").write_bytes(path.read_bytes())


@pytest.mark.parametrize("damage", [gone, cut, torn_early, doubled])
def test_what_was_damaged_is_written_anew(damage, tmp_path, capsys):
    """From the curves, and nothing else is touched."""
    write(tmp_path, [0, 10, 20])
    other = only_file(tmp_path, "000-natural")
    damage(only_file(tmp_path))
    write(tmp_path, [30], start_step=20, curves=rows_at(0, 10, 20))
    assert "events of 1 run were not whole" in capsys.readouterr().out
    reader = read(tmp_path)
    expected = [(s, s + 1.0) for s in (0, 10, 20, 30)]
    assert [(e.step, e.value) for e in reader.Scalars("loss")] == expected
    assert metadata.SESSION_START_INFO_TAG in reader.summary_metadata
    assert other.exists()


def test_what_is_whole_is_kept(tmp_path, capsys):
    """With rows beyond the checkpoint, after a resume too; and what the curves have lost."""
    write(tmp_path, [0, 10, 20])
    write(tmp_path, [20, 30], start_step=10, curves=rows_at(0, 10))
    write(tmp_path, [40], start_step=30, curves=rows_at(0, 10, 20, 30))
    write(tmp_path, [50], start_step=40, curves=rows_at(0, 40))
    assert capsys.readouterr().out == ""
    assert [e.step for e in read(tmp_path).Scalars("loss")] == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("saved, again", [(20, [30]), (10, [20, 30]), (0, [0, 10, 20, 30])])
def test_a_clock_that_was_set_back_changes_nothing(saved, again, tmp_path, monkeypatch):
    """Readers order files by the seconds in their names."""
    write(tmp_path, [0, 10, 20])
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    curves = [row for row in rows_at(0, 10, 20) if saved and row["step"] <= saved]
    write(tmp_path, again, start_step=saved, curves=curves)
    assert [e.step for e in read(tmp_path).Scalars("loss")] == [0, 10, 20, 30]
