"""What may import what: the layers of pyproject.toml, and the packages that are enough for the estimators."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"hydra-core": "hydra", "scikit-learn": "sklearn", "gymnasium[atari]": "gymnasium"}
BLOCKED = {re.split("[<>=]", needed)[0] for needed in PROJECT["dependencies"]} - {"torch", "numpy"}


def test_layers():
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ["estimators", "distributions", "enumeration"])
def test_torch_and_numpy_are_enough(package):
    blocked = sorted({MODULES.get(name, name) for name in BLOCKED} | {"yaml", "ale_py"})
    code = f"""
import importlib, pkgutil, sys

class Blocked:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked)
import relax_exp.{package} as package
for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
    importlib.import_module(f"{{package.__name__}}.{{module.name}}")
from relax_exp import distributions, estimators
for name in estimators.names():
    family = estimators.lookup(name).families[0]
    estimators.build(name, family, (4, 2)[: distributions.FAMILIES[family].shape_dims], (4,))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
