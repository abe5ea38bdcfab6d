"""One self-contained page: text, tables and pictures, no network, legible on a phone."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from grokjax.report.style import Picture

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
img {{ max-width: 100%; min-width: 40rem; height: auto; background: white; }}
figure {{ margin: 1rem 0; overflow-x: auto; }}
figcaption, .facts {{ font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8886;
  white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
</style></head><body>
{body}
</body></html>
"""


class Section(NamedTuple):
    """A heading, paragraphs, pictures with alt texts and captions, tables with captions."""

    title: str
    text: str
    pictures: Sequence[tuple[Picture, str, str]] = ()
    tables: Sequence[tuple[pd.DataFrame, str]] = ()


def interval(values: Sequence[float], form: str = ".2f") -> str:
    """`0.50 [0.40, 0.60]` of a mean and its bounds, which may be NaN; `-` of a NaN."""
    mean, low, high = values
    if math.isnan(mean):
        return "-"
    return f"{mean:{form}}" + ("" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def shortly(values: Iterable[float]) -> list[str]:
    """Whole numbers from 10 on, two digits below; `-` of a NaN."""
    return ["-" if math.isnan(x) else f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in values]


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page's text."""
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(lead)}</p>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(p)}</p>" for p in section.text.split("\n") if p]
        for picture, alt, caption in section.pictures:
            data = base64.b64encode(picture.png()).decode()
            body.append(
                f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        for table, caption in section.tables:
            body.append(f'<div class="table">{_table(table)}</div>')
            body.append(f'<p class="facts">{html.escape(caption)}</p>')
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>"
        for row in table.itertuples(index=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
