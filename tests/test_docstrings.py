"""The words of the package: whatever is public says what it does, itself or by what it overrides, not only "See"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in sorted((ROOT / "relax_exp").rglob("*.py"))}
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
CLASSES = {node.name: node for tree in MODULES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
POINTER = re.compile(r"See (`|the class)")


def bases(cls: ast.ClassDef) -> list[ast.ClassDef]:
    """The classes of the package that a class derives from, the nearest first."""
    names = [ast.unparse(base).split("[")[0].rpartition(".")[2] for base in cls.bases]
    near = [CLASSES[name] for name in names if name in CLASSES and CLASSES[name] is not cls]
    return near + [far for base in near for far in bases(base)]


def inherits(cls: ast.ClassDef, name: str) -> bool:
    """Whether a base class documents a method of this name, so that ``help`` shows those words."""
    methods = (node for base in bases(cls) for node in base.body if isinstance(node, DEFINITIONS))
    return any(node.name == name and ast.get_docstring(node) for node in methods)


def undocumented(body: list[ast.stmt], cls: ast.ClassDef | None = None) -> list[str]:
    """Public definitions without words, by name and line; setters have those of their property."""
    found = []
    for node in body:
        if not isinstance(node, DEFINITIONS) or node.name.startswith("_"):
            continue
        setter = any(ast.unparse(mark).endswith(".setter") for mark in node.decorator_list)
        if not (setter or ast.get_docstring(node) or (cls and inherits(cls, node.name))):
            found.append(f"line {node.lineno}: {node.name}")
        if isinstance(node, ast.ClassDef):
            found += undocumented(node.body, node)
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_what_is_public_is_documented(path):
    assert undocumented(MODULES[path].body) == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_docstring_only_points_elsewhere(path):
    documented = [node for node in ast.walk(MODULES[path]) if isinstance(node, (*DEFINITIONS, ast.Module))]
    assert [f"{text!r}" for node in documented if POINTER.match(text := ast.get_docstring(node) or "")] == []


def test_it_would_see_one_that_does_and_one_that_is_missing():
    class_ = 'class A:\n    """Words."""\n\n    def f(self):\n        pass\n'
    assert undocumented(ast.parse(class_).body) == ["line 4: f"]
    assert POINTER.match("See `Task.init`.") and not POINTER.match("Seeds of the run.")
