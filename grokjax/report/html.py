"""One self-contained page: text, tables and pictures, no network, legible on a phone."""

from __future__ import annotations

import base64
import html
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from grokjax.base.files import refuse_links, write_atomically
from grokjax.report.style import Picture

REPORT = "report.html"
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

Texts = Callable[[pd.DataFrame], Iterable[str]]  # what is shown of each row
Column = str | Texts  # a stored one as it is, or texts


class Illustration(NamedTuple):
    """A picture with the name of its file, an alt text and a caption."""

    name: str
    picture: Picture
    alt: str
    caption: str


class Section(NamedTuple):
    """A heading, paragraphs, pictures, tables with captions."""

    title: str
    text: str
    pictures: Sequence[Illustration] = ()
    tables: Sequence[tuple[pd.DataFrame, str]] = ()


class Page(NamedTuple):
    """What a report says, and the tables that it leaves as CSV, by name."""

    title: str
    lead: str
    sections: Sequence[Section]
    tables: Mapping[str, pd.DataFrame]

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Writes tables, `figures/` with what each shows, and the page, whose path it returns."""
        folder = pathlib.Path(folder)
        refuse_links(folder, "figures", "*.csv", REPORT)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            if len(table.columns):
                table.to_csv(folder / f"{name}.csv", index=False)
        for section in self.sections:
            for shown in section.pictures:
                shown.picture.save(folder / "figures" / f"{shown.name}.png")
        write_atomically(folder / REPORT, render(self))
        return folder / REPORT


def show(table: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    """A table as a page shows it: headings, and what stands below each.

    Columns that say nothing in any row are left out.
    """
    if not len(table):
        return table
    shown = pd.DataFrame(
        {
            heading: table[column].to_numpy() if isinstance(column, str) else list(column(table))
            for heading, column in columns.items()
        }
    )
    return shown[[name for name in shown if (shown[name].astype(str) != "").any()]]


def show_wide(
    table: pd.DataFrame, rows: Mapping[str, Column], heading: Column, cell: Column
) -> pd.DataFrame:
    """A row for each of what `rows` say, a column for each heading, the cell's texts in them."""
    named = show(table, rows)
    long = show(table, {"column": heading, "cell": cell})
    wide = pd.concat([named, long], axis=1).pivot(index=[*named], columns="column", values="cell")
    # Merged, rows and columns keep the order in which they come; a pivot sorts them.
    ordered = named.drop_duplicates().merge(wide.reset_index(), on=[*named])
    return ordered[[*named, *dict.fromkeys(long.column)]]


def number(column: str, form: str = ".2f", scale: float = 1.0) -> Texts:
    """Numbers of a stored column; `-` of a NaN."""
    return lambda table: ["-" if math.isnan(x) else f"{x / scale:{form}}" for x in table[column]]


def short(column: str, scale: float = 1.0) -> Texts:
    """Whole numbers from 10 on, two digits below; `-` of a NaN."""

    def text(x: float) -> str:
        return "-" if math.isnan(x) else f"{x:,.0f}" if x >= 10 else f"{x:.2g}"

    return lambda table: [text(x / scale) for x in table[column]]


def interval(mean: str, low: str, high: str, form: str = ".2f") -> Texts:
    """`0.50 [0.40, 0.60]` of three stored columns; no bounds where they are NaN, `-` of a NaN."""

    def text(x: float, a: float, b: float) -> str:
        bounds = "" if math.isnan(a) else f" [{a:{form}}, {b:{form}}]"
        return "-" if math.isnan(x) else f"{x:{form}}{bounds}"

    return lambda table: [text(*x) for x in table[[mean, low, high]].to_numpy(float)]


def around(name: str, form: str = ".2f") -> Texts:
    """The same of columns `name`, `name_low` and `name_high`."""
    return interval(name, f"{name}_low", f"{name}_high", form)


def count_of(column: str, total: str) -> Texts:
    """`3 of 4`."""
    return lambda table: [f"{n} of {of}" for n, of in zip(table[column], table[total], strict=True)]


def render(page: Page) -> str:
    """The page's text."""
    body = [f"<h1>{html.escape(page.title)}</h1>", f"<p>{html.escape(page.lead)}</p>"]
    for section in page.sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(p)}</p>" for p in section.text.split("\n") if p]
        for _, picture, alt, caption in section.pictures:
            data = base64.b64encode(picture.png).decode()
            width = int(96 * picture.figure.get_figwidth())  # of a screen; the file has more
            body.append(
                f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}"'
                f' width="{width}"><figcaption>{html.escape(caption)}</figcaption></figure>'
            )
        for table, caption in section.tables:
            body.append(f'<div class="table">{_table(table)}</div>')
            body.append(f'<p class="facts">{html.escape(caption)}</p>')
    return _PAGE.format(title=html.escape(page.title), body="\n".join(body))


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>"
        for row in table.itertuples(index=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
