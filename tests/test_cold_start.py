"""README's quick start, copied literally: a clone of this repository on a machine with nothing but Python.

`make cold-start` and CI run it; `make test`, which is one of README's commands too, does not.
"""

import difflib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
STEPS = [step.splitlines() for block in BLOCKS for step in re.split(r"^\$ ", block, flags=re.M)[1:]]  # command, output
MARK = "from  command"
# Beginnings of names of variables.
OURS = ("VIRTUAL_ENV", "PYTHON", "VENV", "MAKE", "MFLAGS", "PYTEST", "RELAX_EXP", "BUDGET", "JOBS")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command printed, as lists of lines. They run one after the other in one shell, until one fails."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is nothing to clone")
    clone = tmp_path_factory.mktemp("cold") / "relax-exp"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    script = "\n".join(f"echo {shlex.quote(MARK)}\n{command}" for command, *_ in STEPS)
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=clone,
        env=bare_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    try:
        assert done.returncode == 0, f"exit code {done.returncode} after\n{done.stdout[-5000:]}"
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True
        )
        assert changed.stdout == "", "the commands leave files behind that git does not ignore"
        return [part.splitlines() for part in done.stdout.split(f"{MARK}\n")[1:]]
    finally:
        shutil.rmtree(clone)


def bare_environment():
    """The environment without what makes this project known to it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    folders = [folder for folder in kept["PATH"].split(os.pathsep) if Path(folder) != Path(sys.prefix, "bin")]
    return kept | {"PATH": os.pathsep.join(folders)}


def matches(line, shown):
    """Whether a line is what README shows: the same words, and numbers that differ by no more than CPUs do."""
    words, wanted = (re.sub(r"-{2,}", "-", text.replace("|", " | ")).split() for text in (line, shown))
    if wanted and wanted[-1] == "...":
        wanted.pop()
        words = words[: len(wanted)]
    return len(words) == len(wanted) and all(map(same, words, wanted))


def same(word, shown):
    """Words are equal; a number may be off by a quarter, or by ten units of the last place that is shown."""
    number = re.fullmatch(r"(-?\d+\.(\d+)(?:e(-?\d+))?),?", shown)
    if not number or not re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?,?", word):
        return word == shown
    unit = 10.0 ** (int(number[3] or 0) - len(number[2]))
    return math.isclose(float(word.rstrip(",")), float(number[1]), rel_tol=0.25, abs_tol=10 * unit)


@pytest.mark.slow
def test_the_quick_start_prints_what_the_readme_shows(said):
    assert len(said) == len(STEPS) > 2
    for (command, *shown), lines in zip(STEPS, said, strict=True):
        rest = iter(lines)
        for wanted in filter(None, map(str.strip, shown)):
            if wanted != "..." and not any(matches(line, wanted) for line in rest):
                near = "\n".join(difflib.get_close_matches(wanted, lines, 3, 0)) or "nothing"
                pytest.fail(f"{command}: README shows, here or further up,\n{wanted}\nthe nearest lines are\n{near}")


@pytest.mark.parametrize(
    "line, shown, verdict",
    [
        ("| relax |   0.71 ± 0.36 |", "| relax | 0.70 ± 0.36 |", True),
        ("| relax |   1.01 ± 0.36 |", "| relax | 0.70 ± 0.36 |", False),
        ("| relax |   0.70 ± 0.36 |", "| rebar | 0.70 ± 0.36 |", False),
        ("|:-----|------:|", "|:---|--:|", True),
        ("|:-----|------:|:----|", "|:---|--:| ...", True),
        ("step 500: excess 0.00086, theta 0.43", "step 500: excess 0.00087, theta 0.42", True),
        ("step 501: excess 0.00086, theta 0.43", "step 500: excess 0.00086, theta 0.43", False),
        ("1 replica on cpu -> runs/toy/relax-4baed0cc94", "1 replica on cpu -> runs/toy/relax-4baed0cc95", False),
        ("| task | loss | time |", "| task | loss | ...", True),
        ("| task | lost | time |", "| task | loss | ...", False),
        ("theta nan", "theta 0.42", False),
    ],
)
def test_matches(line, shown, verdict):
    assert matches(line, shown) == verdict
