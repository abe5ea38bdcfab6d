"""docs/api.md is the docstrings of the public names."""

import re

from tiny import ROOT

import grokjax
import grokjax.analysis
from grokjax.api import page


def test_the_page_is_todays():
    """When it fails: python -m grokjax.api > docs/api.md"""
    assert (ROOT / "docs" / "api.md").read_text() == page()


def test_what_pythons_own_docstrings_say_is_not_on_it():
    text = (ROOT / "docs" / "api.md").read_text()
    assert not [doc for doc in (int.__doc__, bool.__doc__, tuple.__doc__) if doc[:40] in text]
    assert "#### `Results.run_configs`" in text  # whose words its base has
    assert max(map(len, re.findall(r"`.*?`", text))) < 300


def test_what_extending_md_imports_is_told():
    text, extending = page(), (ROOT / "docs" / "extending.md").read_text()
    imports = re.findall(r"^from (grokjax[\w.]*) import (.*)$", extending, re.MULTILINE)
    assert len(imports) > 4
    for module, names in imports:
        assert f"## `{module}`" in text
        for name in names.split(", "):
            assert re.search(rf"^### (class )?`{name}\b", text, re.MULTILINE), name


def test_every_public_name_is_told():
    text = page()
    for name in {*grokjax.__all__, *grokjax.analysis.__all__}:
        assert f"### `{name}(" in text or f"### class `{name}`" in text, name
