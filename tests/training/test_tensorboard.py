"""Event files, read back with TensorBoard's own reader."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from grokjax.training.tensorboard import TensorBoardWriters, run_folder

RUNS = [{"run_id": 0, "regime": "natural"}, {"run_id": 1, "regime": "both_hop_full"}]
HPARAMS = [{"regime": r["regime"], "seeds.init": i} for i, r in enumerate(RUNS)]


def write(folder, steps, start_step=0):
    writers = TensorBoardWriters(folder, RUNS, HPARAMS, start_step)
    for step in steps:
        writers.append(
            [
                {
                    "run_id": i,
                    "step": step,
                    "loss": step + i,
                    "path_stage": "Init",
                    "x": float("nan"),
                }
                for i in range(2)
            ]
        )
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
