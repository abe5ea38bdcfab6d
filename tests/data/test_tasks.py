"""Tasks: what they declare, what is drawn, what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from grokjax.base import names
from grokjax.base.errors import UserError
from grokjax.data import comparison, modular
from grokjax.data.comparison import COMPARISON
from grokjax.data.composition import COMPOSITION
from grokjax.data.dataset import make_batch, stack_datasets
from grokjax.data.loading import load_dataset
from grokjax.data.modular import MODULAR, OPERATIONS
from grokjax.data.queries import dataset_of, vocabulary_of
from grokjax.data.task import (
    GENERALISATION,
    TRAINED,
    Hidden,
    ProbeType,
    Task,
    check_task,
    from_json,
    to_json,
)
from grokjax.data.tasks import DECLARED

P = 7


def made(task, **changes):
    config = tiny_config(**{"data__task": task, **changes})
    return load_dataset(config)


def arithmetic(**changes):
    return made("modular", data__modulus=P, **changes)


def comparisons(**changes):
    settings = {"data__num_entities": 20, "data__num_attributes": 3, "data__num_values": 4}
    settings |= {"data__ood_fraction": 0.3, "data__phi": 4.0, "data__iid_test_fraction": 0.1}
    return made("comparison", **settings | changes)


def test_the_studys_columns_are_what_composition_declares():
    assert COMPOSITION.accuracy == names.OOD_ACCURACY
    assert COMPOSITION.of_path("found") == names.OOD_BRIDGE_FOUND
    assert COMPOSITION.of_path("found_strict") == names.OOD_BRIDGE_FOUND_STRICT
    assert COMPOSITION.of_path("chance") == names.OOD_BRIDGE_CHANCE
    assert COMPOSITION.positions == names.POSITIONS
    assert COMPOSITION.site_types == (names.TRAIN_INFERRED, names.TEST_INFERRED_IID)


@pytest.mark.parametrize("task", DECLARED.values(), ids=list(DECLARED))
def test_a_declaration_survives_its_json(task):
    check_task(task)
    assert from_json(to_json(task)) == task


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_equation_is_asked_or_trained_once_and_true(operation):
    d = arithmetic(data__operation=operation, data__train_share=0.4)
    rows = np.concatenate([d.train.query, np.asarray(d.probes.table.query)[d.probes.kind == 1]])
    number = {token: int(token[1:-1]) for token in d.vocabulary.tokens[:P]}
    said = [[d.vocabulary.tokens[i - 1] for i in row] for row in rows.tolist()]
    pairs = {(number[a], number[b]) for a, _, b, _ in said}
    assert len(pairs) == len(rows) == P * (P - (operation == "divide"))
    assert {sign for _, sign, _, _ in said} == {f"<{OPERATIONS[operation][0]}>"}
    for a, b, c in ((number[a], number[b], number[c]) for a, _, b, c in said):
        right = {
            "add": a + b, "subtract": a - b, "multiply": a * b, "quadratic": a**2 + a * b + b**2,
        }  # fmt: skip
        assert (c * b - a if operation == "divide" else c - right[operation]) % P == 0
    assert len(d.train.query) == round(0.4 * len(rows))


def test_a_smaller_share_is_a_prefix_and_another_seed_another_split():
    few, many = (arithmetic(data__train_share=share) for share in (0.2, 0.6))
    np.testing.assert_array_equal(few.train.query, many.train.query[: len(few.train.query)])
    other = arithmetic(data__train_share=0.2, seeds__data=1)
    assert other.train.query.tolist() != few.train.query.tolist()
    stack_datasets([few, many])  # operations and shares are one vocabulary, one program


@pytest.mark.parametrize(
    "changes", [{"data__modulus": 9, "data__operation": "divide"}, {"data__train_share": 1.0}]
)
def test_arithmetic_that_cannot_be_is_refused(changes):
    with pytest.raises(UserError, match=r"data.modulus: 9 is no prime|data.train_share: 1.0 of"):
        made("modular", **{"data__modulus": P, **changes})


def test_comparisons_follow_from_values_and_ood_entities_are_never_compared():
    d = comparisons()
    name = [d.vocabulary.name(i) for i in range(d.vocabulary.size)]
    query, two = np.asarray(d.train.query), np.asarray(d.train.query)[:, 2] > 0
    value = {(name[a], name[e]): int(name[v][2:]) for a, e, _, v in query[~two]}
    assert len(value) == 3 * 20 and (~two).sum() == 60
    ood = {
        name[e] for _, e, _, _ in np.asarray(d.probes.table.query)[d.probes.types == "ood_values"]
    }
    assert len(ood) == 6
    relation = {-1: "less", 0: "same", 1: "more"}
    asked = np.asarray(d.probes.table.query)
    hidden = np.stack([h.token for h in d.probes.hidden], axis=1)
    for (a, one, other, answer), kind, tokens in zip(asked, d.probes.types, hidden, strict=True):
        if kind.endswith("values"):
            assert not tokens.any() and name[answer] == f"v_{value[name[a], name[one]]}"
            continue
        values = [value[name[a], name[e]] for e in (one, other)]
        assert one != other and name[answer] == relation[np.sign(values[0] - values[1])]
        assert [name[t] for t in tokens] == [f"v_{v}" for v in values]
        assert {name[one] in ood, name[other] in ood} == {kind == "ood_pairs"}
    assert not {name[e] for e in query[two][:, 1:3].ravel()} & ood
    held_out = asked[d.probes.types == "id_pairs"].tolist()
    assert held_out and not {tuple(q) for q in held_out} & {tuple(q) for q in query.tolist()}
    assert two.sum() == 4 * 3 * 14 == d.counts["num_compared"]
    with pytest.raises(UserError, match=r"data.phi: 100 asks for"):
        comparisons(data__phi=100.0)
    with pytest.raises(UserError, match=r"data.ood_fraction"):
        comparisons(data__ood_fraction=0.01)


def test_a_batch_of_any_length():
    """As written for compositions, with the answer at the first place that a question leaves."""
    query = jnp.array([[1, 2, 3, 4, 9], [5, 0, 0, 0, 8], [0, 0, 0, 0, 0]])
    batch = make_batch(query, 7)
    assert batch.inputs.tolist() == [[1, 2, 3, 4, 0, 0], [5, 0, 0, 0, 0, 0], [0] * 6]
    assert batch.labels.tolist() == [[1, 2, 3, 4, 9, 7], [5, 8, 7, 0, 0, 0], [0] * 6]
    assert batch.answer_position.tolist() == [4, 1, 1]


def test_another_task_takes_no_facts_and_is_in_no_folder(tmp_path):
    from grokjax.data.folder import write_folder

    with pytest.raises(UserError, match=r"data.identity_bridge: modular has no facts"):
        arithmetic(data__identity_bridge=True)
    with pytest.raises(UserError, match="holds compositions, not modular"):
        arithmetic(data__folder=str(tmp_path))
    with pytest.raises(UserError, match="hold compositions, not modular"):
        write_folder(arithmetic(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


TASK = Task(
    "own", ("a", "b"), (ProbeType("known", TRAINED), ProbeType("new", GENERALISATION)),
    (Hidden("c", ("a",)),),
)  # fmt: skip
ROWS = np.array([[1, 2, 3, 4], [2, 1, 3, 4]])
WRONG = {
    "columns": ({"train": ROWS[:, :3]}, r"shape \(2, 3\); own declares 4 columns"),
    "nan": ({"train": ROWS / np.array([1, 1, 1, np.nan])}, "training queries that are not finite"),
    "fractions": ({"train": ROWS / 2}, "token ids are whole numbers"),
    "outside": ({"train": ROWS + np.array([0, 0, 0, 96])}, "query 0 has the token 100, outside of"),
    "negative": ({"train": ROWS - np.array([0, 0, 9, 0])}, "query 0 has the token -6"),
    "empty": ({"train": ROWS[:0]}, "no training queries"),
    "gap": ({"train": ROWS * np.array([0, 1, 1, 1])}, "training query 0 has a gap"),
    "no answer": (
        {"train": ROWS * np.array([1, 1, 1, 0])},
        "training query 0 has a gap, no answer",
    ),
    "shorter": (
        {"probes": {"new": ROWS * np.array([1, 0, 1, 1])}},
        "new query 0 has a gap, no answer, or",
    ),
    "no probes": ({"probes": {"known": ROWS}}, "no probes of the type new"),
    "unknown type": ({"probes": {"newer": ROWS}}, "probes of the type 'newer', which own lacks"),
}


@pytest.mark.parametrize("what", WRONG)
def test_rows_that_are_not_as_declared_are_refused(what):
    changes, message = WRONG[what]
    given = {"train": ROWS, "probes": {"known": ROWS, "new": ROWS}} | changes
    with pytest.raises(ValueError, match=message):
        dataset_of(TASK, vocabulary_of("pqrs"), seed=0, **given)


DECLARATIONS = {
    "no question": ({"question": ()}, "without tokens"),
    "twice": ({"question": ("a", "answer")}, "two places of a sequence one name"),
    "names": ({"question": ("a b",)}, "has the name 'a b'"),
    "three": ({"hidden": TASK.hidden * 3}, "hides 3 tokens"),
    "given": ({"hidden": (Hidden("c", ("z",)),)}, "given by z"),
    "roles": ({"types": TASK.types[:1]}, "0 probe types of the role 'generalisation'"),
    "role": ({"types": (ProbeType("x", "test"),)}, "the role 'test'"),
    "long": ({"types": (*TASK.types, ProbeType("x", TRAINED, 3))}, "length outside of 0..2"),
}


@pytest.mark.parametrize("what", DECLARATIONS)
def test_a_declaration_that_says_nothing_is_refused(what):
    changes, message = DECLARATIONS[what]
    with pytest.raises(ValueError, match=message):
        check_task(dataclasses.replace(TASK, **changes))


def test_names_of_what_is_hidden():
    """None has no path, one is the path, of two the path is both."""
    assert MODULAR.path == "" and list(MODULAR.event_metrics) == ["memorised", "answer"]
    assert TASK.path == "c" and TASK.kept_path == "new/c_found_at_site"
    assert COMPARISON.path == "path" and COMPARISON.event_metrics["any path"] == (
        f"{comparison.OOD_PAIRS}/path_found"
    )
    assert MODULAR.accuracy == f"{modular.TEST}/answer_accuracy"
