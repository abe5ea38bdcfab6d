"""Promises of docs/operations.md, section 4, that one process can keep."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grokjax.base.errors import UserError
from grokjax.workdir.checkpoints import Checkpoints, log_spaced_steps
from grokjax.workdir.manifest import MANIFEST, verify

R = 6


def make_state(step):
    rng = np.random.default_rng(step)
    weights = jnp.asarray(rng.standard_normal((R, 40, 25)), jnp.float32)
    return {
        "params": {"w": weights, "layers": (weights[:, 0], weights[:, 1] * 2)},
        "step": jnp.full((R,), step, jnp.int32),
        "key": jax.vmap(jax.random.key)(jnp.arange(R)),
        "carry": (),
    }


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


LIKE = abstract(make_state(0))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def saved(tmp_path):
    """Full states at 1, 2, 3, of which two are kept; weights at 1 and 2."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step))
            if step < 3:
                checkpoints.save_analysis(step, {"params": make_state(step)["params"]})
    return tmp_path


def array_file(folder):
    """The largest file of a step: array data."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST]
    return max(files, key=lambda p: p.stat().st_size)


def test_what_is_saved_is_restored(saved):
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [2, 3] and checkpoints.steps("analysis") == [1, 2]
    step, state = checkpoints.restore_latest(LIKE)
    assert step == 3
    assert_equal(state, make_state(3))
    weights = checkpoints.restore_analysis(1, {"params": LIKE["params"]})
    assert_equal(weights["params"], make_state(1)["params"])


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert Checkpoints(tmp_path / "new").restore_latest(LIKE) is None
    assert not (tmp_path / "new").exists()


def flip_a_bit(folder):
    path = array_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(folder):
    path = array_file(folder)
    os.truncate(path, path.stat().st_size - 1)


DAMAGES = {
    "is damaged": flip_a_bit,
    "is missing": lambda folder: array_file(folder).unlink(),
    "damaged": truncate,
    "manifest is damaged": lambda folder: (folder / MANIFEST).write_text('{"files": 3}'),
    "renamed copy of step '2'": lambda folder: (
        shutil.rmtree(folder), shutil.copytree(folder.parent / "2", folder)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGES)
def test_damage_is_named_and_the_step_before_is_used(saved, message, capsys):
    DAMAGES[message](saved / "state" / "3")
    step, state = Checkpoints(saved).restore_latest(LIKE)
    assert step == 2
    assert_equal(state, make_state(2))
    printed = capsys.readouterr().out
    assert message in printed and "state/3" in printed and printed.count("\n") == 1


def test_a_damaged_step_is_saved_again(saved):
    flip_a_bit(saved / "state" / "3")
    with Checkpoints(saved, keep=2) as checkpoints:
        assert checkpoints.restore_latest(LIKE)[0] == 2
        checkpoints.save(3, make_state(3))
    step, state = Checkpoints(saved).restore_latest(LIKE)
    assert step == 3
    assert_equal(state, make_state(3))


def test_a_step_is_sealed_when_save_returns(tmp_path):
    """A kill right after it loses nothing: what close() would do is not needed."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
        assert Checkpoints(tmp_path).restore_latest(LIKE)[0] == step


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="Linux names open files")
def test_a_step_is_on_the_disk_before_it_is_sealed(tmp_path, monkeypatch):
    """Whatever a machine that loses power has not written: older steps are gone by then."""
    acts, fsync, replace, rename = [], os.fsync, os.replace, os.rename

    def synced(file):
        acts.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    def moved(move):
        return lambda a, b: (acts.append((str(a), str(b))), move(a, b))

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make_state(1))
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", moved(replace))
        monkeypatch.setattr(os, "rename", moved(rename))
        checkpoints.save(2, make_state(2))
    step = tmp_path / "state" / "2"
    sealed = next(i for i, act in enumerate(acts) if act[1] == str(step / MANIFEST))
    others = {str(path) for path in step.rglob("*")} - {str(step / MANIFEST)}
    assert others | {str(step), str(step.parent), acts[sealed][0]} <= set(acts[:sealed])
    gone = next(i for i, act in enumerate(acts) if act[0] == str(tmp_path / "state" / "1"))
    assert str(step) in acts[sealed:gone]


def test_one_run_is_read_from_any_path(tmp_path):
    folder = tmp_path / "a#b c%20"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save_analysis(1, {"params": make_state(1)["params"]})
    alone = Checkpoints(folder).restore_analysis(1, {"params": LIKE["params"]}, 2)
    np.testing.assert_array_equal(alone["params"]["w"], make_state(1)["params"]["w"][2])


def test_no_whole_step_is_an_error(saved):
    for step in ("2", "3"):
        flip_a_bit(saved / "state" / step)
    checkpoints = Checkpoints(saved)
    before = sorted(saved.rglob("*"))
    with pytest.raises(UserError, match="no usable checkpoint"):
        checkpoints.restore_latest(LIKE)
    assert sorted(saved.rglob("*")) == before


def test_a_step_without_a_manifest_does_not_exist(saved):
    (saved / "state" / "3" / MANIFEST).unlink()
    (saved / "state" / "9").mkdir()
    assert Checkpoints(saved).restore_latest(LIKE)[0] == 2
    with Checkpoints(saved) as checkpoints:  # and is made again
        checkpoints.save(3, make_state(30))
    assert_equal(Checkpoints(saved).restore_latest(LIKE)[1], make_state(30))


def test_another_model_is_refused(saved):
    wider = LIKE | {"step": jax.ShapeDtypeStruct((R + 1,), jnp.int32)}
    with pytest.raises(UserError, match=r"of another model, step is \(6,\), not \(7,\)"):
        Checkpoints(saved).restore_latest(wider)
    more = LIKE | {"momentum": LIKE["step"]}
    with pytest.raises(UserError, match="it has no array momentum"):
        Checkpoints(saved).restore_latest(more)


def test_files_outside_are_not_followed(saved):
    folder = saved / "state" / "3"
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../2/" + MANIFEST] = {"size": 1, "sha256": ""}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is missing"):
        verify(folder)


def test_an_empty_step_folder_and_a_cut_off_save_are_no_steps(saved, capsys):
    (saved / "state" / "9").mkdir()
    (saved / "state" / "3" / MANIFEST).unlink()
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [2] and checkpoints.restore_latest(LIKE)[0] == 2
    states = {
        step: state for step, (state, _) in checkpoints.examine("state", content=True).items()
    }
    assert states == {2: "good", 3: "partial", 9: "partial"}


@pytest.mark.parametrize("damage, by_size", [(flip_a_bit, "good"), (truncate, "damaged")])
def test_steps_are_examined(saved, damage, by_size):
    """Sizes are compared at once; a flipped bit takes reading everything."""
    damage(saved / "state" / "3")
    checkpoints = Checkpoints(saved)
    assert checkpoints.examine("state", content=False)[3][0] == by_size
    state, problem = checkpoints.examine("state", content=True)[3]
    assert state == "damaged" and "is damaged" in problem and str(saved) not in problem
    assert checkpoints.examine("state", content=True)[2] == ("good", "")


def test_steps_of_other_settings_are_refused_by_name(tmp_path, capsys):
    with Checkpoints(tmp_path, settings="abc") as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.save_analysis(1, {"params": make_state(1)["params"]})
    other = Checkpoints(tmp_path, settings="def")
    with pytest.raises(UserError, match=r"1: of other settings \(hash 'abc', this .*'def'\)"):
        other.restore_latest(LIKE)
    for run in (None, 0):
        with pytest.raises(UserError, match="of other settings"):
            other.restore_analysis(1, {"params": LIKE["params"]}, run)
    assert Checkpoints(tmp_path, settings="abc").restore_latest(LIKE)[0] == 1


def test_other_versions_are_told_in_one_line(saved, capsys):
    path = saved / "state" / "3" / MANIFEST
    manifest = json.loads(path.read_text())
    assert {"jax", "orbax-checkpoint", "python"} <= set(manifest["versions"])
    Checkpoints(saved).restore_latest(LIKE)
    assert capsys.readouterr().out == ""
    manifest["versions"]["jax"] = "0.9.9"
    path.write_text(json.dumps(manifest))
    assert Checkpoints(saved).restore_latest(LIKE)[0] == 3
    said = capsys.readouterr().out
    assert f"saved by jax 0.9.9 (here {jax.__version__})" in said and said.count("\n") == 1


def test_the_newest_go_only_after_a_newer_one_is_sealed(saved, monkeypatch):
    """A kill between Orbax's last file and our manifest leaves every older step."""

    def killed(*_):
        raise SystemExit(137)

    monkeypatch.setattr("grokjax.workdir.checkpoints.write_manifest", killed)
    with pytest.raises(SystemExit):
        Checkpoints(saved, keep=1).save(4, make_state(4))
    monkeypatch.undo()
    assert Checkpoints(saved).steps() == [2, 3]
    with Checkpoints(saved, keep=1) as checkpoints:
        checkpoints.save(4, make_state(4))
        assert checkpoints.steps() == [4]


def test_a_damaged_later_step_pushes_out_no_good_one(saved):
    flip_a_bit(saved / "state" / "3")
    with Checkpoints(saved, keep=1) as checkpoints:
        assert checkpoints.restore_latest(LIKE)[0] == 2
        shutil.move(saved / "state" / "3", saved / "state" / "5")  # of a save before the damage
        checkpoints.save(4, make_state(4))
    assert Checkpoints(saved).restore_latest(LIKE)[0] == 4
    assert Checkpoints(saved).steps() == [4, 5]


def bytes_read():
    """By this process, whoever asked: what the kernel has handed over."""
    with open("/proc/self/io") as file:
        return int(next(line for line in file if line.startswith("rchar")).split()[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="Linux counts bytes read")
def test_one_run_is_read_with_at_most_twice_its_bytes(tmp_path):
    """Everything counts: manifest, hashes, index, metadata. A whole restore reads all runs."""
    runs = 12
    rng = np.random.default_rng(0)  # noise does not compress
    names = [f"layer{i}" for i in range(8)]
    params = {n: jnp.asarray(rng.standard_normal((runs, 128, 256)), jnp.float32) for n in names}
    like = {"params": abstract(params)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_analysis(1, {"params": params})
    one_run = sum(x.nbytes for x in params.values()) // runs
    assert one_run == 2**20
    Checkpoints(tmp_path).restore_analysis(1, like, 0)  # imports and the like
    before = bytes_read()
    alone = Checkpoints(tmp_path).restore_analysis(1, like, 7)
    read = bytes_read() - before
    assert_equal(alone["params"], jax.tree.map(lambda x: x[7], params))
    assert one_run / 2 < read <= 2 * one_run, read / one_run
    before = bytes_read()
    whole = Checkpoints(tmp_path).restore_analysis(1, like)
    assert bytes_read() - before > runs * one_run
    assert_equal(alone["params"], jax.tree.map(lambda x: x[7], whole["params"]))


def test_a_damaged_run_is_found_when_it_is_read_alone(tmp_path):
    """Each byte of the array data belongs to one run or to none."""
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((R, 4000)), jnp.float32)}
    like = {"params": abstract(params)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_analysis(1, {"params": params})
    flip_a_bit(tmp_path / "analysis" / "1")
    found = []
    for run in range(R):
        try:
            alone = Checkpoints(tmp_path).restore_analysis(1, like, run)
            assert_equal(alone["params"]["w"], params["w"][run])
        except UserError as error:
            found.append(str(error))
    assert len(found) == 1 and ("is damaged" in found[0] or "cannot be read" in found[0])
    with pytest.raises(UserError, match=r"is damaged|cannot be read"):
        Checkpoints(tmp_path).restore_analysis(1, like, list(range(R)))


def test_one_run_is_its_slice_of_a_full_restore(saved):
    checkpoints = Checkpoints(saved)
    like = {"params": LIKE["params"]}
    whole = checkpoints.restore_analysis(2, like)
    for run in (0, R - 1):
        alone = checkpoints.restore_analysis(2, like, run)
        assert_equal(alone, jax.tree.map(lambda x, run=run: x[run], whole))
    some = checkpoints.restore_analysis(2, like, [R - 1, 0])
    assert_equal(some, jax.tree.map(lambda x: x[np.array([R - 1, 0])], whole))


def test_leftovers_are_swept_by_who_writes(saved):
    leftovers = saved / "state" / "trash.1", saved / "state" / "4.orbax-checkpoint-tmp-1"
    for folder in leftovers:
        folder.mkdir()
    with Checkpoints(saved, keep=9) as checkpoints:
        assert checkpoints.steps() == [2, 3] and all(folder.exists() for folder in leftovers)
        checkpoints.save(4, make_state(4))
    assert sorted(p.name for p in (saved / "state").iterdir()) == ["2", "3", "4"]
    with Checkpoints(saved, keep=2) as checkpoints:
        checkpoints.save(5, make_state(5))
    assert sorted(p.name for p in (saved / "state").iterdir()) == ["4", "5"]


def test_a_copied_folder_restores(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "elsewhere", dirs_exist_ok=False)
    assert Checkpoints(tmp_path / "elsewhere").restore_latest(LIKE)[0] == 3


def test_log_spaced_steps():
    steps = log_spaced_steps(10_000, 4, 100)
    assert steps[:2] == [0, 100] and steps[-1] == 10_000
    assert all(step % 100 == 0 for step in steps)
    ratios = np.array(steps[5:]) / np.array(steps[4:-1])
    assert np.abs(np.log10(ratios) - 0.25).max() < 0.05
    assert set(log_spaced_steps(5_000, 4, 100)) - {5_000} <= set(steps)
    assert log_spaced_steps(70, 4, 100) == [0, 70]
    assert log_spaced_steps(210, 3, 100) == [0, 100, 200, 210]  # 215 rounds to what is in reach


def test_copies_that_fill_up_a_mesh_are_not_stored(tmp_path):
    fewer = jax.tree.map(lambda x: jax.ShapeDtypeStruct((R - 2, *x.shape[1:]), x.dtype), LIKE)
    with Checkpoints(tmp_path, num_runs=R - 2) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.save_analysis(1, {"params": make_state(1)["params"]})
    checkpoints = Checkpoints(tmp_path)
    expected = jax.tree.map(lambda x: x[: R - 2], make_state(1))
    assert_equal(checkpoints.restore_latest(fewer)[1], expected)
    alone = checkpoints.restore_analysis(1, {"params": fewer["params"]}, R - 3)
    assert_equal(alone, jax.tree.map(lambda x: x[R - 3], {"params": expected["params"]}))


def test_a_process_reads_the_rows_that_it_holds(saved):
    rows = np.array([3, 4, 5, 5])
    step, state = Checkpoints(saved).restore_latest(LIKE, rows)
    assert step == 3
    assert_equal(state, jax.tree.map(lambda x: x[rows], make_state(3)))


def test_saving_takes_no_part_in_preemption(tmp_path, monkeypatch):
    """Processes agree on the loop's calls by their number; Orbax would add its own."""

    def asked(self, step):
        raise AssertionError("Orbax has asked")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.reached_preemption", asked)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
    assert checkpoints.steps() == [1]
