"""Verdicts that are kept in a file as they are measured, so that an interrupted verification goes on where it stood."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from relax_exp.enumeration.checks import Verdict

PACKAGES = tuple(f"relax_exp.{name}" for name in ("distributions", "enumeration", "estimators", "models", "numerics"))
PLAIN = ("relax_exp.estimators.options", "relax_exp.estimators.registry")  # data that no number depends on
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class VerdictCache:
    """The verdicts of one verification, one line of JSON each.

    A verdict is taken from the file only where it was measured with the same code: with a fingerprint of the same
    value, which `fingerprint` computes.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[tuple[str, ...], Verdict] = {}
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                key, verdict = json.loads(line)
            except ValueError:  # torn, as the process was killed
                continue
            self.known[tuple(key)] = Verdict(*verdict)

    def __call__(self, of: tuple[str, ...], check: Callable[..., Verdict], *arguments: object) -> Verdict:
        """Return the verdict on ``of``, which names the cell and the fingerprint; ``check`` measures what is new."""
        if of not in self.known:
            self.known[of] = check(*arguments)
            with self.path.open("a") as file:
                file.write(json.dumps([of, self.known[of]]) + "\n")
        return self.known[of]


def fingerprint(*objects: object, packages: tuple[str, ...] = PACKAGES) -> str:
    """Compute a digest of the code that these classes, functions and modules run, as far as it is in ``packages``.

    It follows the classes and functions that their modules import. Docstrings, comments, annotations and imports do not
    count.
    """
    todo = [name for of in objects for name in ([of.__name__] if inspect.ismodule(of) else _modules(of))]
    found = set()
    while todo:
        name = todo.pop()
        if name in found or name in PLAIN or not name.startswith(packages):
            continue
        found.add(name)
        todo += [it for value in vars(sys.modules[name]).values() for it in _modules(value)]
    return hashlib.sha256("".join(map(_code, sorted(found))).encode()).hexdigest()[:12]


def _modules(of: object) -> Iterable[str]:
    """Return the names of the modules in which a class and its bases, or a function, are written."""
    if inspect.isclass(of):
        return [base.__module__ for base in of.__mro__]
    return [of.__module__] if inspect.isfunction(of) else []


@functools.cache
def _code(name: str) -> str:
    """Return a module's code without what does not run."""
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    for node in ast.walk(tree):
        if isinstance(node, Definition) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        for field, none in {"returns": None, "annotation": None}.items():
            if hasattr(node, field):
                setattr(node, field, none)
        for body in ("body", "orelse"):
            if isinstance(lines := getattr(node, body, None), list):
                setattr(node, body, [line for line in lines if not isinstance(line, ast.Import | ast.ImportFrom)])
    return ast.dump(tree)
