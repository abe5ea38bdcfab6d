"""Data folders in the authors' format: theirs are read, ours are written as theirs."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import FINETUNING, PRETRAINING, ROOT, tiny_config

from grokjax.base.errors import UserError
from grokjax.data.dataset import make_dataset
from grokjax.data.folder import read_folder, write_folder
from grokjax.data.loading import load_dataset


@pytest.fixture
def folder(tmp_path):
    """A small dataset of ours, to be broken."""
    write_folder(make_dataset(tiny_config().data, 0), tmp_path / "d")
    return tmp_path / "d"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("source", [PRETRAINING, FINETUNING])
def test_their_files_come_back_byte_for_byte(source, tmp_path):
    write_folder(read_folder(source), tmp_path)
    names = {p.name for p in source.iterdir()}
    assert {p.name for p in tmp_path.iterdir()} == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()


def test_items_keep_their_order(folder):
    edit(folder / "test.json", lambda c: c.reverse())
    before = (folder / "test.json").read_text()
    back = read_folder(folder)
    items = [back.probes.names[kind] for kind in back.probes.kind]
    assert items == [item["type"] for item in json.loads(before)]
    for name in ("train.json", "test.json"):
        (folder / name).rename(folder / f"{name}.old")
    for name in ("valid.json", "vocab.json", "id_facts.json", "ood_facts.json"):
        (folder / name).unlink()
    write_folder(back, folder)
    assert (folder / "test.json").read_text() == before


def test_written_is_read(tmp_path):
    ours = make_dataset(tiny_config(data__regime="both_hop_full").data, 3)
    write_folder(ours, tmp_path)
    back = read_folder(tmp_path, seed=3)
    assert back.vocabulary == ours.vocabulary
    for name in ("id_facts", "ood_facts"):
        np.testing.assert_array_equal(getattr(back, name), getattr(ours, name))
    np.testing.assert_array_equal(back.train.query, ours.train.query)
    np.testing.assert_array_equal(back.probes.table.query, ours.probes.table.query)
    np.testing.assert_array_equal(back.probes.bridge, ours.probes.bridge)
    np.testing.assert_array_equal(back.probes.kind, ours.probes.kind)
    assert back.probes.names == ours.probes.names


def test_identity_queries_are_written_and_read(tmp_path):
    ours = load_dataset(tiny_config(data__identity_bridge=True, seeds__data=3))
    write_folder(ours, tmp_path)
    assert {"input_text": "<e_4>", "target_text": "<e_4><e_4></a>"} in json.loads(
        (tmp_path / "train.json").read_text()
    )
    np.testing.assert_array_equal(read_folder(tmp_path).train.query, ours.train.query)
    edit(tmp_path / "train.json", lambda c: c[-1].update(target_text="<e_11><e_0></a>"))
    with pytest.raises(UserError, match="has an answer that contradicts"):
        read_folder(tmp_path)


def test_the_authors_folder():
    d = read_folder(PRETRAINING)
    assert d.counts["num_train"] == 8215 and d.counts["num_id_facts"] == 950
    assert d.counts["num_test_inferred_ood"] == 23 and d.vocabulary.size == 147
    facts = {(h, r): t for h, r, t in np.concatenate([d.id_facts, d.ood_facts]).tolist()}
    for head, relation1, relation2, answer in d.train.query.tolist():
        reached = facts[head, relation1]
        assert answer == (facts[reached, relation2] if relation2 else reached)


def test_a_finetuning_folder_is_counted_not_refused():
    d = read_folder(FINETUNING)
    assert d.counts["num_contradictions"] == 1 and d.counts["num_missing_facts"] == 982
    assert d.counts["num_train"] == 1800 and d.counts["num_atomic_new"] == 200
    assert "test_inferred_new_mix" in d.probes.names and not len(d.id_facts)


def test_nothing_is_written_over(folder):
    before = (folder / "train.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_folder(read_folder(PRETRAINING), folder)
    assert (folder / "train.json").read_bytes() == before


def contradict(items):
    two_hops = next(i for i in items if i["input_text"].count("<") == 3)
    answer = two_hops["target_text"].removeprefix(two_hops["input_text"])
    other = "<e_0></a>" if answer != "<e_0></a>" else "<e_1></a>"
    two_hops["target_text"] = two_hops["input_text"] + other


BROKEN = {
    "unknown token": (
        "train.json",
        lambda c: c[3].update(input_text="<e_0><r_99>"),
        "item 3: unknown token '<r_99>'",
    ),
    "text outside": (
        "test.json",
        lambda c: c[1].update(input_text="e_0<r_1>"),
        "item 1: text outside",
    ),
    "no target": ("train.json", lambda c: c[2].pop("target_text"), "item 2 has no text"),
    "other target": (
        "train.json",
        lambda c: c[2].update(target_text="<e_0></a>"),
        "item 2: target_text",
    ),
    "number": ("train.json", lambda c: c.__setitem__(0, 10**400), "a number of 401 digits"),
    "unknown type": (
        "test.json",
        lambda c: c[0].update(type="zero_shot"),
        "unknown type 'zero_shot'",
    ),
    "contradiction": (
        "train.json",
        contradict,
        r"train.json: item \d+ has an answer that contradicts",
    ),
    "absent fact": (
        "id_facts.json",
        lambda c: c.clear(),
        "train.json: item 0 needs a fact that",
    ),
    "fact shape": ("ood_facts.json", lambda c: c[1].pop(), "item 1 is not"),
    "token twice": ("vocab.json", lambda c: c.append("<e_0>"), "listed twice"),
    "no end": ("vocab.json", lambda c: c.remove("</a>"), "no token </a>"),
    "nothing to train": ("train.json", lambda c: c.clear(), "no items"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_named(folder, what):
    name, change, message = BROKEN[what]
    edit(folder / name, change)
    with pytest.raises(UserError, match=message) as error:
        read_folder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["train.json", "valid.json", "test.json", "vocab.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: missing"):
        read_folder(folder)


def test_the_folder_in_docs_is_one(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text()
    example = page.split("<!-- folder -->")[1].split("<!-- end -->")[0]
    for name, content in json.loads(example.strip().removeprefix("```json").strip("`")).items():
        (tmp_path / name).write_text(json.dumps(content))
    data = read_folder(tmp_path)
    assert data.counts["num_train"] == 2 and data.counts["num_test_inferred_ood"] == 1
    asked = np.asarray(data.probes.table.query)[1]
    assert [data.vocabulary.name(i) for i in asked] == ["Alice", "mother", "employer", "Acme"]


def test_what_is_expected_is_said(folder):
    """Of a folder whose names lack what tells entities from relations."""
    edit(folder / "vocab.json", lambda c: c.append("<alice>"))
    edit(folder / "train.json", lambda c: c[0].update(input_text="<alice><r_0>"))
    with pytest.raises(UserError, match="'<alice>' is neither an entity") as error:
        read_folder(folder)
    assert "item 0" in str(error.value) and "write <e_alice> or <r_alice>" in str(error.value)
    edit(folder / "train.json", lambda c: c[0].update(input_text="<r_0><e_0>"))
    with pytest.raises(UserError, match="'<r_0><e_0>' is not a head and up to two relations"):
        read_folder(folder)


def test_hostile_files(folder, tmp_path):
    path = folder / "train.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_folder(folder)
    path.write_bytes(b"\xff\xfe[]")
    with pytest.raises(UserError, match="is not JSON"):
        read_folder(folder)
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a JSON list"):
        read_folder(folder)
    path.unlink()
    outside = tmp_path / "outside.json"
    shutil.copy(PRETRAINING / "train.json", outside)
    os.symlink(outside, path)
    with pytest.raises(UserError, match="is a link out of its folder"):
        read_folder(folder)
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
