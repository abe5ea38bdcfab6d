"""One self-contained page: text, tables and pictures, no network, legible on a phone."""

from __future__ import annotations

import base64
import html
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from grokjax.base.files import refuse_links, write_atomically
from grokjax.report.style import PAPER, Picture, looking

REPORT = "report.html"
NEVER = "not reached"  # of a time that is infinite
_FOLDED_FROM = 30  # rows, beyond which a table is folded away
_LONG = 22  # characters of a cell, beyond which it wraps
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
th, td {{ padding: .25rem .4rem; text-align: right; border-bottom: 1px solid #8886;
  vertical-align: bottom; }}
td {{ white-space: nowrap; }} td.text {{ white-space: normal; min-width: 7rem; }}
th:first-child, td:first-child {{ text-align: left; }}
.findings {{ font-size: 1.05rem; padding-left: 1.2rem; }} .findings li {{ margin: .4rem 0; }}
.findings a {{ font-size: .8rem; }} summary {{ cursor: pointer; }}
</style></head><body>
{body}
</body></html>
"""

Texts = Callable[[pd.DataFrame], Iterable[str]]  # what is shown of each row
Column = str | Texts  # a stored one as it is, or texts


class Illustration(NamedTuple):
    """A picture with the name of its file, an alt text and a caption."""

    name: str
    draw: Callable[[], Picture]  # in whatever look is asked for
    alt: str
    caption: str


class Shown(NamedTuple):
    """A table on the page: which of the stored ones it shows, what of it, and how to read it.

    name: `times` of `times.csv`. Long ones are folded away.
    """

    name: str
    table: pd.DataFrame
    caption: str


class Finding(NamedTuple):
    """A sentence of the answer, and the table that it is read from."""

    text: str
    table: str


class Section(NamedTuple):
    """A heading, paragraphs, pictures, tables with captions."""

    title: str
    text: str
    pictures: Sequence[Illustration] = ()
    tables: Sequence[Shown] = ()


class Page(NamedTuple):
    """What a report says, and the tables that it leaves as CSV, by name."""

    title: str
    findings: Sequence[Finding]
    lead: str
    sections: Sequence[Section]
    tables: Mapping[str, pd.DataFrame]

    def save(self, folder: str | os.PathLike, figures: str = "screen") -> pathlib.Path:
        """Writes tables, `figures/` with what each shows, and the page, whose path it returns.

        Args:
          folder: made if need be.
          figures: `screen`, or `paper`: then `figures/paper` has each for a paper's column, too.
        """
        folder = pathlib.Path(folder)
        refuse_links(folder, "figures", "figures/paper", "*.csv", REPORT)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            if len(table.columns):
                table.to_csv(folder / f"{name}.csv", index=False)
        pictures = {shown.name: shown.draw() for s in self.sections for shown in s.pictures}
        for name, picture in pictures.items():
            picture.save(folder / "figures" / f"{name}.png")
        if figures == "paper":
            self._save_for_paper(folder / "figures" / "paper")
        write_atomically(folder / REPORT, render(self, pictures))
        return folder / REPORT

    def _save_for_paper(self, folder: pathlib.Path) -> None:
        with looking(PAPER):
            for section in self.sections:
                for shown in section.pictures:
                    picture = shown.draw()
                    for form in PAPER.formats:
                        picture.save(folder / f"{shown.name}.{form}")


def show(table: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    """A table as a page shows it: headings, and what stands below each.

    Columns that say nothing in any row are left out.
    """
    shown = pd.DataFrame(
        {
            heading: table[column].to_numpy() if isinstance(column, str) else list(column(table))
            for heading, column in columns.items()
        }
    )
    says = [name for name in shown if (shown[name].astype(str) != "").any()]
    return shown[says] if len(shown) else shown


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

    def text(x: float) -> str:
        return "-" if math.isnan(x) else NEVER if math.isinf(x) else f"{x / scale:{form}}"

    return lambda table: [text(float(x)) for x in table[column]]


def short(column: str, scale: float = 1.0) -> Texts:
    """Whole numbers from 10 on, two digits below; `-` of a NaN."""

    def text(x: float) -> str:
        return "-" if math.isnan(x) else f"{x:,.0f}" if x >= 10 else f"{x:.2g}"

    return lambda table: [text(x / scale) for x in table[column]]


def interval(mean: str, low: str, high: str, form: str = ".2f") -> Texts:
    """`0.50 [0.40, 0.60]` of three stored columns; no bounds where they are NaN, `-` of a NaN.

    `[from 0.40]` where the upper one is infinite.
    """

    def text(x: float, a: float, b: float) -> str:
        if math.isnan(x):
            return "-"
        if math.isinf(a):  # and so are the others
            return NEVER
        upper = "" if math.isnan(a) else f"from {a:{form}}" if math.isinf(b) else ""
        bounds = "" if math.isnan(a) else f" [{upper or f'{a:{form}}, {b:{form}}'}]"
        return f"{NEVER if math.isinf(x) else format(x, form)}{bounds}"

    return lambda table: [text(*x) for x in table[[mean, low, high]].to_numpy(float)]


def around(name: str, form: str = ".2f") -> Texts:
    """The same of columns `name`, `name_low` and `name_high`."""
    return interval(name, f"{name}_low", f"{name}_high", form)


def count_of(column: str, total: str) -> Texts:
    """`3 of 4`."""
    return lambda table: [f"{n} of {of}" for n, of in zip(table[column], table[total], strict=True)]


def render(page: Page, pictures: Mapping[str, Picture]) -> str:
    """The page's text; pictures by their names."""
    shown = {table.name for section in page.sections for table in section.tables}
    body = [f"<h1>{html.escape(page.title)}</h1>"]
    if page.findings:
        body.append("<ul class=findings>")
        body += [f"<li>{html.escape(f.text)}{_link(f.table, shown)}</li>" for f in page.findings]
        body.append("</ul>")
    body += [f"<p>{html.escape(p)}</p>" for p in page.lead.split("\n") if p]
    anchored: set[str] = set()
    for section in page.sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(p)}</p>" for p in section.text.split("\n") if p]
        for name, _, alt, caption in section.pictures:
            data = base64.b64encode(pictures[name].png).decode()
            width = int(96 * pictures[name].figure.get_figwidth())  # of a screen; the file has more
            body.append(
                f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}"'
                f' width="{width}"><figcaption>{html.escape(caption)}</figcaption></figure>'
            )
        for name, table, caption in section.tables:
            anchor = "" if name in anchored else f' id="{html.escape(name)}"'
            anchored.add(name)
            body.append(f"<div{anchor}>{_table(name, table)}")
            about = html.escape(f"{caption} ({name}.csv)")
            body.append(f'<p class="facts">{about}</p></div>')
    return _PAGE.format(title=html.escape(page.title), body="\n".join(body))


def _link(table: str, shown: Collection[str]) -> str:
    """To the table on the page, or the name of its file."""
    name = html.escape(table)
    return f' <a href="#{name}">{name}</a>' if table in shown else f" ({name}.csv)"


def _cell(value: object) -> str:
    """A long text may wrap, so that a wide table fits; a number with its interval stays whole."""
    text = str(value)
    wraps = len(text) > _LONG and "[" not in text
    return f"<td{' class=text' if wraps else ''}>{html.escape(text)}</td>"


def _table(name: str, table: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table)
    rows = "".join(
        "<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.itertuples(index=False)
    )
    text = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    if not len(table):
        text += "<p>No rows.</p>"
    text = f'<div class="table">{text}</div>'
    if len(table) <= _FOLDED_FROM:
        return text
    summary = f"{html.escape(name)}: {len(table)} rows"
    return f"<details><summary>{summary}</summary>{text}</details>"
