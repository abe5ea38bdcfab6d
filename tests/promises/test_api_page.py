"""docs/api.md is the docstrings of the public names."""

from tiny import ROOT

import grokjax
import grokjax.analysis
from grokjax.api import page


def test_the_page_is_todays():
    """When it fails: python -m grokjax.api > docs/api.md"""
    assert (ROOT / "docs" / "api.md").read_text() == page()


def test_every_public_name_is_told():
    text = page()
    for name in {*grokjax.__all__, *grokjax.analysis.__all__}:
        assert f"### `{name}(" in text or f"### class `{name}`" in text, name
