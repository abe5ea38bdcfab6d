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
ENTITY, RELATION = "<e_", "<r_"  # how tokens begin
_ESCAPED = {"%": "%25", "<": "%3C", ">": "%3E"}  # what no name may have inside its token


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
        return frozenset(i for token, i in self.ids.items() if token.startswith(ENTITY))

    @functools.cached_property
    def relation_ids(self) -> frozenset[int]:
        """Ids of `<r_...>`."""
        return frozenset(i for token, i in self.ids.items() if token.startswith(RELATION))

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

    def name(self, token_id: int | np.integer) -> str:
        """What a person calls a token: `alice` of `<e_alice>`, `e_7` of `<e_7>`; PAD is `-`."""
        if token_id == PAD:
            return "-"
        token = self.tokens[token_id - 1]
        if token in SPECIAL_TOKENS:
            return token
        if not token.startswith((ENTITY, RELATION)):
            return token[1:-1]
        name = token[len(ENTITY) : -1]
        if name.isdecimal():  # of a graph that was drawn
            return token[1:-1]
        for plain, escaped in reversed(_ESCAPED.items()):
            name = name.replace(escaped, plain)
        return name


def entity_token(name: str) -> str:
    """`<e_alice>` of `alice`."""
    return f"{ENTITY}{_escaped(name)}>"


def relation_token(name: str) -> str:
    """`<r_mother>` of `mother`."""
    return f"{RELATION}{_escaped(name)}>"


def _escaped(name: str) -> str:
    return "".join(_ESCAPED.get(letter, letter) for letter in name)


def make_vocabulary(num_entities: int, num_relations: int) -> Vocabulary:
    """`<e_0>` ..., `<r_0>` ..., then the special tokens."""
    entities = (f"<e_{i}>" for i in range(num_entities))
    relations = (f"<r_{i}>" for i in range(num_relations))
    return Vocabulary((*entities, *relations, *SPECIAL_TOKENS))
