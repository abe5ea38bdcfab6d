"""Facts from a table of triples (head, relation, tail), and what is wrong with them.

Nothing is guessed of a row: it is used, or it is dropped and listed with the reason.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from grokjax.base.errors import UserError
from grokjax.data.graph import FactRows
from grokjax.data.vocabulary import (
    MAX_TOKENS,
    SPECIAL_TOKENS,
    Vocabulary,
    entity_token,
    relation_token,
)

NOTES = "notes.csv"
DUPLICATE, CONTRADICTION, LONELY = "duplicate", "contradiction", "lonely"
_ROLES = ("head", "relation", "tail")
# What the columns of a first row are called when it is a header.
_HEADINGS = (
    {"head", "h", "subject", "subj", "s", "source", "from"},
    {"relation", "rel", "r", "predicate", "pred", "p", "property", "edge"},
    {"tail", "t", "object", "obj", "o", "target", "to"},
)
_MAX_BYTES = 2**31  # of the table: some 50 million rows


@dataclasses.dataclass(frozen=True)
class Triples:
    """Distinct facts as token ids, each (head, relation) with one tail; and what was noticed."""

    name: str  # of the file
    vocabulary: Vocabulary
    facts: FactRows
    num_rows: int
    notes: pd.DataFrame  # row, head, relation, tail, what

    def count(self, what: str) -> int:
        """Rows that are noted as DUPLICATE, CONTRADICTION or LONELY."""
        return int((self.notes.what == what).sum())


def read_triples(path: str | os.PathLike, columns: Sequence[str] = ()) -> Triples:
    """Reads a table of facts. Commas or tabs divide its cells, double quotes may surround them.

    Of rows with the same head, relation and tail the first is kept, and of those with the same head
    and relation too: a question then has one answer. Lonely facts, which no composition can use
    because their tail has no fact and no fact has their head as tail, are kept and noted.

    Args:
      path: of a CSV or TSV file in UTF-8, compressed or not. A first row that says head, relation
        and tail (or subject, predicate, object, and the like) is a header.
      columns: how the header calls head, relation and tail, where it has other names.

    Raises:
      UserError: it cannot be read as triples, a cell is empty, or there are too many names.
    """
    path = pathlib.Path(path)
    table, num_skipped = _table(path)
    cells, header = _columns(path, table, columns)
    blank = np.all([column == "" for column in cells], axis=0)
    rows = np.flatnonzero(~blank)
    cells = [column[rows] for column in cells]
    number = rows + num_skipped + header + 1
    for role, column in zip(_ROLES, cells, strict=True):
        empty = column == ""
        if np.any(empty):
            at = number[int(np.argmax(empty))]
            raise UserError(f"{path}: row {at}: the {role} is empty; give head, relation and tail")
    if not len(rows):
        raise UserError(f"{path}: has no facts; give rows of head, relation, tail")

    codes, entities = pd.factorize(np.concatenate([cells[0], cells[2]]))
    relation, relations = pd.factorize(cells[1])
    num_tokens = len(entities) + len(relations) + len(SPECIAL_TOKENS)
    if num_tokens > MAX_TOKENS:
        raise UserError(
            f"{path}: {len(entities):,} entities and {len(relations):,} relations make"
            f" {num_tokens:,} tokens, over the {MAX_TOKENS:,} that tables hold; keep fewer, for"
            " example those with the most facts"
        )
    head, tail = codes[: len(rows)], codes[len(rows) :]
    facts = np.stack([head, relation + len(entities), tail], axis=1).astype(np.int64)

    pair = facts[:, 0] * num_tokens + facts[:, 1]
    is_first, first = _first_of(pair)
    again = ~is_first
    contradicts = again & (facts[first, 2] != facts[:, 2])
    # A tail that was dropped before is dropped as what it was then.
    duplicate = again & ~contradicts
    lonely = is_first & _lonely(facts, is_first)
    what = np.full(len(rows), "", object)
    for name, where in ((DUPLICATE, duplicate), (CONTRADICTION, contradicts), (LONELY, lonely)):
        what[where] = name
    noted = np.flatnonzero(what != "")
    notes = pd.DataFrame(
        {"row": number[noted]}
        | {role: column[noted] for role, column in zip(_ROLES, cells, strict=True)}
        | {"what": what[noted]}
    )
    tokens = (*map(entity_token, entities), *map(relation_token, relations), *SPECIAL_TOKENS)
    kept = (facts[is_first] + 1).astype(np.int32)  # PAD is 0
    return Triples(path.stem, Vocabulary(tokens), kept, len(rows), notes)


def _table(path: pathlib.Path) -> tuple[pd.DataFrame, int]:
    """All cells as text, without spaces around them, from the first row that is not blank.

    A cell that is not there is empty. Also how many blank rows came before.
    """
    if not path.is_file():
        raise UserError(f"--from-csv={path}: no such file; give a table of head, relation, tail")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: is over {_MAX_BYTES >> 30} GiB; give fewer triples")
    options: dict = {"header": None, "dtype": str, "keep_default_na": False, "engine": "c"}
    options |= {"skip_blank_lines": False, "skipinitialspace": True, "encoding": "utf-8-sig"}
    try:
        start = pd.read_csv(
            path, sep="\0", nrows=1000, quoting=csv.QUOTE_NONE, names=[0], **options
        )[0]
        blank = int((start.fillna("").str.strip() == "").cumprod().sum())
        if blank == len(start):
            raise pd.errors.EmptyDataError
        tabs = "\t" in "".join(start[blank : blank + 1])
        table = pd.read_csv(path, sep="\t" if tabs else ",", skiprows=blank, **options)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: is empty; give rows of head, relation, tail") from None
    except (pd.errors.ParserError, UnicodeError, ValueError, OSError) as error:
        said = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise UserError(f"{path}: not a table of head, relation, tail ({said[:100]})") from None
    return table.fillna("").apply(lambda column: column.str.strip()), blank


def _columns(
    path: pathlib.Path, table: pd.DataFrame, columns: Sequence[str]
) -> tuple[list[np.ndarray], int]:
    """Heads, relations and tails, and how many rows the header takes."""
    top = [str(cell) for cell in table.iloc[0]]
    if columns:
        places = [top.index(name) for name in columns if name in top]
        if len(columns) != 3 or len(places) != 3:
            raise UserError(
                f"--columns={','.join(columns)}: {path} has the columns {', '.join(top)[:80]};"
                " name three of them: head, relation, tail"
            )
    else:
        known = [[i for i, c in enumerate(top) if c.lower() in names] for names in _HEADINGS]
        places = [found[0] for found in known if len(found) == 1]
    has_header = len(places) == 3
    if not has_header:
        if len(top) != 3:
            raise UserError(
                f"{path}: has {len(top)} columns; give three, head, relation and tail, or a header"
                " that --columns=HEAD,RELATION,TAIL names"
            )
        places = [0, 1, 2]
    cells = [table[place].to_numpy(object)[has_header:] for place in places]
    return cells, int(has_header)


def _first_of(keys: Int[np.ndarray, " N"]) -> tuple[Bool[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Whether a row is the first of its key, and which row is."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    is_first = np.zeros(len(keys), bool)
    is_first[first] = True
    return is_first, first[which]


def _lonely(facts: Int[np.ndarray, "N 3"], kept: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Facts that are neither half of any composition of those that are kept."""
    head, tail = facts[kept, 0], facts[kept, 2]
    return ~np.isin(facts[:, 2], head) & ~np.isin(facts[:, 0], tail)
