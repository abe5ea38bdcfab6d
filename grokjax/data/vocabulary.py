"""Tokens and their ids (docs/protocol.md, section 2.4)."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping

import numpy as np

from grokjax.base.errors import UserError

PAD = 0
MAX_TOKENS = 2**15 - 1  # ids are stored in 16 bits
TOKEN = re.compile(r"<[^<>]*>")
SPECIAL_TOKENS = ("<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens by id: PAD is 0, `tokens[i]` has id i + 1."""

    tokens: tuple[str, ...]

    @property
    def size(self) -> int:
        """V: the tokens and PAD."""
        return len(self.tokens) + 1

    @property
    def end_id(self) -> int:
        """Of `</a>`, which ends every answer."""
        return self.ids["</a>"]

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """Id by token."""
        return {token: i + 1 for i, token in enumerate(self.tokens)}

    @functools.cached_property
    def entity_ids(self) -> frozenset[int]:
        """Ids of `<e_...>`."""
        return frozenset(i for token, i in self.ids.items() if token.startswith("<e_"))

    @functools.cached_property
    def relation_ids(self) -> frozenset[int]:
        """Ids of `<r_...>`."""
        return frozenset(i for token, i in self.ids.items() if token.startswith("<r_"))

    def encode(self, text: str) -> list[int]:
        """Ids of a text such as `<e_0><r_1>`.

        Raises:
          UserError: the text has an unknown token, or something between tokens.
        """
        pieces = TOKEN.findall(text)
        if "".join(pieces) != text:
            raise UserError(f"text outside of tokens in {text[:60]!a}; write <e_0><r_1>")
        try:
            return [self.ids[piece] for piece in pieces]
        except KeyError as error:
            unknown = str(error.args[0])[:60]
            raise UserError(f"unknown token {unknown!a}; the vocabulary lacks it") from None

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """The text of token ids, PADs dropped."""
        return "".join(self.tokens[i - 1] for i in ids if i != PAD)


def make_vocabulary(num_entities: int, num_relations: int) -> Vocabulary:
    """`<e_0>` ..., `<r_0>` ..., then the special tokens."""
    entities = (f"<e_{i}>" for i in range(num_entities))
    relations = (f"<r_{i}>" for i in range(num_relations))
    return Vocabulary((*entities, *relations, *SPECIAL_TOKENS))
