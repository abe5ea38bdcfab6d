"""New facts, what is kept, and the queries that chain both (docs/protocol.md, section 2.5)."""

import json

import numpy as np
import pytest
from conftest import FINETUNING, PRETRAINING, tiny_config

from grokjax.base.errors import UserError
from grokjax.base.names import CATEGORIES
from grokjax.data.folder import read_folder, write_folder
from grokjax.data.loading import load_dataset, load_datasets
from grokjax.data.new_facts import from_folder

HOPS = {"new_then_old": "no", "old_then_new": "on", "new_then_new": "nn"}


def config(**changes):
    made = tiny_config(data__num_entities=30, data__num_relations=12, data__out_degree=6)
    made.transfer.update({"source": "runs/x", "num_new_facts": 40, "num_kept": 60} | changes)
    return made


def source(run):
    plain = run.copy_and_resolve_references()
    plain.transfer.source = ""
    return load_dataset(plain)


def queries(dataset, name):
    kind = np.asarray(dataset.probes.kind) == dataset.probes.names.index(name)
    return [tuple(q) for q in np.asarray(dataset.probes.table.query)[kind].tolist()]


def table(*facts):
    return {(h, r): t for h, r, t in np.concatenate(facts).tolist()}


@pytest.mark.parametrize("retention", ["facts", "closure"])
def test_new_facts_are_new_and_come_in_chains(retention):
    run = config(retention=retention)
    old, made = source(run), load_dataset(run)
    known, new = table(old.id_facts, old.ood_facts), table(made.new_facts)
    assert len(new) == len(made.new_facts) == 40 and not known.keys() & new.keys()
    first, second = made.new_facts[::2], made.new_facts[1::2]
    np.testing.assert_array_equal(first[:, 2], second[:, 0])
    assert {r for _, r in new} <= old.vocabulary.relation_ids
    asked = {(h, r): t for h, r, _, t in queries(made, "atomic_new")}
    trained = {(h, r): t for h, r, r2, t in made.train.query.tolist() if not r2}
    assert asked == new and new.items() <= trained.items()


@pytest.mark.parametrize("retention", ["facts", "closure"])
def test_categories_are_what_they_are_called_and_never_trained(retention):
    run = config(retention=retention)
    made = load_dataset(run)
    kinds = {"o": table(made.id_facts), "n": table(made.new_facts)}
    every = {**kinds["o"], **kinds["n"]}
    train = {tuple(q[:3]) for q in made.train.query.tolist()}
    for name in CATEGORIES:
        expected = {
            (h, r1, r2, every[b, r2])
            for (h, r1), b in kinds[HOPS[name][0]].items()
            for head, r2 in kinds[HOPS[name][1]]
            if head == b
        }
        found = queries(made, name)
        assert set(found) == expected and len(found) == len(expected) > 20
        assert not train & {q[:3] for q in found}
        kind = np.asarray(made.probes.kind) == made.probes.names.index(name)
        for (h, r1, _, _), b in zip(found, made.probes.bridge[kind].tolist(), strict=True):
            assert every[h, r1] == b


def test_facts_are_kept_with_the_compositions_of_two():
    run = config(num_kept=60)
    old, made = source(run), load_dataset(run)
    kept = {(h, r): t for h, r, r2, t in made.train.query.tolist() if not r2}
    kept = {f: t for f, t in kept.items() if f not in table(made.new_facts)}
    known = table(old.id_facts)
    assert len(kept) == 60 and kept.items() <= known.items()
    expected = {
        tuple(q) for q in old.train.query.tolist()
        if q[2] and (q[0], q[1]) in kept and (known[q[0], q[1]], q[2]) in kept
    }  # fmt: skip
    found = [tuple(q) for q in made.train.query.tolist() if q[2]]
    assert set(found) == expected and len(found) == len(expected) > 10
    assert made.counts["num_kept_facts"] == 60
    assert set(queries(made, "kept_inferred")) == expected


def test_a_closure_has_exactly_its_target_and_whole_neighbourhoods():
    run = config(retention="closure", num_kept=300)
    old, made = source(run), load_dataset(run)
    new = table(made.new_facts)
    kept = [tuple(q) for q in made.train.query.tolist() if (q[0], q[1]) not in new]
    assert len(kept) == len(set(kept)) == 300
    assert made.counts["num_kept_facts"] + made.counts["num_kept_compositions"] == 300
    known = table(old.id_facts, old.ood_facts)
    trained = {tuple(q) for q in old.train.query.tolist()}
    assert set(kept) <= trained
    facts = [q[:2] for q in kept if not q[2]]
    compositions = {q for q in kept if q[2]}
    of = {
        f: {q for q in trained if q[2] and f in (q[:2], (known[q[:2]], q[2]))} for f in facts
    }  # fmt: skip
    # Every composition comes with a kept fact; all facts but the last bring all of theirs.
    assert compositions <= set.union(*of.values())
    assert sum(not of[f] <= compositions for f in facts) <= 1


def test_fewer_new_facts_and_kept_ones_are_a_prefix_of_more():
    many = load_dataset(config())
    for num in (20, 21):
        few = load_dataset(config(num_new_facts=num))
        np.testing.assert_array_equal(few.new_facts, many.new_facts[:num])
    kept = [
        {tuple(q) for q in load_dataset(config(num_kept=n)).train.query.tolist()} for n in (30, 60)
    ]
    assert kept[0] < kept[1]
    other = load_dataset(config(seed=1))
    assert not np.array_equal(other.new_facts, many.new_facts)


def test_a_dose_of_new_compositions_is_trained_on_and_no_longer_asked():
    none, half = load_dataset(config()), load_dataset(config(new_share=0.5))
    trained = {tuple(q) for q in half.train.query.tolist()}
    for name in CATEGORIES:
        every, asked = set(queries(none, name)), set(queries(half, name))
        assert asked < every and every - asked <= trained and not asked & trained
        assert len(asked) == len(every) - round(0.5 * len(every))


def test_runs_with_the_same_new_facts_share_one_dataset():
    runs = [config(), config(step=100, checkpoint="end"), config(seed=1)]
    first, second, third = load_datasets(runs)
    assert first is second and first is not third


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_new_facts": 10_000}, "only 180 pairs of head and relation are unused"),
        ({"num_kept": 10_000}, "the source has 144 ID facts"),
        ({"num_kept": 10_000, "retention": "closure"}, "the source was trained on"),
    ],
)
def test_what_a_graph_has_no_room_for_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        load_dataset(config(**changes))
    for num in (179, 180):
        assert len(load_dataset(config(num_new_facts=num)).new_facts) == num


def test_a_finetuning_folder_is_written_as_the_authors_write_theirs(tmp_path):
    made = load_dataset(config())
    write_folder(made, tmp_path / "d")
    assert {p.name for p in (tmp_path / "d").iterdir()} == {p.name for p in FINETUNING.iterdir()}
    items = json.loads((tmp_path / "d" / "test.json").read_text())
    theirs = json.loads((FINETUNING / "test.json").read_text())
    assert {i["type"] for i in items} == {i["type"] for i in theirs}
    back = read_folder(tmp_path / "d")
    assert back.counts["num_contradictions"] == 0
    mixed = {*queries(made, "new_then_old"), *queries(made, "old_then_new")}
    assert set(queries(back, "test_inferred_new_mix")) == mixed
    # Read again beside the old graph, the categories are back.
    again = from_folder(source(config()), back, 0)
    for name in CATEGORIES:
        assert set(queries(again, name)) == set(queries(made, name))
    np.testing.assert_array_equal(again.train.query, made.train.query)
    np.testing.assert_array_equal(np.sort(again.new_facts, 0), np.sort(made.new_facts, 0))


def test_a_folder_of_another_graph_is_refused(tmp_path):
    made = load_dataset(config())
    write_folder(made, tmp_path / "d")
    other = config()
    other.seeds.data = 5
    with pytest.raises(UserError, match="do not follow from the source's facts"):
        from_folder(source(other), read_folder(tmp_path / "d"), 0)
    with pytest.raises(UserError, match="another vocabulary"):
        from_folder(source(config()), read_folder(FINETUNING), 0)


def test_the_authors_own_queries_are_sorted_by_the_graph():
    made = from_folder(read_folder(PRETRAINING), read_folder(FINETUNING), 0)
    assert len(made.new_facts) == 200 and made.counts["num_train"] == 1800
    asked = sum(made.counts[f"num_{name}"] for name in CATEGORIES)
    with_ood_facts = made.counts["num_test_inferred_new"] + made.counts["num_test_inferred_new_mix"]
    assert asked + with_ood_facts == 515 + 439
    kinds = {"o": table(made.id_facts), "n": table(made.new_facts)}
    for name in CATEGORIES:
        bridges = {(h, r): t for h, r, t in made.new_facts.tolist()} | kinds["o"]
        for h, r1, r2, _ in queries(made, name):
            assert (h, r1) in kinds[HOPS[name][0]] and (bridges[h, r1], r2) in kinds[HOPS[name][1]]
