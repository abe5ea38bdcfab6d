"""Data folders in the authors' JSON format (docs/protocol.md, section 3), read with suspicion."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from grokjax.base import names
from grokjax.base.errors import UserError
from grokjax.base.files import MAX_JSON_BYTES, given_path, read_json, replacing
from grokjax.data.dataset import (
    NO_FACTS,
    Dataset,
    HiddenTokens,
    Probes,
    QueryTable,
    make_probes,
    query_table,
)
from grokjax.data.graph import (
    ANSWER,
    BRIDGE,
    HEAD,
    RELATION1,
    RELATION2,
    CompositionRows,
    FactRows,
    fact_numbers,
)
from grokjax.data.vocabulary import ENTITY, MAX_TOKENS, PAD, RELATION, TOKEN, Vocabulary

_FILES = ("train.json", "valid.json", "test.json", "vocab.json")
Told = Callable[[Sequence[Any], str], Iterable[Any]]
_FACT_FILES = ("id_facts.json", "ood_facts.json")  # of pretraining folders only


def read_folder(folder: str | os.PathLike, seed: int = 0) -> Dataset:
    """The dataset of a folder; its token order, items and probe types are kept.

    In a pretraining folder every item must follow from the atomic facts. In a finetuning folder
    (no fact files, and probes of new facts) the authors' generator breaks that rule now and then:
    such compositions are counted in `counts` under `num_missing_facts` and `num_contradictions`.
    Bridges there come from the two-token items of train.json and test.json; a later one wins.

    Args:
      folder: holds train, valid, test and vocab.json, and for pretraining id and ood_facts.json.
      seed: shuffles bridges for the chance level.

    Raises:
      UserError: a file is missing or breaks the format; names file and item.
    """
    path = pathlib.Path(folder)
    try:
        if not path.is_dir():
            raise UserError(f"data.folder {path}: no such folder; give a data folder")
        return _read(path, seed)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "too large for this machine's memory"
        raise UserError(f"data.folder {path}: cannot be read ({reason})") from None


def _read(path: pathlib.Path, seed: int) -> Dataset:
    reader = _Reader(path)
    train, _ = reader.items("train.json")
    test, types = reader.items("test.json", typed=True)
    valid, _ = reader.items("valid.json")
    for name, rows in (("train.json", train), ("test.json", test)):
        if not len(rows):
            raise UserError(f"{path / name}: has no items; make the folder again")

    pretraining = any((path / name).exists() for name in _FACT_FILES)
    if not pretraining and not np.any(np.isin(types, names.NEW_FOLDER_TYPES)):
        raise UserError(
            f"{path / 'id_facts.json'}: missing; only a finetuning folder does without, and"
            f" test.json has no items of type {', '.join(names.NEW_FOLDER_TYPES)}"
        )
    if pretraining:
        id_facts, ood_facts = reader.facts()
        facts = np.concatenate([id_facts, ood_facts])
    else:
        id_facts = ood_facts = NO_FACTS
        both = np.concatenate([train, test])
        one_hop = (both[:, RELATION1] != PAD) & (both[:, RELATION2] == PAD)
        facts = both[one_hop][:, [HEAD, RELATION1, ANSWER]]

    tail_of = _lookup(facts)
    problems = {"num_missing_facts": 0, "num_contradictions": 0}
    for name, rows in (("train.json", train), ("test.json", test), ("valid.json", valid)):
        two_hops = rows[:, RELATION2] != PAD
        bridge = tail_of(rows[:, HEAD], rows[:, RELATION1])
        implied = np.where(two_hops, tail_of(bridge, rows[:, RELATION2]), bridge)
        implied = np.where(rows[:, RELATION1] == PAD, rows[:, HEAD], implied)
        rows[:, BRIDGE] = np.where(two_hops, bridge, PAD)
        missing = implied == PAD
        contradicts = ~missing & (implied != rows[:, ANSWER])
        if pretraining and np.any(missing | contradicts):
            item = int(np.argmax(missing | contradicts))
            wrong = "needs a fact that id_facts.json and ood_facts.json lack"
            if contradicts[item]:
                wrong = "has an answer that contradicts id_facts.json and ood_facts.json"
            raise UserError(f"{path / name}: item {item} {wrong}; make the folder again")
        if name != "valid.json":  # which repeats items of test.json
            problems["num_missing_facts"] += int(np.sum(missing & two_hops))
            problems["num_contradictions"] += int(np.sum(contradicts & two_hops))

    # A dataset without queries of some type reads back as it was written.
    known = tuple(
        n
        for n in names.FOLDER_TYPES
        if n in names.OLD_FOLDER_TYPES or not pretraining or n in types
    )
    return Dataset(
        path.resolve().name,
        reader.vocabulary,
        query_table(train),
        make_probes(test, types, known, seed),
        id_facts,
        ood_facts,
        (_parts(train, ood_facts) if pretraining else {}) | problems,
    )


def _parts(train: CompositionRows, ood_facts: FactRows) -> dict[str, int]:
    """What the compositions of a pretraining set are for, told by where an OOD fact is."""
    ood_tail_of = _lookup(ood_facts)
    two_hops = train[:, RELATION2] != PAD
    hop1 = ood_tail_of(train[:, HEAD], train[:, RELATION1]) != PAD
    hop2 = ood_tail_of(train[:, BRIDGE], train[:, RELATION2]) != PAD
    return {
        "num_base": int(np.sum(two_hops & ~hop1 & ~hop2)),
        "num_hop1_added": int(np.sum(two_hops & hop1)),
        "num_hop2_added": int(np.sum(two_hops & ~hop1 & hop2)),
    }


def write_folder(
    dataset: Dataset, folder: str | os.PathLike, told: Told = lambda items, what: items
) -> None:
    """Writes a dataset so that the authors' code trains on it.

    Args:
      dataset: what to write; with new facts, or without any, it becomes a finetuning folder.
      folder: made if need be.
      told: (items, what) -> the same items; may say how many are done.

    Raises:
      UserError: the folder holds a dataset already, cannot be written, or could not be read again.
    """
    dataset = in_authors_types(dataset)
    path = given_path(folder, "--out")
    refuse_existing(path)
    vocabulary, probes = dataset.vocabulary, dataset.probes
    tokens = vocabulary.tokens
    train, test = (np.asarray(table.query).tolist() for table in (dataset.train, probes.table))
    types = probes.types.tolist()
    valid = [row for row, t in zip(test, types, strict=True) if t == names.TEST_INFERRED_OOD]
    contents: dict[str, Iterable[Any]] = {
        "train.json": (item_text(vocabulary, row) for row in told(train, "train.json")),
        "valid.json": (item_text(vocabulary, row) for row in valid),
        "test.json": (
            item_text(vocabulary, row) | {"type": t} for row, t in zip(test, types, strict=True)
        ),
        "vocab.json": tokens,
    }
    if len(dataset.id_facts) or len(dataset.ood_facts):
        for name, facts in zip(_FACT_FILES, (dataset.id_facts, dataset.ood_facts), strict=True):
            rows = told(facts.tolist(), name)
            contents[name] = ([tokens[token - 1] for token in fact] for fact in rows)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write_list(path / name, content)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason})") from None


def refuse_existing(path: pathlib.Path) -> None:
    """Nothing is written over.

    Raises:
      UserError: the folder holds a dataset already, or is none.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{path}: is a file; give a new folder")
    for name in (*_FILES, *_FACT_FILES):
        if os.path.lexists(path / name):
            raise UserError(f"{path / name}: exists already; give a new folder")


def _write_list(path: pathlib.Path, items: Iterable[Any]) -> None:
    """As `json.dump` of the list, which is never held as a whole."""
    with replacing(path) as scratch, open(scratch, "w", newline="") as file:
        file.write("[")
        size = 2
        for number, item in enumerate(items):
            text = ", " * (number > 0) + json.dumps(item)
            size += len(text)
            if size > MAX_JSON_BYTES:
                raise UserError(
                    f"{path}: would be over {MAX_JSON_BYTES >> 20} MiB, more than is read back;"
                    " lower data.phi, or give fewer facts"
                )
            file.write(text)
        file.write("]")


def most_items(vocabulary: Vocabulary, facts: FactRows) -> int:
    """About how many compositions of such facts fit a file that is read back, on the safe side."""
    sizes = np.array([0, *(len(json.dumps(token)) - 2 for token in vocabulary.tokens)])
    head, relation, tail = sizes[facts].mean(axis=0) if len(facts) else (0, 0, 0)
    item = len(json.dumps({"input_text": "", "target_text": "</a>"})) + len(", ")
    return int(0.95 * MAX_JSON_BYTES / (item + 2 * head + 4 * relation + tail))


def in_authors_types(dataset: Dataset) -> Dataset:
    """A finetuning dataset as their folders hold it: their types, no lists of facts.

    They do not tell which hop is new, nor have they probes of what is kept. Other datasets are
    theirs as they are.

    Raises:
      UserError: it is of another task than theirs.
    """
    if not dataset.task.of_facts:
        raise UserError(f"{dataset.name}: their files hold compositions, not {dataset.task.name}")
    if not len(dataset.new_facts):
        return dataset
    theirs = dict.fromkeys(names.CATEGORIES, names.TEST_INFERRED_NEW_MIX) | {
        names.NEW_THEN_NEW: names.TEST_INFERRED_NEW
    }
    probes = dataset.probes
    types = np.array([theirs.get(name, name) for name in probes.names])[probes.kind]
    known = tuple(name for name in names.FOLDER_TYPES if name in types)
    rows = np.concatenate([np.flatnonzero(types == name) for name in known])
    table = QueryTable(np.asarray(probes.table.query)[rows], np.asarray(len(rows), np.int32))
    kind = np.array([known.index(name) for name in types[rows]], np.int16)
    hidden = (HiddenTokens(probes.bridge[rows], probes.decoy[rows]),)
    return dataclasses.replace(
        dataset,
        probes=Probes(table, hidden, kind, known),
        id_facts=NO_FACTS,
        ood_facts=NO_FACTS,
        new_facts=NO_FACTS,
    )


def item_text(vocabulary: Vocabulary, query: Sequence[int]) -> dict[str, str]:
    """`input_text` and `target_text` of a query, as the authors write them."""
    *asked, answer = query
    text = vocabulary.decode(asked)
    return {"input_text": text, "target_text": f"{text}{vocabulary.decode([answer])}</a>"}


class _Reader:
    """Reads the files of one folder against its vocabulary."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        path = folder / "vocab.json"
        tokens = self._json("vocab.json")
        for number, token in enumerate(tokens):
            if not isinstance(token, str) or not TOKEN.fullmatch(token):
                raise UserError(f"{path}: item {number} is not a token such as <e_0>")
        if len(set(tokens)) != len(tokens) or len(tokens) > MAX_TOKENS:
            raise UserError(f"{path}: a token is listed twice, or there are over {MAX_TOKENS:,}")
        if "</a>" not in tokens:
            raise UserError(f"{path}: has no token </a>, which ends every answer; add it")
        self.vocabulary = Vocabulary(tuple(tokens))

    def facts(self) -> tuple[FactRows, FactRows]:
        """Token ids of ID and OOD facts, each pair with one tail."""
        seen: set[tuple[int, int]] = set()
        tables = []
        for name in _FACT_FILES:
            rows = []
            for number, fact in enumerate(self._json(name)):
                where = f"{self._folder / name}: item {number}"
                if not isinstance(fact, list) or not all(isinstance(t, str) for t in fact):
                    raise UserError(f"{where} is not a list of tokens [head, relation, tail]")
                row = [self._id(where, token) for token in fact]
                if len(fact) != 3 or not self._has_roles(row, "ere"):
                    raise UserError(f"{where} is not [head, relation, tail], such as <e_0>, <r_0>")
                if (row[0], row[1]) in seen:
                    raise UserError(f"{where} repeats the head and relation of another fact")
                seen.add((row[0], row[1]))
                rows.append(row)
            tables.append(np.array(rows, np.int32).reshape(-1, 3))
        return tables[0], tables[1]

    def items(self, name: str, typed: bool = False) -> tuple[CompositionRows, np.ndarray]:
        """Token ids, the bridges still PAD; and types."""
        rows, types = [], []
        path, end = self._folder / name, self.vocabulary.end_id
        entities = self.vocabulary.entity_ids
        texts = ("input_text", "target_text", "type") if typed else ("input_text", "target_text")
        for number, item in enumerate(self._json(name)):
            where = f"{path}: item {number}"
            if not isinstance(item, dict) or not all(isinstance(item.get(t), str) for t in texts):
                raise UserError(f"{where} has no text under {', '.join(texts)}")
            question, target = item["input_text"], item["target_text"]
            asked = self._encode(where, question)
            if not any(self._has_roles(asked, roles) for roles in ("err", "er", "e")):
                self._refuse_question(where, question, asked)
            rest = self._encode(where, target.removeprefix(question))
            if not target.startswith(question) or rest[1:] != [end] or rest[0] not in entities:
                raise UserError(f"{where}: target_text is not input_text, an entity and </a>")
            head, first, second = (*asked, PAD, PAD)[:3]
            rows.append((head, first, PAD, second, rest[0]))
            if typed:
                if item["type"] not in names.FOLDER_TYPES:
                    raise UserError(
                        f"{where} has the unknown type {item['type'][:40]!a}; give one of"
                        f" {', '.join(names.FOLDER_TYPES)}"
                    )
                types.append(item["type"])
        return np.array(rows, np.int32).reshape(-1, 5), np.array(types, str)

    def _has_roles(self, ids: list[int], roles: str) -> bool:
        """Whether tokens are entities (e) and relations (r) as `roles` says."""
        sets = {"e": self.vocabulary.entity_ids, "r": self.vocabulary.relation_ids}
        return len(ids) == len(roles) and all(
            i in sets[role] for i, role in zip(ids, roles, strict=True)
        )

    def _refuse_question(self, where: str, question: str, asked: Sequence[int]) -> NoReturn:
        """Says what a question should have been."""
        vocabulary = self.vocabulary
        for token in (vocabulary.tokens[i - 1] for i in asked):
            if not token.startswith((ENTITY, RELATION)):
                name = token[1:-1][:40]
                raise UserError(
                    f"{where}: {token[:44]!a} is neither an entity, <e_...>, nor a relation,"
                    f" <r_...>; write <e_{name}> or <r_{name}> in all files (docs/data.md)"
                )
        raise UserError(
            f"{where}: input_text {question[:80]!a} is not a head and up to two relations, as"
            " <e_0><r_1><r_2>"
        )

    def _id(self, where: str, token: str) -> int:
        if token not in self.vocabulary.ids:
            raise UserError(f"{where}: unknown token {token[:60]!a}; the vocabulary lacks it")
        return self.vocabulary.ids[token]

    def _encode(self, where: str, text: str) -> list[int]:
        try:
            return self.vocabulary.encode(text)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def _json(self, name: str) -> list:
        """A file's list. Nothing outside the folder is read, and nothing is executed."""
        path = self._folder / name
        try:
            content = read_json(path)
        except FileNotFoundError:
            raise UserError(f"{path}: missing; make the folder again") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; make the folder again") from None
        if not isinstance(content, list):
            raise UserError(f"{path}: not a JSON list; make the folder again")
        return content


def _lookup(facts: FactRows) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Tails by (head, relation), PAD where there is no such fact; a later duplicate wins."""
    number_of = fact_numbers(facts)
    tails = np.append(facts[:, 2], PAD)  # the last is for -1
    return lambda head, relation: tails[number_of(head, relation)]
