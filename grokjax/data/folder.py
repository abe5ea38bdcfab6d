"""Data folders in the authors' JSON format (docs/protocol.md, section 3), read with suspicion."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from grokjax.base.errors import UserError
from grokjax.base.files import read_json, write_atomically
from grokjax.data.dataset import (
    FOLDER_TYPES,
    MAX_TOKENS,
    PAD,
    TOKEN,
    Dataset,
    Vocabulary,
    assemble,
    make_dataset,
    with_identity_queries,
)
from grokjax.data.graph import fact_numbers
from grokjax.data.new_facts import DRAWN_BY, finetuning_dataset, for_folder, from_folder

_FILES = ("train.json", "valid.json", "test.json", "vocab.json")
_FACT_FILES = ("id_facts.json", "ood_facts.json")  # of pretraining folders only
_NEW_TYPES = tuple(name for name in FOLDER_TYPES if "new" in name)  # of finetuning folders only
_OLD_TYPES = tuple(name for name in FOLDER_TYPES if "new" not in name)


def load_dataset(run: ConfigDict) -> Dataset:
    """The data of one run: from its folder if it names one, or drawn; for finetuning, on top."""
    data, transfer, seed = run.data, run.transfer, run.seeds.data
    dataset = read_folder(data.folder, seed) if data.folder else make_dataset(data, seed)
    if data.identity_bridge:
        dataset = with_identity_queries(dataset)
    if transfer.source and transfer.folder:
        return from_folder(dataset, read_folder(transfer.folder, seed), seed)
    return finetuning_dataset(dataset, transfer, seed) if transfer.source else dataset


def load_datasets(runs: Sequence[ConfigDict]) -> list[Dataset]:
    """Each run's data; runs with the same settings and data seed share one."""
    made: dict[tuple, Dataset] = {}
    keys = []
    for run in runs:
        own = {name: run.transfer[name] for name in DRAWN_BY} if run.transfer.source else {}
        key = (run.data.to_json(), run.seeds.data, *own.values())
        if key not in made:
            made[key] = load_dataset(run)
        keys.append(key)
    return [made[key] for key in keys]


def data_hash(datasets: Sequence[Dataset]) -> str:
    """SHA-256 of all that training and evaluation take from the runs' data."""
    own: dict[int, bytes] = {}
    for d in datasets:
        if id(d) not in own:
            arrays = [np.asarray(x) for x in jax.tree.leaves((d.train, d.probes))]
            texts = [str((d.vocabulary.tokens, d.probes.names, [x.shape for x in arrays])).encode()]
            own[id(d)] = hashlib.sha256(b"".join([*texts, *(x.tobytes() for x in arrays)])).digest()
    return hashlib.sha256(b"".join(own[id(d)] for d in datasets)).hexdigest()


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
    test, kinds = reader.items("test.json", typed=True)
    valid, _ = reader.items("valid.json")
    for name, rows in (("train.json", train), ("test.json", test)):
        if not len(rows):
            raise UserError(f"{path / name}: has no items; make the folder again")

    pretraining = any((path / name).exists() for name in _FACT_FILES)
    if not pretraining and not np.any(np.isin(kinds, _NEW_TYPES)):
        raise UserError(
            f"{path / 'id_facts.json'}: missing; only a finetuning folder does without, and"
            f" test.json has no items of type {', '.join(_NEW_TYPES)}"
        )
    if pretraining:
        id_facts, ood_facts = reader.facts()
        facts = np.concatenate([id_facts, ood_facts])
    else:
        id_facts = ood_facts = np.zeros((0, 3), np.int32)
        both = np.concatenate([train, test])
        facts = both[(both[:, 1] != PAD) & (both[:, 3] == PAD)][:, [0, 1, 4]]

    tail_of = _lookup(facts)
    problems = {"num_missing_facts": 0, "num_contradictions": 0}
    for name, rows in (("train.json", train), ("test.json", test), ("valid.json", valid)):
        two_hops = rows[:, 3] != PAD
        bridge = tail_of(rows[:, 0], rows[:, 1])
        implied = np.where(two_hops, tail_of(bridge, rows[:, 3]), bridge)
        implied = np.where(rows[:, 1] == PAD, rows[:, 0], implied)
        rows[:, 2] = np.where(two_hops, bridge, PAD)
        missing = implied == PAD
        contradicts = ~missing & (implied != rows[:, 4])
        if pretraining and np.any(missing | contradicts):
            item = int(np.argmax(missing | contradicts))
            wrong = "needs a fact that id_facts.json and ood_facts.json lack"
            if contradicts[item]:
                wrong = "has an answer that contradicts id_facts.json and ood_facts.json"
            raise UserError(f"{path / name}: item {item} {wrong}; make the folder again")
        if name != "valid.json":  # which repeats items of test.json
            problems["num_missing_facts"] += int(np.sum(missing & two_hops))
            problems["num_contradictions"] += int(np.sum(contradicts & two_hops))

    counts = {"num_id_facts": len(id_facts), "num_ood_facts": len(ood_facts)}
    if pretraining:
        ood_tail_of = _lookup(ood_facts)
        two_hops = train[:, 3] != PAD
        hop1 = ood_tail_of(train[:, 0], train[:, 1]) != PAD
        hop2 = ood_tail_of(train[:, 2], train[:, 3]) != PAD
        counts |= {
            "num_base": int(np.sum(two_hops & ~hop1 & ~hop2)),
            "num_hop1_added": int(np.sum(two_hops & hop1)),
            "num_hop2_added": int(np.sum(two_hops & ~hop1 & hop2)),
        }
    # A dataset without queries of some type reads back as it was written.
    names = tuple(n for n in FOLDER_TYPES if n in _OLD_TYPES or not pretraining or n in kinds)
    return assemble(
        path.resolve().name,
        reader.vocabulary,
        train,
        test,
        np.array([names.index(kind) for kind in kinds]),
        names,
        id_facts,
        ood_facts,
        counts | problems,
        seed,
    )


def write_folder(dataset: Dataset, folder: str | os.PathLike) -> None:
    """Writes a dataset so that the authors' code trains on it.

    Args:
      dataset: what to write; with new facts, or without any, it becomes a finetuning folder.
      folder: made if need be.

    Raises:
      UserError: the folder holds a dataset already, or cannot be written.
    """
    if len(dataset.new_facts):
        dataset = for_folder(dataset)
    path = pathlib.Path(folder)
    if not str(folder).strip():
        raise UserError("--out: the path is empty; give a new folder")
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{path}: is a file; give a new folder")
    for name in (*_FILES, *_FACT_FILES):
        if os.path.lexists(path / name):
            raise UserError(f"{path / name}: exists already; give a new folder")
    probes = dataset.probes
    tokens = dataset.vocabulary.tokens
    test = item_texts(dataset.vocabulary, np.asarray(probes.table.query))
    types = [probes.names[kind] for kind in probes.kind]
    contents: dict[str, Any] = {
        "train.json": item_texts(dataset.vocabulary, np.asarray(dataset.train.query)),
        "valid.json": [i for i, t in zip(test, types, strict=True) if t == "test_inferred_ood"],
        "test.json": [i | {"type": t} for i, t in zip(test, types, strict=True)],
        "vocab.json": list(dataset.vocabulary.tokens),
    }
    if len(dataset.id_facts) or len(dataset.ood_facts):
        for name, facts in zip(_FACT_FILES, (dataset.id_facts, dataset.ood_facts), strict=True):
            contents[name] = [[tokens[token - 1] for token in fact] for fact in facts.tolist()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(path / name, json.dumps(content))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason})") from None


def item_texts(vocabulary: Vocabulary, query: Int[np.ndarray, "n 4"]) -> list[dict[str, str]]:
    """`input_text` and `target_text` of queries, as the authors write them."""
    tokens = ("", *vocabulary.tokens)  # PAD is no text
    asked = [tokens[h] + tokens[r1] + tokens[r2] for h, r1, r2, _ in query.tolist()]
    return [
        {"input_text": a, "target_text": f"{a}{tokens[t]}</a>"}
        for a, t in zip(asked, query[:, 3].tolist(), strict=True)
    ]


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

    def facts(self) -> tuple[Int[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]]:
        """Token ids (head, relation, tail) of ID and OOD facts, each pair with one tail."""
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

    def items(self, name: str, typed: bool = False) -> tuple[Int[np.ndarray, "n 5"], np.ndarray]:
        """Rows (head, relation 1, bridge, relation 2, answer), the bridge still PAD; and types."""
        rows, kinds = [], []
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
                raise UserError(f"{where}: input_text is not a head and up to two relations")
            rest = self._encode(where, target.removeprefix(question))
            if not target.startswith(question) or rest[1:] != [end] or rest[0] not in entities:
                raise UserError(f"{where}: target_text is not input_text, an entity and </a>")
            head, first, second = (*asked, PAD, PAD)[:3]
            rows.append((head, first, PAD, second, rest[0]))
            if typed:
                if item["type"] not in FOLDER_TYPES:
                    raise UserError(
                        f"{where} has the unknown type {item['type'][:40]!a}; give one of"
                        f" {', '.join(FOLDER_TYPES)}"
                    )
                kinds.append(item["type"])
        return np.array(rows, np.int32).reshape(-1, 5), np.array(kinds, str)

    def _has_roles(self, ids: list[int], roles: str) -> bool:
        """Whether tokens are entities (e) and relations (r) as `roles` says."""
        sets = {"e": self.vocabulary.entity_ids, "r": self.vocabulary.relation_ids}
        return len(ids) == len(roles) and all(
            i in sets[role] for i, role in zip(ids, roles, strict=True)
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


def _lookup(
    facts: Int[np.ndarray, "n 3"],
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Tails by (head, relation), PAD where there is no such fact; a later duplicate wins."""
    number_of = fact_numbers(facts)
    tails = np.append(facts[:, 2], PAD)  # the last is for -1
    return lambda head, relation: tails[number_of(head, relation)]
