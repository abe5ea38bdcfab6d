"""README and docs/ say what is: links, paths, citations, commands and the first sweep hold."""

import pathlib
import re

import pytest
from tiny import ROOT

from grokjax.arguments import make_parser
from grokjax.cli import main

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CODE = [p for room in ("grokjax", "launch", "tests") for p in sorted((ROOT / room).rglob("*.py"))]


def test_the_readme_is_one_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 160 and len(text) <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: pathlib.Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: pathlib.Path):
    named = r"`((?:docs|experiments|grokjax|launch|tests)/[\w./-]+)(?::\w+)?`"
    for name in re.findall(named, _prose(page)):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_tests_that_are_named_exist():
    """With the file that is named before them in the cell, or with any."""
    defined = {p.name: set(re.findall(r"^def (test_\w+)", p.read_text(), re.M)) for p in CODE}
    text = (ROOT / "docs" / "operations.md").read_text()
    cells = re.findall(r"`test_.*?\|", text[text.index("## 4. Promises") :])
    assert len(cells) > 30
    for cell in cells:
        file = ""
        for name in re.findall(r"`(test_[\w.]+)`", cell):
            if name.endswith(".py"):
                file = name
                assert file in defined, cell
            else:
                known = defined[file] if file else set().union(*defined.values())
                assert name in known, cell


def test_citations_in_code_are_found():
    """`docs/protocol.md, section 2.1` has a heading, `docs/design.md, rule 6` an item."""
    cited = r"docs/(\w+)\.md(?:,[\s#]+(sections?|rule)[\s#]+(\d+(?:\.\d+)?))?"
    citations = [(p, *match) for p in CODE for match in re.findall(cited, p.read_text())]
    assert len(citations) > 10
    for path, page, kind, number in citations:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        start = {"section": rf"#+ {number}\b", "rule": rf"{number}\. ", "": ""}[kind.rstrip("s")]
        assert re.search(f"^{start}", text, re.MULTILINE), f"{path}: {page}, {kind} {number}"


def test_the_table_of_commands_is_whole():
    commands = set(re.findall(r"^    ([a-z][\w-]*)", make_parser().format_help(), re.MULTILINE))
    cells = re.findall(r"^\| (`.*?) \|", README.read_text(), re.MULTILINE)
    named = set(re.findall(r"`(?:grokjax )?([\w-]+)[` ]", " ".join(cells)))
    told = set(re.findall(r"`grokjax ([\w-]+)[` ]", " ".join(cells)))
    assert commands and not commands - named
    assert not told - commands


def test_the_first_sweep_is_accepted(tmp_path, capsys):
    """The file in README as it stands there; only its plan is made."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (file,) = (block for block in blocks if "def sweep" in block)
    (tmp_path / "my_sweep.py").write_text(file)
    arguments = [f"--config={tmp_path}/my_sweep.py", f"--workdir={tmp_path}/w", "--dry-run"]
    assert main(["sweep", *arguments]) == 0
    assert "12 runs" in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


def _prose(page: pathlib.Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def _anchors(page: pathlib.Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
