"""`scripts/reproduce.py`: the plan, the runs of every experiment, being killed, and failures."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import reproduce

from relax_exp.config import plans
from relax_exp.runs.folder import is_locked, status

# In the processes of runs: what a run does, without its second of imports. MODE: what befalls relax's run.
SITE = """
import os, sys, time, types
sys.modules["relax_exp.runs.run"] = run = types.ModuleType("relax_exp.runs.run")
def execute(config):
    from relax_exp.config.identity import run_path
    from relax_exp.runs.folder import RunFolder
    mode = os.environ["MODE"] if config["estimator"]["name"] == "relax" else "fine"
    while mode == "late" and not os.path.exists("go"):
        time.sleep(0.01)
    with RunFolder(run_path(config), config) as folder:
        (folder.path / "metrics.jsonl").write_text("")
        while mode == "hang":
            time.sleep(0.05)
        if mode == "bug":
            raise ZeroDivisionError("oops")
        reason = "NaN in the loss" if mode == "diverge" else None
        folder.update_meta(status="failed" if reason else "done")
    return int(mode == "diverge")
run.execute = execute
"""


class Reproduce:
    """Starts the script for the toy's smoke runs (REINFORCE, RELAX) in ``work``; ``plan``: these."""

    def __init__(self, folder: Path):
        self.work, self.site = folder / "work", folder / "site"
        self.work.mkdir()
        self.site.mkdir()
        (self.work / "runs").mkdir()
        self.plan = plans.planned("toy", "smoke")

    def fake(self) -> None:
        """Runs without training."""
        (self.site / "sitecustomize.py").write_text(SITE)

    def start(self, *arguments: str, mode: str = "fine") -> subprocess.Popen:
        command = [sys.executable, "-u", reproduce.__file__, "--budget", "smoke", "--experiments", "toy", *arguments]
        path = os.pathsep.join([str(self.site), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "MODE": mode}
        return subprocess.Popen(
            command,
            cwd=self.work,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored here
        )

    def __call__(self, *arguments: str, mode: str = "fine") -> tuple[int, str]:
        with self.start(*arguments, mode=mode) as process:
            out, _ = process.communicate(timeout=100)
        return process.returncode, out

    def statuses(self) -> list[str]:
        return [status(self.work / run.path) for run in self.plan]

    def until(self, condition, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.statuses()
            time.sleep(0.02)

    def locked(self) -> bool:
        """Whether RELAX's run is being written."""
        return is_locked(self.work / self.plan[1].path)


@pytest.fixture
def script(tmp_path):
    return Reproduce(tmp_path)


def test_killed_in_the_middle(script):
    """Nothing is faked: SIGKILL during a run, then the same command; all is there once, with tables and figures."""
    process = script.start()
    script.until(lambda: any((script.work / run.path / "lock").exists() for run in script.plan))
    process.kill()
    process.communicate()
    assert set(script.statuses()) != {"done"}
    code, out = script()
    assert code == 0, out
    assert script.statuses() == ["done", "done"]
    for run in script.plan:
        rows = [json.loads(line) for line in (script.work / run.path / "metrics.jsonl").read_text().splitlines()]
        assert [(row["step"], row["seed"]) for row in rows] == [(25, 0), (25, 1), (50, 0), (50, 1)]
    results = script.work / "runs/results-smoke/toy"
    table = (results / "table.md").read_text()
    assert "reinforce" in table and "relax" in table and (results / "figure1.png").stat().st_size > 10_000
    # Once more: nothing to do. The report alone gives the same.
    for file in results.iterdir():
        file.unlink()
    code, out = script("--report")
    assert code == 0 and "experiment=toy" not in out and (results / "table.md").read_text() == table


def test_the_plan(script):
    script.fake()
    code, out = script("--plan", "--jobs", "2")
    assert code == 0 and out.splitlines()[-1].split() == ["toy", "2", "0", "2"]
    assert script.statuses() == ["missing", "missing"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_runs_and_no_more(script, jobs):
    script.fake()
    code, out = script("--jobs", jobs)
    assert code == 0 and script.statuses() == ["done", "done"], out
    assert out.count("relax-exp experiment=toy budget=smoke") == 1
    assert "job 0: task=toy estimator=reinforce" in out and "job 1: task=toy estimator=relax" in out
    code, out = script("--plan")
    assert code == 0 and out.splitlines()[-1].split() == ["toy", "2", "2", "0"]
    assert script("estimator=relax", "--plan")[1].splitlines()[-1].split() == ["toy", "1", "1", "0"]


def test_an_experiment_after_the_other(script):
    """Both in one process, in which Hydra begins anew."""
    script.fake()
    code, out = script("--experiments", "toy,permutation")
    assert code == 0 and script.statuses() == ["done", "done"], out
    assert out.index("experiment=toy") < out.index("experiment=permutation")
    assert all(status(script.work / run.path) == "done" for run in plans.planned("permutation", "smoke"))


@pytest.mark.parametrize(
    "mode, said, then",
    [
        ("bug", "ZeroDivisionError: oops", "interrupted"),
        ("diverge", "a replica failed", "failed"),
    ],
)
def test_failures(script, mode, said, then):
    script.fake()
    code, out = script("--jobs", "2", mode=mode)
    assert code == 1 and script.statuses() == ["done", then]
    overrides = shlex.join(script.plan[1].overrides)
    assert f"1 of 2 jobs failed:\n  {overrides}: {said}" in out
    assert f"\n1 of 2 runs failed:\nrelax-exp {overrides}: {then}\n" in out
    again = script()
    if mode == "bug":
        assert again[0] == 0 and script.statuses() == ["done", "done"]  # tried again
    else:
        assert again[0] == 1 and f"{overrides}: failed\n" in again[1]  # not tried again, but said again


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runs_end_with_the_script(script, number):
    script.fake()
    process = script.start(mode="hang")
    script.until(script.locked)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    script.until(lambda: not script.locked(), 10)
    codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    assert process.returncode == codes[number]
    assert ("the same command goes on" in out) == (number == signal.SIGINT)
    if number == signal.SIGKILL:
        script()
        assert script.statuses() == ["done", "done"]


def test_what_another_process_writes_is_left_to_it(script):
    script.fake()
    folder = script.work / script.plan[1].path
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = script.start()
        for line in process.stdout:
            if "waiting for it" in line:
                break
        (folder / "meta.json").write_text('{"status": "done"}')
    out, _ = process.communicate(timeout=30)
    assert "runs failed" not in out and script.statuses() == ["done", "done"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--experiments", "toyy"], "unknown experiment toyy"),
        (["steps=7"], "no run of experiment=toy budget=smoke has steps=7"),
        (["lrr=7"], "unknown key lrr"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
    ],
)
def test_wrong_commands(monkeypatch, tmp_path, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--budget", "smoke", "--experiments", "toy", *arguments])
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        assert reproduce.main() == 2
    err = capsys.readouterr().err
    assert err.startswith("reproduce: error: ") and said in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
