"""Tables of people's own: read with suspicion, every row used or listed with the reason."""

import csv
import itertools
import pathlib

import pandas as pd
import pytest

from grokjax.base.errors import UserError
from grokjax.data.triples import CONTRADICTION, DUPLICATE, LONELY, read_triples


@pytest.fixture
def table(tmp_path):
    def write(text: str | bytes, name: str = "t.csv") -> pathlib.Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def named(triples):
    names = triples.vocabulary.name
    return [tuple(names(token) for token in fact) for fact in triples.facts.tolist()]


FACTS = [("alice", "mother", "carol"), ("carol", "employer", "acme"), ("acme", "city", "alice")]
ROWS = "alice,mother,carol\ncarol,employer,acme\nacme,city,alice\n"


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        "head,relation,tail\n" + ROWS,
        "Subject,Predicate,Object\n" + ROWS,
        "\ufeff" + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("carol", '"carol"').replace(",", ", "),
        ROWS.replace(",", "\t"),
        "\n" + ROWS.replace("\n", "\n\n"),
        "id,tail,relation,head\n1,carol,mother,alice\n2,acme,employer,carol\n3,alice,city,acme\n",
    ],
)
def test_the_ways_to_write_a_table(text, table):
    assert named(read_triples(table(text))) == FACTS


def test_columns_are_named_where_a_header_has_other_names(table):
    path = table("who,what,whom\n" + ROWS)
    assert named(read_triples(path, ["who", "what", "whom"])) == FACTS
    assert len(read_triples(path).facts) == 4  # without a header it knows: a row as any other
    with pytest.raises(UserError, match="has the columns who, what, whom"):
        read_triples(path, ["who", "what", "where"])


def test_any_names(table):
    names = ["Zoë, née <x>", 'the "boss"', "100%25", "e_7", "a  b", "\N{SNOWMAN}", "7"]
    path = table("")
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([a, "r", b] for a, b in itertools.pairwise(names))
    triples = read_triples(path)
    shown = [*names[:-1], "e_7"]  # a number looks like an entity that was drawn
    assert named(triples) == [(a, "r", b) for a, b in itertools.pairwise(shown)]
    tokens = triples.vocabulary.tokens
    assert len(set(tokens)) == len(tokens)
    assert triples.vocabulary.encode("".join(tokens)) == list(range(1, len(tokens) + 1))


def test_what_is_wrong_is_counted_and_named(table):
    text = ROWS + "alice,mother,carol\nalice,mother,eve\nalice,mother,eve\nx,y,z\neve,likes,zoe\n"
    triples = read_triples(table("head,relation,tail\n" + text))
    assert triples.num_rows == 8
    expected = pd.DataFrame(
        [
            (5, "alice", "mother", "carol", DUPLICATE),
            (6, "alice", "mother", "eve", CONTRADICTION),
            (7, "alice", "mother", "eve", CONTRADICTION),
            (8, "x", "y", "z", LONELY),
            (9, "eve", "likes", "zoe", LONELY),  # whose one neighbour was dropped
        ],
        columns=["row", "head", "relation", "tail", "what"],
    )
    pd.testing.assert_frame_equal(triples.notes, expected, check_dtype=False)
    assert named(triples) == [*FACTS, ("x", "y", "z"), ("eve", "likes", "zoe")]
    assert [triples.count(what) for what in (DUPLICATE, CONTRADICTION, LONELY)] == [1, 2, 2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\nc,d\n", "has 2 columns; give three"),
        ("a,b,c,d\n", "has 4 columns"),
        ("a,b,c\nd,e,f,g\n", "Expected 3 fields in line 2, saw 4"),
        ("a,b,c\nd,e\n", "row 2: the tail is empty"),
        ("h,r,t\na,b,c\n\n ,e,f\n", "row 4: the head is empty"),
        ("a,,c\n", "row 1: the relation is empty"),
        ("", "is empty"),
        ("head,relation,tail\n", "has no facts"),
        ('"a,b,c\nd,e,f\n', "EOF inside string"),
        (b"a,b,\xff\xfe\n", "can't decode byte 0xff"),
        (b"\x00\x01", "head, relation"),
        ("a\nb\n", "has 1 columns"),
        ("".join(f"a{i},r,b{i}\n" for i in range(16_400)), "32,800 entities and 1 relations"),
    ],
)
def test_bad_tables_are_one_line(text, message, table):
    with pytest.raises(UserError, match=message) as error:
        read_triples(table(text))
    assert "\n" not in str(error.value)


def test_no_table(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_triples(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="no such file"):
        read_triples(tmp_path)
