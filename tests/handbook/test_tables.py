"""Every table of a committed page is one on GitHub too: a GitHub-flavoured parser finds it, whole."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [p for top in ("results", "docs") for p in sorted((ROOT / top).rglob("*.md"))]
PAGES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)


def broken(text: str) -> list[str]:
    """The first lines of blocks that are written as tables and are none, or whose rows have other numbers of cells."""
    blocks = re.findall(r"(?:^ *\|.*\n?)+", FENCE.sub("", text), re.M)
    wrong = []
    for block in blocks:
        lines = [line.strip() for line in block.splitlines()]
        tokens = MarkdownIt("commonmark").enable("table").parse("\n".join(lines) + "\n")
        rows, cells = (sum(t.type in kinds for t in tokens) for kinds in (("tr_open",), ("th_open", "td_open")))
        said = [len(re.split(r"(?<!\\)\|", line.strip("|"))) for line in lines]
        if tokens[0].type != "table_open" or rows != len(lines) - 1 or set(said) != {cells / rows}:
            wrong.append(lines[0])
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables(page):
    assert not broken(page.read_text(encoding="utf-8"))


def test_a_bar_that_is_not_escaped_is_found():
    assert broken("| a |z| |\n|---|---|\n| 1 | 2 |\n") == ["| a |z| |"]
    assert broken("| a | b |\n|---|---|\n| 1 | 2 | 3 |\n") == ["| a | b |"]
    assert not broken("| a \\|z\\| | b |\n|---|---|\n| 1 | 2 |\n\n```\n| no | table\n```\n")
