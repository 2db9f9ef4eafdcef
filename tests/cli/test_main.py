"""The command: what it hands over, what it says about bad input, sweeps, help and completion."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from relax_exp import estimators
from relax_exp.cli.main import main
from relax_exp.config import resolve
from relax_exp.data import DataError
from relax_exp.errors import RunError
from relax_exp.runs import provenance
from relax_exp.tasks.registry import TASKS


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """Runs a command line in an empty folder, with `relax_exp.runs.run.execute` replaced: (exit code, output, errors).

    ``command.executed`` lists the configurations handed over; ``command.outcome`` maps one to an exit code or raises.
    """
    module = types.ModuleType("relax_exp.runs.run")

    def execute(resolved):
        run.executed.append(resolved)
        return run.outcome(resolved)

    def run(line):
        monkeypatch.setattr(sys, "argv", ["relax-exp", *shlex.split(line)])
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        return code, *capfd.readouterr()

    module.execute = execute
    run.executed, run.outcome = [], lambda resolved: 0
    monkeypatch.setitem(sys.modules, "relax_exp.runs.run", module)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    yield run
    assert list(tmp_path.iterdir()) == []


def process(line, cwd, **options):
    """The command in a process of its own."""
    environment = os.environ | options.pop("env", {})
    return subprocess.run(
        [sys.executable, *shlex.split(line)], cwd=cwd, env=environment, capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    "line, task, estimator, expected",
    [
        ("task=vae estimator=relax", {"dataset": "mnist"}, {"name": "relax"}, {"steps": 100_000}),
        (
            "task=vae task.dataset=omniglot task.model=linear2 estimator=rebar lr=3e-4 'seeds=[0,1,2]'",
            {"dataset": "omniglot", "model": "linear2"},
            {"name": "rebar"},
            {"lrs": [3e-4], "seeds": [0, 1, 2]},
        ),
        (
            "task=vae estimator=relax task.dataset=mnist task.model=linear1 lr=1e-3 estimator.depth=2 "
            "estimator.weight_decay=1e-3 estimator.lr_scale=1 steps=4166 eval_every=2083",
            {"model": "linear1"},
            {"depth": 2, "weight_decay": 1e-3, "lr_scale": 1.0},
            {"steps": 4166, "eval_every": 2083, "lrs": [1e-3]},
        ),
    ],
)
def test_a_run(command, line, task, estimator, expected):
    assert command(line) == (0, "", "")
    (resolved,) = command.executed
    assert task.items() <= resolved["task"].items()
    assert estimator.items() <= resolved["estimator"].items()
    assert expected.items() <= resolved.items()


BAD = {
    "": ["choose a task and an estimator", "estimator=NAME", "--help"],
    "task=toy": ["choose estimator=NAME"],
    "task=nope": ["unknown task nope", "toy, vae"],
    "task=ty": ["did you mean toy?"],
    "task=5": ["take a name"],
    "task=toy estimator=rebbar": ["unknown estimator rebbar", "straight_through", "did you mean rebar?"],
    "task=toy,vae": ["several values", "-m"],
    "lr=1,2": ["-m", "'lrs=[A,B]'"],
    "seeds=range(5)": ["-m", "'seeds=[A,B]'"],
    "'seeds=[0,1'": ["cannot read seeds=[0,1", "quotes"],
    "lr": ["cannot read lr", "key=value"],
    "out=a=b": ["cannot read out=a=b"],
    "lrr=3": ["unknown key lrr", "did you mean lr?"],
    "lr.x=3": ["unknown key lr.x", "has no keys"],
    "lr@x=3": ["lr@x=3"],
    "task.latents=3": ["type task=NAME"],
    "task=toy estimator.depth=3": ["type estimator=NAME"],
    "task=toy estimator=relax depth=3": ["did you mean estimator.depth?"],
    "task=toy estimator=relax estimator.dept=3": ["unknown key estimator.dept", "did you mean estimator.depth?"],
    "task=toy estimator=relax task.modle=3": ["unknown key task.modle", "latents"],
    "task=toy estimator=rebar estimator.depth=3": ["unknown key estimator.depth", "temperature"],
    "experiment=mine": ["unknown experiment mine"],
    "hydra.foo=1": ["unknown key hydra.foo"],
    "task=toy estimator=relax 'lr=${nowhere}'": ["nowhere"],
    "task=toy estimator=relax lr=0": ["lr=0: must be a finite number > 0"],
    "task=toy estimator=relax steps=1e3": ["did you mean steps=1000?"],
    "task=toy estimator=relax seed=0 'seeds=[1]'": ["exclude each other"],
    "task=toy estimator=rebar task.black_box=true": ["differentiates f"],
    "-m": ["choose task=NAME"],
    "-m task=toy estimator=relax,nope": ["unknown estimator nope"],
    "-m task=toy estimator=relax lr=1,0": ["lr=0: ", "(in the job task=toy estimator=relax lr=0)"],
    "-m task=toy estimator=relax,rebar estimator.depth=3": [
        "unknown key estimator.depth",
        "job task=toy estimator=rebar",
    ],
    "-m task=toy estimator=relax device=cpu,auto": ["one folder", "device=auto"],
    "-m task=toy estimator=relax,rebar out=x": ["one folder"],
    "--cfg job --run": ["Only one of"],
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input(command, line):
    code, out, err = command(line)
    assert (code, out, command.executed) == (2, "", [])
    assert err.startswith("relax-exp: error: ") and err.count("\n") == 1
    for part in BAD[line]:
        assert part in err


def fail(error):
    def outcome(resolved):
        raise error

    return outcome


@pytest.mark.parametrize(
    "error, said",
    [
        (RunError("device=cuda without one"), "device=cuda without one"),
        (DataError("no such images"), "no such images"),
        (OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    ],
)
def test_errors_that_a_user_can_mend(command, error, said):
    command.outcome = fail(error)
    code, _, err = command("task=toy estimator=relax")
    assert code == 1
    assert err.startswith("relax-exp: error: ") and said in err and err.count("\n") == 1


def test_options_that_do_not_go_together(command):
    command.outcome = lambda resolved: estimators.build("concrete", schedule="annealed", temperature=0.5, minimum=0.5)
    code, _, err = command("task=toy estimator=concrete estimator.schedule=annealed")
    assert code == 2
    assert err.startswith("relax-exp: error: Concrete: schedule=annealed") and err.count("\n") == 1


def test_bugs_keep_their_traceback(command):
    command.outcome = fail(ValueError("oops"))
    code, _, err = command("task=toy estimator=relax")
    assert code == 1 and "Traceback" in err and "ValueError: oops" in err


def test_a_bug_in_the_table_of_a_sweep_keeps_its_traceback_and_hides_no_failure(command, monkeypatch):
    monkeypatch.setattr("relax_exp.cli.sweep._compare", fail(ValueError("oops")))
    command.outcome = lambda resolved: 1
    code, _, err = command("-m task=toy estimator=relax,rebar")
    assert code == 1 and "Traceback" in err and "ValueError: oops" in err
    assert "2 of 2 jobs failed" in err and "configuration" not in err


def test_ctrl_c(command):
    command.outcome = fail(KeyboardInterrupt())
    assert command("task=toy estimator=relax") == (130, "", "\nstopped\n")
    assert command("-m task=toy estimator=relax,rebar")[0] == 130
    assert len(command.executed) == 2  # a sweep ends


def test_a_failed_replica(command):
    command.outcome = lambda resolved: 1
    assert command("task=toy estimator=relax") == (1, "", "")


def test_a_sweep(command):
    commands = []
    command.outcome = lambda resolved: commands.append(provenance.command_line()) or 0
    assert command("-m task=toy estimator=relax,rebar,reinforce")[0] == 0
    assert [it["estimator"]["name"] for it in command.executed] == ["relax", "rebar", "reinforce"]
    assert commands[1] == "relax-exp task=toy estimator=rebar"


def test_a_sweep_over_estimators_with_their_keys(command):
    assert (
        command("-m task=toy,vae estimator=relax,rebar estimator.temperature=.3 'seeds=[0,1]' task.latents=2")[0] == 0
    )
    assert [it["estimator"]["temperature"] for it in command.executed] == [0.3] * 4
    assert [it["task"]["latents"] for it in command.executed] == [2] * 4


def test_a_sweep_goes_on_after_a_failure(command):
    def outcome(resolved):
        if resolved["estimator"]["name"] == "relax":
            raise RunError("cannot")
        if resolved["estimator"]["name"] == "rebar":
            raise ZeroDivisionError
        return 0

    command.outcome = outcome
    code, out, err = command("-m task=toy estimator=relax,rebar,exact")
    assert code == 1 and len(command.executed) == 3
    assert out.splitlines() == [
        f"job {i}: task=toy estimator={name}" for i, name in enumerate(["relax", "rebar", "exact"])
    ]
    assert "relax-exp: error: cannot" in err and "ZeroDivisionError" in err
    (file,) = Path("runs").rglob("error.txt")
    assert err.endswith(
        "relax-exp: 2 of 3 jobs failed:\n  task=toy estimator=relax: cannot\n"
        f"  task=toy estimator=rebar: ZeroDivisionError (traceback in {file})\n"
    )
    assert "in outcome" in file.read_text()
    shutil.rmtree("runs")


def test_help(command):
    code, out, err = command("--help")
    assert (code, err) == (0, "")
    for word in [
        *TASKS,
        *estimators.names(),
        *set(resolve.hints(resolve.RunOptions)),
        "Exit codes",
        "tensorboard",
    ]:
        assert word in out


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("estimator", ["relax", "nvil", "exact"])
def test_help_on_a_task_and_an_estimator(command, task, estimator):
    code, out, _ = command(f"task={task} estimator={estimator} --help")
    assert code == 0
    assert all(f"  task.{key} " in out for key in resolve.hints(TASKS[task].options))
    assert "$" in out and "(task's)" not in out  # $RELAX_EXP_DATA survives Hydra's template


def test_version_and_configuration(command):
    assert command("--version") == (0, "relax-exp 0.1.0\n", "")
    code, out, _ = command("task=toy estimator=relax --cfg job --resolve")
    assert code == 0 and "steps: 10000" in out and "surrogate: network" in out


@pytest.mark.parametrize(
    "typed, offered",
    [
        ("relax-exp task=", [f"task={name}" for name in sorted(TASKS)]),
        ("relax-exp task=toy estimator=", [f"estimator={name}" for name in sorted(estimators.names())]),
        ("relax-exp task=toy estimator=relax estimator.de", ["estimator.depth="]),
        ("relax-exp eval", ["eval_every="]),
    ],
)
def test_completion(command, monkeypatch, typed, offered):
    monkeypatch.setenv("COMP_LINE", typed)
    assert command("-sc query=bash") == (0, " ".join(offered) + "\n", "")


WITHOUT_TORCH = """
import sys
from relax_exp.cli.main import main
sys.argv = ["relax-exp", *sys.argv[1:]]
try:
    code = main()
except SystemExit as error:
    code = error.code
heavy = {"torch", "scipy", "sklearn", "matplotlib", "numpy"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("line, code", [("task=toy estimator=relax lr=0", 2), ("lrr=1", 2), ("--help", 0)])
def test_heavy_packages_wait_for_a_valid_configuration(tmp_path, line, code):
    done = process(f"-c {shlex.quote(WITHOUT_TORCH)} {line}", tmp_path)
    assert done.returncode == code, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_python_m_is_the_same_command(tmp_path):
    done = process("-m relax_exp task=toy estimator=relaxx", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("relax-exp: error: unknown estimator relaxx") and not done.stdout
    installed = Path(sys.executable).with_name("relax-exp")
    if installed.exists():
        again = subprocess.run(
            [installed, "task=toy", "estimator=relaxx"], cwd=tmp_path, capture_output=True, text=True
        )
        assert (again.returncode, again.stderr) == (done.returncode, done.stderr)


def test_a_reader_that_leaves(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "relax_exp", "--help"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
