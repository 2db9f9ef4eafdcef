"""A non-editable install: the wheel holds all that the command needs, from any working directory."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package installed from its wheel into a folder of its own; returns (folder, names in the wheel)."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", "-q", *offline, "-w", folder, ROOT], check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site", zipfile.ZipFile(wheel).namelist()


def run(site, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "relax_exp", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_package_and_configuration_and_no_more(installed):
    _, names = installed
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"relax_exp", "hydra_plugins"}
    assert "relax_exp/report/papers/published.yaml" in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"relax_exp/configs/{path.relative_to(ROOT / 'configs')}" in names


def test_it_runs_from_anywhere(installed, tmp_path):
    site, _ = installed
    done = run(site, tmp_path, "task=toy", "estimator=relax", "steps=20", "eval_every=10")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "toy").iterdir()
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["status"] == "done" and meta["git"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_it_is_the_installed_package_that_ran(installed, tmp_path):
    site, _ = installed
    command = [sys.executable, "-c", "import relax_exp; print(relax_exp.__file__)"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(site)
    assert run(site, tmp_path, "--help").returncode == 0
