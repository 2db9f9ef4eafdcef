"""README.md: its commands are valid, and it knows every task, estimator and experiment. See also test_cold_start.py."""

import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from relax_exp import estimators
from relax_exp.cli.main import main
from relax_exp.cli.report import parser
from relax_exp.config import plans
from relax_exp.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"^```(?:sh|console)\n(.*?)^```", TEXT, re.M | re.S)).replace("\\\n", " ")
LINES = [
    *re.findall(r"^(?:\$ )?((?:relax-exp|make) ?.*)$", SHELL, re.M),
    *re.findall(r"`((?:relax-exp|make) [^`\n]+)`", TEXT),
]
COMMANDS = list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in LINES))


def of(program):
    return [command for command in COMMANDS if command.split()[0] == program]


@pytest.mark.parametrize("command", of("relax-exp"))
def test_a_run_that_it_shows_is_valid(command, monkeypatch, tmp_path, capfd):
    """With the run itself replaced, and launchers left out: they start processes."""
    handed_over = []
    for runner in {entry.runner for entry in TASKS.values()}:
        module = types.ModuleType(f"relax_exp.{runner}")
        module.execute = lambda resolved: handed_over.append(resolved) or 0
        monkeypatch.setitem(sys.modules, module.__name__, module)
    arguments = [word for word in shlex.split(command)[1:] if not word.startswith(("hydra", "--dry-run"))]
    if "--help" not in arguments and (plan := plans.chosen(arguments)):
        assert plans.jobs(*plan)  # test_experiments.py says that each is valid
        return
    monkeypatch.setattr(sys, "argv", ["relax-exp", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    own = "from relax_exp.estimators.score import Reinforce\n\n\nclass Mine(Reinforce):\n    pass\n"
    (tmp_path / "my_estimator.py").write_text(own)
    try:
        code = main()
    except SystemExit as end:  # after --help
        code = end.code
    out, err = capfd.readouterr()
    assert not code, err
    assert ("--help" in arguments) == (not handed_over)
    if "--help" in arguments:
        assert "relax-exp" in out


@pytest.mark.parametrize("command", of("relax-exp-report"))
def test_a_report_that_it_shows_is_valid(command):
    args = parser().parse_args(shlex.split(command)[1:])
    assert args.experiment is None or args.experiment in plans.names()


def test_what_it_makes_can_be_made():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {command.split()[1] for command in of("make")} <= {*targets}
    assert {"make demo", "make test"} <= {*of("make")}


@pytest.mark.parametrize(
    "names", [TASKS, estimators.REGISTRY, plans.names()], ids=["tasks", "estimators", "experiments"]
)
def test_it_names_every_one(names):
    assert [name for name in names if f"`{name}`" not in TEXT] == []
