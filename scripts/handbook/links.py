"""Links that hold on GitHub, made to hold in the site, which has docs/ at its top and everything else beside it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?\[[^\]]*\]\()<?([^)\s>]+)>?(\))")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.M | re.S)
MOVED = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}  # in the site
SHOWN = (".png", ".svg", ".csv", ".json", ".tex", ".yaml", ".bib", ".cff")


def rewritten(text: str, uri: str, origin: str | None, files) -> str:
    """The Markdown of the page ``uri`` with its relative links resolved against where it lies in the repository.

    ``origin``: its path there, where that is not docs/``uri``.
    """
    here = posixpath.dirname(origin if origin is not None else in_repository(uri))

    def link(match: re.Match) -> str:
        before, target, after = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        found = in_site(posixpath.normpath(posixpath.join(here, path)), files)
        if found is None:
            return match[0]
        return f"{before}{posixpath.relpath(found, posixpath.dirname(uri) or '.')}{mark}{anchor}{after}"

    parts = CODE.split(text)
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def in_repository(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return uri if uri.startswith("results/") else f"docs/{uri}"


def in_site(path: str, files) -> str | None:
    """The page or file of the site for one of the repository; None where the site has none."""
    uri = path.removeprefix("docs/")
    candidates = [MOVED.get(path, uri), f"{uri}/README.md"]
    if uri.endswith(".ipynb"):
        candidates.insert(0, uri.removesuffix(".ipynb") + ".md")
    if path.endswith(".py"):
        candidates.append(f"reference/{path.removesuffix('.py').removesuffix('/__init__')}.md")
    return next((c for c in candidates if files.get_file_from_path(c) is not None), None)


def assets(texts: dict[str, str]) -> Iterable[Path]:
    """Figures and data outside of docs/ that pages show or link to, relative to the repository."""
    found = {path.relative_to(ROOT) for path in (ROOT / "results").rglob("*") if path.suffix in SHOWN}
    found |= {
        path.relative_to(ROOT) for path in (ROOT / "results").rglob("*.md") if str(path.relative_to(ROOT)) not in texts
    }
    for extra in ("LICENSE", "CITATION.cff"):
        if (ROOT / extra).is_file():
            found.add(Path(extra))
    return sorted(found, key=os.fspath)
