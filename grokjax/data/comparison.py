"""Comparison, where Wang et al. 2024 (arXiv 2405.15071) saw the ordinary transformer generalise
out of distribution: each entity has a value of each attribute; `attribute entity1 entity2` asks
whether the first value is less than, the same as or more than the second. Both values are hidden.

All values are trained on as facts, `attribute entity` -> value. Comparisons are trained on between
ID entities alone; OOD entities are never compared in training.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from grokjax.base.draws import random_stream
from grokjax.base.errors import UserError
from grokjax.data.chains import shuffled
from grokjax.data.dataset import Dataset
from grokjax.data.queries import Rows, dataset_of, vocabulary_of
from grokjax.data.task import GENERALISATION, HELD_OUT, TRAINED, Hidden, ProbeType, Task
from grokjax.data.vocabulary import PAD

ID_VALUES, OOD_VALUES = "id_values", "ood_values"
TRAINED_PAIRS, ID_PAIRS, OOD_PAIRS = "trained_pairs", "id_pairs", "ood_pairs"
RELATIONS = ("less", "same", "more")
COMPARISON = Task(
    "comparison",
    question=("attribute", "entity1", "entity2"),
    types=(
        ProbeType(ID_VALUES, TRAINED, length=2, hides=False),
        ProbeType(OOD_VALUES, TRAINED, length=2, hides=False),
        ProbeType(TRAINED_PAIRS, TRAINED),
        ProbeType(ID_PAIRS, HELD_OUT),
        ProbeType(OOD_PAIRS, GENERALISATION),
    ),
    hidden=(
        Hidden("value1", given_by=("attribute", "entity1")),
        Hidden("value2", given_by=("attribute", "entity2")),
    ),
    unseen="OOD comparisons",
    short="OOD",
    familiar="held-out ID comparisons",
    short_familiar="held-out ID",
    chosen_on="ID comparisons",
    about_unseen="of entities that were never compared in training",
)


def make_comparison(data: ConfigDict, seed: int) -> Dataset:
    """Entities with values, and which comparisons are for what.

    Args:
      data: settings `num_entities`, `num_attributes`, `num_values`, `ood_fraction` (of the
        entities), `iid_test_fraction` (of the ID comparisons), `phi` (training comparisons for each
        value of an ID entity; inf takes all), `max_probes`.
      seed: of every draw. A smaller phi is a prefix of a larger one.

    Raises:
      UserError: too few entities for both kinds, or more comparisons than there are.
    """
    num_attributes, num_entities = data.num_attributes, data.num_entities
    shape = (num_attributes, num_entities)
    value = random_stream(seed, "values").integers(data.num_values, size=shape)
    order = random_stream(seed, "ood entities").permutation(num_entities)
    num_ood = round(data.ood_fraction * num_entities)
    ood, known = np.sort(order[:num_ood]), np.sort(order[num_ood:])
    if min(len(ood), len(known)) < 2:
        raise UserError(
            f"data.ood_fraction: {data.ood_fraction} makes {len(ood)} of {num_entities} entities"
            " OOD; a comparison takes two of them, and two of the others"
        )
    id_values, ood_values = (_facts(num_attributes, own) for own in (known, ood))
    num_pairs = num_attributes * len(known) * (len(known) - 1)
    held_out = round(data.iid_test_fraction * num_pairs)
    wanted = num_pairs - held_out if math.isinf(data.phi) else round(data.phi * len(id_values))
    if not 0 < wanted <= num_pairs - held_out:
        raise UserError(
            f"data.phi: {data.phi:g} asks for {wanted:,} training comparisons, there are"
            f" {num_pairs - held_out:,}; give at most {(num_pairs - held_out) / len(id_values):.4g}"
        )
    trained = _pairs(num_attributes, known, held_out, held_out + wanted, seed)
    asked = {
        ID_VALUES: _some(id_values, data.max_probes, seed, ID_VALUES),
        OOD_VALUES: _some(ood_values, data.max_probes, seed, OOD_VALUES),
        TRAINED_PAIRS: trained[: data.max_probes],
        ID_PAIRS: _pairs(num_attributes, known, 0, min(held_out, data.max_probes), seed),
        OOD_PAIRS: _pairs(num_attributes, ood, 0, data.max_probes, seed),
    }
    first_value = num_attributes + num_entities

    def rows(questions: Int[np.ndarray, "N 3"]) -> Rows:
        """Token ids: attribute, entity 1, entity 2, value 1, value 2, answer; -1 is no entity."""
        attribute, one, two = questions.T
        values = first_value + value[attribute, one], first_value + value[attribute, two]
        relation = first_value + data.num_values + 1 + np.sign(values[0] - values[1])
        compared = np.stack([attribute, num_attributes + one, num_attributes + two], axis=1)
        pairs = np.concatenate([compared, np.stack([*values, relation], axis=1)], axis=1) + 1
        facts = np.full_like(pairs, PAD)
        facts[:, :2], facts[:, -1] = pairs[:, :2], values[0] + 1
        return np.where(two[:, None] < 0, facts, pairs)

    train = np.concatenate([id_values, ood_values, trained])
    vocabulary = vocabulary_of(
        [
            *(f"a_{i}" for i in range(num_attributes)),
            *(f"e_{i}" for i in range(num_entities)),
            *(f"v_{i}" for i in range(data.num_values)),
            *RELATIONS,
        ]
    )
    probes = {kind: rows(questions) for kind, questions in asked.items()}
    parts = {"num_id_values": len(id_values), "num_compared": len(trained)}
    return dataset_of(COMPARISON, vocabulary, rows(train), probes, seed, parts=parts)


def _facts(num_attributes: int, entities: Int[np.ndarray, " E"]) -> Int[np.ndarray, "N 3"]:
    """Every attribute of some entities, as questions without a second one."""
    attribute, entity = np.meshgrid(np.arange(num_attributes), entities, indexing="ij")
    return np.stack([attribute.ravel(), entity.ravel(), np.full(attribute.size, -1)], axis=1)


def _pairs(
    num_attributes: int, entities: Int[np.ndarray, " E"], start: int, stop: int, seed: int
) -> Int[np.ndarray, "N 3"]:
    """Comparisons of some entities by their places in a random order, of which no more is made."""
    of_one = len(entities) - 1
    size = num_attributes * len(entities) * of_one
    key = random_stream(seed, f"comparisons of {len(entities)}").integers(2**63)
    number = shuffled(size, start, min(stop, size), key)
    attribute, pair = np.divmod(number, len(entities) * of_one)
    one, two = np.divmod(pair, of_one)
    two += two >= one  # nobody is compared with themselves
    return np.stack([attribute, entities[one], entities[two]], axis=1)


def _some(
    questions: Int[np.ndarray, "N 3"], most: int, seed: int, draw: str
) -> Int[np.ndarray, "K 3"]:
    return questions[random_stream(seed, draw).permutation(len(questions))[:most]]
