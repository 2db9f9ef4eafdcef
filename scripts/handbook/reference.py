"""A page of the reference for every module that has a docstring, from the docstrings themselves (mkdocstrings)."""

from __future__ import annotations

import ast
from pathlib import Path

from handbook.links import ROOT

PACKAGE = ROOT / "relax_exp"
FIRST = ("", "estimators", "distributions", "testing", "tasks", "training", "enumeration")  # what people look up most


def modules() -> dict[str, list[Path]]:
    """The modules of each package, the package's own file first."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__main__.py" and summary(path):
            found.setdefault(".".join(path.relative_to(ROOT).parent.parts), []).append(path)
    return {name: sorted(paths, key=lambda p: (p.name != "__init__.py", p.name)) for name, paths in found.items()}


def summary(path: Path) -> str:
    """The first sentence of a module's docstring; empty where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def dotted(path: Path) -> str:
    """The module's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def uri(path: Path) -> str:
    """The page of a module."""
    return f"reference/{dotted(path).replace('.', '/')}.md"


def order(package: str) -> tuple:
    """Packages that people look up most first."""
    name = package.partition(".")[2]
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def navigation() -> list[dict[str, list]]:
    """The packages with their modules."""
    return [
        {name: [{dotted(path).removeprefix(f"{name}."): uri(path)} for path in paths]}
        for name, paths in sorted(modules().items(), key=lambda entry: order(entry[0]))
    ]


def pages() -> dict[str, str]:
    """A page for each module, and the list of all."""
    lines = [
        "# Reference",
        "",
        "Every module with what it is for. Its page has all public names, from their docstrings.",
        "",
    ]
    texts = {}
    for name, paths in sorted(modules().items(), key=lambda entry: order(entry[0])):
        lines += [f"## {name}", "", "| module | |", "|---|---|"]
        for path in paths:
            texts[uri(path)] = f"# {dotted(path)}\n\n::: {dotted(path)}\n"
            said = summary(path).replace("|", "\\|").replace("``", "`")
            lines.append(f"| [{dotted(path)}]({uri(path).removeprefix('reference/')}) | {said} |")
        lines.append("")
    return {"reference/README.md": "\n".join(lines), **texts}
