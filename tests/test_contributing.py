"""CONTRIBUTING.md, executed: its files and lines go into a copy of the source tree, and its commands are run there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^`([^`\n]+)`(?:, (?:in `(\w+)`|(at its end)))?\n\n```\w+\n(.*?)```", TEXT, re.M | re.S)
COMMANDS = [line for line in re.findall(r"^relax-exp .*$", TEXT, re.M) if "FILE" not in line]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the package with everything that the document says added."""
    folder = tmp_path_factory.mktemp("tree")
    for part in ("relax_exp", "hydra_plugins", "configs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, table, at_end, text in BLOCKS:
        path = folder / name
        if at_end:
            path.write_text(f"{path.read_text()}\n\n{text}")
            continue
        if not table:
            assert not path.exists()
            path.write_text(text)
            continue
        source, count = re.subn(
            rf"^({table}\b.*{{.*\n)", lambda m, text=text: m[1] + text, path.read_text(), flags=re.M
        )
        assert count == 1, f"{table} is not in {name} as one dictionary"
        path.write_text(source)
    return folder


def test_the_document_has_all_examples():
    assert len(BLOCKS) == 7 and len(COMMANDS) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_command(tree, command):
    arguments = shlex.split(command)[1:]
    arguments.append("task.draws=20000" if "task=verify" in arguments else "steps=200")
    out = tree / f"run{COMMANDS.index(command)}"
    done = subprocess.run(
        [sys.executable, "-m", "relax_exp", *arguments, f"out={out}"], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "task=verify" in arguments:
        rows = json.loads((out / "table.json").read_text())
        assert len(rows) > 8 and {row["verdict"] for row in rows} == {"unbiased"}
    else:
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 200 and 0 <= last["loss"] < 10


def test_experiment(tree):
    command = [sys.executable, "-m", "relax_exp", "experiment=two_rates", "budget=cpu", "--dry-run"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"estimator={name}" in done.stdout + done.stderr for name in ("rebar", "relax"))
