"""A table as Markdown, as LaTeX (booktabs) and as CSV."""

from __future__ import annotations

import csv
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relax_exp.report.style import words

EMPTY, NOT_RUN = "–", "not run"
PREAMBLE = "% \\usepackage{booktabs,graphicx}\n"
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "θ": r"$\theta$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "²": "$^2$",
    "³": "$^3$",
    "⁴": "$^4$",
}


@dataclass(frozen=True)
class Table:
    """A table for readers, with the numbers behind it.

    Attributes:
        name: Of files and labels.
        words: How many leading columns are aligned to the left.
        rows: Texts in the order of ``headers``; a None stands for a rule. In the leading columns and in the headers
            readers see names and units for raw keys, see `relax_exp.report.style.words`.
        records: The numbers, for a CSV file.
    """

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str] | None]
    note: str
    records: Sequence[dict[str, Any]] = ()
    words: int = 2

    @property
    def columns(self) -> list[bool]:
        """Tell of every column whether it holds words: the leading ones do, and a closing ``status``."""
        return [i < self.words or header == "status" for i, header in enumerate(self.headers)]

    def readable(self) -> tuple[list[str], list[list[str] | None]]:
        """Return headers and rows in words."""
        rows = (
            None if row is None else [words(text) if i < self.words else text for i, text in enumerate(row)]
            for row in self.rows
        )
        return [words(header) for header in self.headers], [*rows]


def markdown(table: Table) -> str:
    """Write title, table and note as Markdown."""
    from tabulate import tabulate

    headers, rows = table.readable()
    body = tabulate(
        [[text.replace("|", "\\|") for text in row] for row in rows if row is not None],
        [header.replace("|", "\\|") for header in headers],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if words else "right" for words in table.columns],
    )
    return f"## {table.title}\n\n{body}\n\n{table.note}\n"


def console(table: Table, width: int | None) -> str:
    """Write the table for a terminal of so many columns; as in `markdown` where ``width`` is None.

    A table of one row is written downwards, a line for each column. Else, what all rows share is said in a line above
    them, columns that do not fit are left out, the emptiest and later ones first, and named. The note is wrapped.
    """
    headers, all_rows = table.readable()
    rows = [row for row in all_rows if row is not None]
    if width is None or not rows:
        return markdown(table)
    if len(rows) == 1:
        return upright(table.title, dict(zip(headers, rows[0], strict=True)), table.note, width)
    shared = {h: rows[0][i] for i, h in enumerate(headers) if len({r[i] for r in rows}) == 1}
    kept = [i for i, header in enumerate(headers) if header not in shared]
    sizes = [max(len(text) for text in (headers[i], *(row[i] for row in rows))) for i in kept]
    empty = [sum(row[i] in (EMPTY, NOT_RUN) for row in rows) for i in range(len(headers))]
    while len(kept) > 2 and sum(sizes) + 3 * len(sizes) + 1 > width:
        free = [k for k, i in enumerate(kept) if i >= table.words and (headers[i] != "status" or len(kept) <= 3)]
        drop = max(free or [len(kept) - 1], key=lambda k: (empty[kept[k]], k))
        kept.pop(drop)
        sizes.pop(drop)
    lost = [header for i, header in enumerate(headers) if i not in kept and header not in shared]
    part = Table(table.name, table.title, [headers[i] for i in kept], [[r[i] for i in kept] for r in rows], "",
                 words=sum(i < table.words for i in kept))  # fmt: skip
    lines = [f"{', '.join(f'{header} {text}' for header, text in shared.items())}"] if shared else []
    body = markdown(part).rstrip().split("\n")
    notes = [*lines, table.note, *([f"Not shown here, but in the files: {', '.join(lost)}."] if lost else [])]
    wrapped = [line for note in notes for line in textwrap.wrap(note, width)]
    head = len(textwrap.wrap(lines[0], width)) if lines else 0
    above = [*wrapped[:head], ""] if head else []
    return "\n".join([*body[:2], *above, *body[2:], "", *wrapped[head:], ""])


def upright(title: str, row: Mapping[str, str], note: str, width: int) -> str:
    """Write one row as lines of name and value, for a terminal of so many columns; what is empty is left out."""
    filled = {name: text for name, text in row.items() if text != EMPTY}
    size = max(map(len, filled))
    lines = [f"{name:{size}}  {text}" for name, text in filled.items()]
    return "\n".join([f"## {title}", "", *lines, "", *textwrap.wrap(note, width), ""])


def printed(tables: Iterable[Table], further: Sequence[str] = ()) -> str:
    """Write tables for whoever reads standard output: on a terminal as wide as that is, else as in `markdown`."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return "\n".join([*(console(table, width) for table in tables), *further]).rstrip()


def latex(table: Table) -> str:
    """Write a floating table with booktabs' rules, shrunk to the width of the page, its note below it."""
    headers, rows = table.readable()
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape(table.title)}}}\label{{tab:{re.sub(r'[^a-z0-9]+', '-', table.name)}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if words else 'r' for words in table.columns)}}}",
        r"\toprule",
        " & ".join(map(escape, headers)) + r" \\",
        r"\midrule",
        *(r"\midrule" if row is None else " & ".join(map(escape, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\par\smallskip\footnotesize {escape(table.note)}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return the text for LaTeX, its special characters as commands, a number's hyphen as a minus sign."""
    text = re.sub(r"(?<![\w.-])-(?=[\d.])", "−", text)
    return "".join(LATEX.get(character, character) for character in text)


def to_csv(records: Iterable[dict[str, Any]], last: str = "runs") -> str:
    """Write one line a record, numbers to eight digits; what a record does not have, and NaN, stays empty."""
    records = list(records)
    fields = dict.fromkeys(key for record in records for key in record if key != last)
    out = io.StringIO()
    writer = csv.DictWriter(
        out, [*fields, *([last] if any(last in r for r in records) else [])], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for record in records:
        writer.writerow({key: _number(value) for key, value in record.items()})
    return out.getvalue()


def _number(value: Any) -> Any:
    return "" if value is None or value != value else f"{value:.8g}" if isinstance(value, float) else value
