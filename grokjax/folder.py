"""Data folders in the authors' JSON format (protocol section 3), read with suspicion."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from grokjax.dataset import PAD, PROBE_TYPES, Dataset, Vocabulary, assemble, make_dataset
from grokjax.errors import UserError

_FILES = ("train.json", "valid.json", "test.json", "vocab.json")
_FACT_FILES = ("id_facts.json", "ood_facts.json")  # only in pretraining folders
_TOKEN = re.compile(r"<[^<>]*>")
_MAX_BYTES = 2**30
_MAX_TOKENS = 2**15 - 1  # ids are stored in 16 bits
_NEW_TYPES = frozenset(name for name in PROBE_TYPES if "new" in name)

Facts = dict[tuple[int, int], int]


def load_dataset(data: ConfigDict, seed: int) -> Dataset:
    """The dataset of a config's `data` section: from its folder if it names one, or drawn."""
    return read_folder(data.folder, seed) if data.folder else make_dataset(data, seed)


def read_folder(folder: str | pathlib.Path, seed: int = 0) -> Dataset:
    """The dataset of a folder; its token order, items and probe types are kept.

    In a pretraining folder every composition must follow from the atomic facts. In a finetuning
    folder (one without fact files) the authors' generator breaks that rule now and then:
    contradictions and missing facts are counted in `counts`.

    Args:
      folder: holds train, valid, test and vocab.json, and for pretraining id and ood_facts.json.
      seed: shuffles bridges for the chance level.

    Raises:
      UserError: a file is missing or breaks the format; names file and item.
    """
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise UserError(f"data.folder {path}: no such folder")
    reader = _Reader(path)
    pretraining = any((path / name).exists() for name in _FACT_FILES)
    vocabulary = reader.vocabulary()
    id_facts, ood_facts = (
        (reader.facts(name) if pretraining else np.zeros((0, 3), int)) for name in _FACT_FILES
    )
    train, _ = reader.items("train.json", typed=False)
    test, kinds = reader.items("test.json", typed=True)
    reader.items("valid.json", typed=False)
    if not len(train):
        raise UserError(f"{path / 'train.json'}: no items; there is nothing to train on")

    facts: Facts = {}
    if pretraining:
        for rows in (id_facts, ood_facts):
            facts |= {(int(h), int(r)): int(t) for h, r, t in rows}
    else:
        for rows in (train, test):
            one_hop = rows[rows[:, 3] == PAD]
            facts |= {(int(h), int(r)): int(t) for h, r, t in one_hop[:, [0, 1, 4]]}
    counts = {"num_id_facts": len(id_facts), "num_ood_facts": len(ood_facts)}
    problems = {"num_missing_facts": 0, "num_contradictions": 0}
    for name, rows in (("train.json", train), ("test.json", test)):
        for kind, item, text in _resolve_bridges(rows, facts):
            if pretraining:
                raise UserError(f"{path / name}: item {item} {text}; make the folder again")
            problems[kind] += 1
    probe_rows = {
        name: test[[k == name for k in kinds]] for name in PROBE_TYPES if name in set(kinds)
    }
    return assemble(
        path.name, vocabulary, train, probe_rows, id_facts, ood_facts, counts | problems, seed
    )


def write_folder(dataset: Dataset, folder: str | pathlib.Path) -> None:
    """Writes a dataset so that the authors' code trains on it.

    Raises:
      UserError: the folder holds a dataset already, or cannot be written.
    """
    path = pathlib.Path(folder)
    if not str(folder).strip():
        raise UserError("--out: the path is empty; give a new folder")
    for name in (*_FILES, *_FACT_FILES):
        if (path / name).exists():
            raise UserError(f"{path / name}: exists already; give a new folder")
    tokens = ("<PAD>", *dataset.vocabulary.tokens)

    def item(row: np.ndarray) -> dict[str, str]:
        head, relation1, relation2, answer = row
        asked = tokens[head] + tokens[relation1] + (tokens[relation2] if relation2 != PAD else "")
        return {"input_text": asked, "target_text": f"{asked}{tokens[answer]}</a>"}

    probes = dataset.probes
    test = [
        item(row) | {"type": probes.names[kind]}
        for row, kind in zip(probes.table.query, probes.kind, strict=True)
    ]
    contents: dict[str, Any] = {
        "train.json": [item(row) for row in dataset.train.query],
        "valid.json": [
            {k: v for k, v in i.items() if k != "type"}
            for i in test
            if i["type"] == "test_inferred_ood"
        ],
        "test.json": test,
        "vocab.json": list(dataset.vocabulary.tokens),
    }
    for name, facts in zip(_FACT_FILES, (dataset.id_facts, dataset.ood_facts), strict=True):
        if len(facts):
            contents[name] = [[tokens[token] for token in fact] for fact in facts]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (path / name).write_text(json.dumps(content))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


class _Reader:
    """Reads the files of one folder against one vocabulary."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._ids: Mapping[str, int] = {}

    def vocabulary(self) -> Vocabulary:
        path = self._folder / "vocab.json"
        tokens = self._json("vocab.json")
        if not all(isinstance(t, str) and _TOKEN.fullmatch(t) for t in tokens):
            raise UserError(f'{path}: not a list of tokens such as "<e_0>"')
        if len(set(tokens)) != len(tokens) or len(tokens) > _MAX_TOKENS:
            raise UserError(f"{path}: a token is listed twice, or there are over {_MAX_TOKENS}")
        if "</a>" not in tokens:
            raise UserError(f"{path}: has no token </a>, which ends every answer")
        self._ids = {token: i + 1 for i, token in enumerate(tokens)}
        return Vocabulary(tuple(tokens))

    def facts(self, name: str) -> np.ndarray:
        """Token ids (head, relation, tail), [n, 3]."""
        rows = []
        for number, fact in enumerate(self._json(name)):
            if not (isinstance(fact, list) and len(fact) == 3):
                raise UserError(f"{self._folder / name}: item {number} is not [head, r, tail]")
            rows.append([self._id(name, number, token) for token in fact])
        return np.array(rows, int).reshape(-1, 3)

    def items(self, name: str, typed: bool) -> tuple[np.ndarray, list[str]]:
        """Rows (head, relation 1, bridge, relation 2, answer) with no bridge yet, and types."""
        rows, kinds = [], []
        for number, item in enumerate(self._json(name)):
            where = f"{self._folder / name}: item {number}"
            texts = ("input_text", "target_text", *(("type",) if typed else ()))
            if not isinstance(item, dict) or not all(isinstance(item.get(t), str) for t in texts):
                raise UserError(f"{where} has no text under {', '.join(texts)}")
            asked = self._tokens(name, number, item["input_text"])
            target = self._tokens(name, number, item["target_text"])
            hops = len(asked) - 1
            if hops not in (1, 2):
                raise UserError(f"{where} asks with {len(asked)} tokens; give 2 or 3")
            if (
                target[:-2] != asked
                or len(target) != len(asked) + 2
                or target[-1] != self._ids["</a>"]
            ):
                raise UserError(f"{where}: target_text is not input_text, one answer and </a>")
            second = asked[2] if hops == 2 else PAD
            rows.append([asked[0], asked[1], PAD, second, target[-2]])
            if typed:
                if item["type"] not in PROBE_TYPES:
                    raise UserError(f"{where} has unknown type '{item['type'][:40]}'")
                kinds.append(item["type"])
        return np.array(rows, int).reshape(-1, 5), kinds

    def _tokens(self, name: str, number: int, text: str) -> list[int]:
        tokens = _TOKEN.findall(text)
        if "".join(tokens) != text:
            raise UserError(f"{self._folder / name}: item {number} has text outside of tokens")
        return [self._id(name, number, token) for token in tokens]

    def _id(self, name: str, number: int, token: Any) -> int:
        known = self._ids.get(token) if isinstance(token, str) else None
        if known is None:
            raise UserError(
                f"{self._folder / name}: item {number} has token {str(token)[:40]!r}, which"
                " vocab.json lacks"
            )
        return known

    def _json(self, name: str) -> list:
        """A file's list. Nothing outside the folder is read, and nothing is executed."""
        path = self._folder / name
        if not path.exists():
            raise UserError(f"{path}: missing; a data folder needs {', '.join(_FILES)}")
        if not path.resolve().is_relative_to(self._folder.resolve()) or not path.is_file():
            raise UserError(f"{path}: not a plain file of this folder")
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: over {_MAX_BYTES >> 20} MiB")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({str(error)[:80]})") from None
        if not isinstance(content, list):
            raise UserError(f"{path}: not a JSON list")
        return content


def _resolve_bridges(rows: np.ndarray, facts: Facts) -> Iterable[tuple[str, int, str]]:
    """Fills in the bridges of two-hop rows; yields (kind, item, what is wrong) as it meets it."""
    for number, row in enumerate(rows):
        head, relation1, _, relation2, answer = (int(x) for x in row)
        if relation2 == PAD:
            known = facts.get((head, relation1))
            if known is None:
                yield "num_missing_facts", number, "is an atomic fact that no fact file has"
            elif known != answer:
                yield "num_contradictions", number, "contradicts the fact files"
            continue
        bridge = facts.get((head, relation1))
        target = facts.get((bridge, relation2)) if bridge is not None else None
        row[2] = bridge or PAD
        if target is None:
            yield "num_missing_facts", number, "composes facts that are absent"
        elif target != answer:
            yield "num_contradictions", number, "has an answer that contradicts its facts"
