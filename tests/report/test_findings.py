"""The answer on top of a report, and what it says where little can be said."""

import html
import re

import pandas as pd
import pytest
from fabricated import (
    NEVER,
    Course,
    by_ratios,
    by_regime,
    diverges,
    fabricate,
    ratios,
    regimes,
)

from grokjax.cli import main
from grokjax.settings import grid, product, seeds

pytestmark = pytest.mark.usefixtures("unpainted")

TWO = ("natural", "both_hop_full")
TABLES = ("outcomes", "times", "order", "costs", "comparisons", "variance", "machine")


def told(settings, rng):
    """natural: path at 4,000, answer at 6,000; both_hop_full answers at 2,000 without a path."""
    if settings["data.regime"] == "natural":
        return Course(1500, 4000, 6000, top=0.8)
    return Course(1500, answer=2000)


def report(tmp_path, capsys, rows, story, **kwargs):
    """The sentences on top, the whole text, the folder."""
    path = fabricate(tmp_path / "alone" / "w", list(rows), story, **kwargs)
    assert main(["report", str(path)]) == 0
    capsys.readouterr()
    text = (path / "report.html").read_text()
    items = re.findall(r"<li>(.*?)</li>", text)
    sentences = [re.sub(r"<[^>]+>", "", html.unescape(item)) for item in items]
    for name in TABLES:  # an empty one has its header
        assert len(pd.read_csv(path / f"{name}.csv").columns) > 1
    for name in re.findall(r'href="#([^"]+)"', text):  # each leads to a table on the page
        assert f'id="{name}"' in text and (path / f"{name}.csv").exists()
    return "\n".join(sentences), text, path


def test_a_reader_is_told_who_which_first_when_and_at_what_cost(tmp_path, capsys):
    said, text, _ = report(tmp_path, capsys, regimes(3, TWO), told)
    assert re.search(r"All 6 runs memorise \(.*\), by step 2,000\. outcomes", said)
    order = next(line for line in said.splitlines() if line.startswith("Path or answer first"))
    assert "natural path first in 3 of 3" in order
    # What its site does not read is not absent: the other sites are asked as well.
    assert (
        "both_hop_full answer first in 3 of 3 (in 3 no bridge is read at the path's site" in order
    )
    assert "by the end; nor is it elsewhere)" in order
    answers = next(line for line in said.splitlines() if line.startswith("Who answers"))
    assert "natural none of 3 by step 10,000, 3 of 3 reach 0.5" in answers
    assert "both_hop_full 3 of 3 by step" in answers
    assert re.search(
        r"^OOD accuracy equals .* in all 3 runs of both_hop_full .* become in-distribution",
        said,
        re.M,
    )
    assert re.search(r"natural 0\.\d\d and 0\.99 \(n = 3\)", said)
    assert re.search(r"natural 3 of 3, [\d.]+e\+\d+.*; both_hop_full 3 of 3, .*0\.\d+ times", said)
    assert "of the smallest p that their runs can give (0.25) Holm's correction leaves 0.5" in said
    assert text.index("Path or answer first") < text.index("<h2>")  # on top


def test_a_site_without_the_bridge_is_not_a_network_without_it(tmp_path, capsys):
    """One site says nothing by the end; in two of three runs another one does."""

    def elsewhere(settings, rng):
        return Course(1500, answer=2000, anywhere=NEVER if settings["seeds.data"] == 2 else 4000)

    said, _, path = report(tmp_path, capsys, seeds(3), elsewhere)
    assert (
        "answer first in 3 of 3 (in 3 no bridge is read at the path's site by the end; the bridge"
        " is read elsewhere in 2)" in said
    )
    assert "without a path" not in said and "absent" not in said
    assert pd.read_csv(path / "outcomes.csv")["any_path_0.5"].notna().sum() == 2


def test_many_groups_are_told_in_few_words(tmp_path, capsys):
    said, _, _ = report(tmp_path, capsys, ratios(2), by_ratios)
    order = next(line for line in said.splitlines() if line.startswith("Path or answer first"))
    assert "path first in all runs of hop 1 ratio 0.5 or 1" in order
    assert "answer first in all runs of (hop 1 ratio 0, hop 2 ratio 1)" in order
    assert "cheapest and dearest" in said and max(map(len, said.splitlines())) < 450


@pytest.mark.parametrize(
    ("rows", "story", "expected"),
    [
        (seeds(1), by_regime, "One run: it has no spread, no interval"),
        (regimes(1, TWO), by_regime, "One run a group: no group has a spread"),
        (seeds(3), by_regime, "One group: there is nothing to compare it with."),
        (regimes(2, TWO), diverges, "All 4 runs diverged: there is no time, no cost"),
        (
            regimes(2, TWO),
            lambda s, rng: told(s, rng)._replace(end=3000, status="interrupted"),
            "No run has finished (they stand at step 3,000)",
        ),
        (
            regimes(3, TWO),
            lambda s, rng: told(s, rng)._replace(end=(10000, 7000, 5000)[s["seeds.data"]],
                                                 status="interrupted"),
            "No run has finished (they stand at step 5,000 to 10,000)",
        ),
        (
            regimes(2, TWO),
            lambda s, rng: told(s, rng)._replace(end=8000 * (s["data.regime"] != "natural")),
            "different lengths, both_hop_full to step 8,000 and natural to 10,000",
        ),
        (
            regimes(3, TWO),
            lambda s, rng: diverges(s, rng) if s["seeds.data"] == 1 else told(s, rng),
            "Diverged, which competes with every event: natural and both_hop_full 1 (of 6 runs",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_said(tmp_path, capsys, rows, story, expected):
    said, _, _ = report(tmp_path, capsys, rows, story)
    assert expected in said


def test_a_population_that_is_missing_is_named(tmp_path, capsys):
    rows = product(grid("model.hidden_size", (16, 32)), grid("data.regime", TWO), seeds(2))
    said, text, path = report(tmp_path, capsys, rows, told, untrained=("001",))
    assert "Not trained yet: 4 runs of population 001." in said
    assert "4 pending" in text and len(pd.read_csv(path / "outcomes.csv")) == 4


def test_runs_that_are_here_twice_are_no_new_evidence(tmp_path, capsys):
    fabricate(tmp_path / "alone" / "before", regimes(1, TWO), told)
    said, _, _ = report(tmp_path, capsys, regimes(2, TWO), told)
    assert "2 of 4 runs are also runs of before: the same evidence, not new." in said
