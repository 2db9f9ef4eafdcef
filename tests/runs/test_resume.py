"""Runs that are stopped at any moment, fail in part, find a damaged folder or a full disk, and go on."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import Command, full_disk, kill, moments, save_always, send, tear_a_line
from running import TOY, VAE, check_complete, check_tensorboard, execute, meta, numbers, whole

from relax_exp.errors import RunError
from relax_exp.numerics import cpu_programs
from relax_exp.runs import checkpoint
from relax_exp.tasks.toy import Toy


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


KILLS = [
    [kill("step", 5)],  # in the warm-up, nothing saved yet
    [save_always, kill("step", 8)],  # in the warm-up, in the middle of it saved
    [kill("evaluate vae", 1)],
    [tear_a_line],
    [kill("append", 2, after=True)],  # two evaluations are written, but not in the checkpoint
    [save_always, kill("replace", 3)],  # after config.yaml and meta.json: the new checkpoint is not in its place yet
    [save_always, kill("save", 1, after=True)],
    [kill("tensorboard", 2)],  # the one for what earlier processes wrote, within the first
    [save_always, kill("step", 4)],
    [save_always, kill("evaluate vae", 1)],  # saved at a step whose evaluation is still to be made
    [kill("evaluate vae", 1, after=True)],
    [kill("replace", 4)],  # meta.json after the second evaluation
    [kill("finish", 2)],
    [kill("replace", 5)],  # the last status
]


def test_killed_at_any_moment(here):
    for number, setup in enumerate(KILLS):
        code, output = Command(VAE, here, *setup).wait()
        assert code == -signal.SIGKILL, (number, output)
    assert meta(here / "run")["status"] == "running"
    code, output = Command(VAE, here).wait()
    assert code == 0, output
    check_complete(here / "run", whole(VAE))
    assert len(meta(here / "run")["resumed"]) == len(KILLS)


def test_killed_at_random(here):
    moment = random.Random(0)
    for _ in range(8):
        command = Command(TOY, here, save_always)
        time.sleep(moment.uniform(0.2, 0.8))
        command.process.kill()
        command.wait()
    code, output = Command(TOY, here).wait()
    assert code == 0, output
    check_complete(here / "run", whole(TOY))


def signals(*numbers, **where):
    return functools.partial(send, numbers, **where)


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_saves_and_says_how_to_go_on(here, number, expected):
    stops = [
        (12 + 7, "step", "stopped at step 7; the same command goes on from there"),
        (1, "evaluate vae", "stopped at step 11"),  # the evaluation is finished, then one step is made
        (1, "append", "stopped at step 21"),
    ]
    for count, moment, message in stops:
        code, output = Command(VAE, here, signals(number, moment=moment, count=count)).wait()
        assert code == expected, output
        assert message in output and "stopping as soon as everything can be saved" in output
        assert "Traceback" not in output
        assert meta(here / "run")["status"] == "interrupted"
    code, output = Command(VAE, here).wait()
    assert code == 0 and "continuing run at step 21" in output
    check_complete(here / "run", whole(VAE))


def test_stopping_at_once(here):
    twice = signals(signal.SIGINT, signal.SIGINT, moment="evaluate vae", count=2)
    code, output = Command(VAE, here, save_always, twice).wait()
    assert code == 130 and "stopped at once; the same command goes on from the last checkpoint" in output
    assert "Traceback" not in output
    code, output = Command(VAE, here).wait()
    assert code == 0 and "continuing run at step 20" in output
    check_complete(here / "run", whole(VAE))


def test_evaluations_wait_for_the_next_checkpoint(here, monkeypatch):
    """A checkpoint is made once in a while and at the end; what was evaluated since then is done again."""
    saved, save = [], checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda *args, **extra: saved.append(extra["evaluated"]) or save(*args, **extra)
    )
    assert execute(TOY) == 0 and saved == [50]
    (here / "run").rename(here / "whole")
    code, _ = Command(TOY, here, kill("evaluate toy", 3)).wait()  # the first two are written
    assert code == -signal.SIGKILL and len(numbers(here / "run")) == 4
    assert not (here / "run" / "checkpoint.pt").exists()
    assert execute(TOY) == 0
    check_complete(here / "run", here / "whole")


def compile_forever(after: int, number: int) -> None:
    """A setup: the ``after``-th program takes very long to compile, and the user loses patience."""
    calls = []

    def compile(function, backend="inductor", **options):
        program = function  # as it is
        calls.append(None)
        if len(calls) < after:
            return program

        def slow(*args):
            os.kill(os.getpid(), number)
            time.sleep(3600)

        return slow

    cpu_programs.compile = compile


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", ["the step", "the evaluation"])
def test_stopping_while_a_program_is_compiled(here, program, number, expected):
    line = VAE.replace("estimator.warmup=12", "estimator.warmup=0") + "compile=true "
    after = {"the step": 1, "the evaluation": 2}[program]
    code, output = Command(line, here, functools.partial(compile_forever, after, number)).wait()
    assert code == expected and "Traceback" not in output
    assert output.index("compiling the training step") < output.index("stopped while compiling")
    assert (here / "run").exists() == (program == "the evaluation")  # else there is nothing to keep
    if program == "the evaluation":
        assert meta(here / "run")["status"] == "interrupted"
        stored = torch.load(here / "run" / "checkpoint.pt", weights_only=True)
        assert stored["extra"]["evaluated"] == 0 and stored["extra"]["metrics_size"] == 0


def test_a_signal_at_the_very_end_comes_too_late(here):
    code, output = Command(VAE, here, signals(signal.SIGINT, moment="finish", count=1)).wait()
    assert code == 0, output
    check_complete(here / "run", whole(VAE))


def test_two_processes_on_one_folder(here):
    first = Command(TOY, here, signals(signal.SIGSTOP, moment="step", count=30))
    deadline = time.monotonic() + 30
    while "step 20" not in first.log.read_text() if first.log.exists() else True:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (here / "second").mkdir()
    code, output = Command(TOY.replace("out=run", "out=../run"), here / "second").wait()
    assert code == 1
    assert f"run is being written by process {first.pid} on " in output and "Traceback" not in output
    os.kill(first.pid, signal.SIGCONT)
    code, output = first.wait()
    assert code == 0, output
    check_complete(here / "run", whole(TOY))


FAILING = VAE.replace("estimator.warmup=12", "estimator.warmup=0") + "'lrs=[1e-3,1e30]' "


def test_a_replica_that_fails(here):
    code, output = Command(FAILING, here, save_always, kill("evaluate vae", 2)).wait()
    assert code == -signal.SIGKILL
    reason = re.search(r"seed-0_lr-1e\+30 failed: (\w[\w ]+ not finite at step (\d+); last finite value \S+)", output)
    assert reason and int(reason[2]) < 10
    before = meta(here / "run")
    assert [r["status"] for r in before["replicas"]] == ["running", "failed"] * 2
    assert before["replicas"][1]["reason"] == reason[1]

    code, output = Command(FAILING, here).wait()
    assert code == 1 and "Traceback" not in output and "lr-1e+30 failed:" not in output
    about = meta(here / "run")
    assert about["status"] == "failed"
    assert [r["status"] for r in about["replicas"]] == ["done", "failed"] * 2
    assert reason[1] in (here / "run" / "table.md").read_text()

    text = (here / "run" / "metrics.jsonl").read_text()
    assert not re.search(r"NaN|Infinity", text)
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(r["step"], r["lr"]) for r in rows] == [(10, 1e-3), (10, 1e30)] * 2 + [(20, 1e-3)] * 2 + [(24, 1e-3)] * 2
    assert rows[1]["failed"] == reason[1] and rows[1]["train/elbo"] is None
    assert all(None not in row.values() and "failed" not in row for row in rows if row["lr"] == 1e-3)

    (here / "alone").mkdir()
    code, output = Command(FAILING.replace(",1e30", ""), here / "alone").wait()
    assert code == 0, output
    alone = [json.loads(line) for line in numbers(here / "alone" / "run")]
    for row, other in zip([json.loads(x) for x in numbers(here / "run") if '"lr": 0.001' in x], alone, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    check_tensorboard(here / "run")

    code, output = Command(FAILING, here).wait()
    assert code == 1 and "finished already" in output and reason[1] in output


def test_the_report_of_a_failure_survives_a_kill_before_meta_json(here):
    after_evaluation = kill("save", 10 + 1, after=True)  # one after each of the ten steps before it
    code, _ = Command(FAILING, here, save_always, after_evaluation).wait()
    assert code == -signal.SIGKILL and meta(here / "run")["replicas"][1]["status"] == "running"
    code, _ = Command(FAILING, here).wait()
    assert code == 1
    steps = [(row["step"], row["lr"]) for row in map(json.loads, numbers(here / "run"))]
    assert steps == [(10, 1e-3), (10, 1e30)] * 2 + [(20, 1e-3)] * 2 + [(24, 1e-3)] * 2
    assert [r["status"] for r in meta(here / "run")["replicas"]] == ["done", "failed"] * 2


def test_when_all_fail_the_run_ends(here, monkeypatch, capsys):
    gradients = Toy.gradients

    def broken(*args):
        return gradients(*args)._replace(loss=torch.tensor(torch.nan))

    monkeypatch.setattr(Toy, "gradients", broken)
    assert execute(TOY) == 1
    about = meta(here / "run")
    assert (about["status"], about["step"]) == ("failed", 20)
    assert {r["reason"] for r in about["replicas"]} == {"loss not finite at step 1; it never was"}
    assert not (here / "run" / "curves.json").exists()
    assert execute(TOY) == 1
    assert "finished already" in capsys.readouterr().err


def interrupt(monkeypatch, line: str, moment: str = "step", count: int = 30) -> None:
    """Leave a run interrupted."""
    owner, name = moments()[moment]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, getattr(owner, name))  # to be put back
        send((signal.SIGINT,), moment, count)
        execute(line)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 64]) + content[middle + 64 :]


def other_shapes(content: bytes) -> bytes:
    stored = torch.load(io.BytesIO(content), weights_only=True)
    stored["leaves"] = [leaf[:1] for leaf in stored["leaves"]]
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    return buffer.getvalue()


def something_else(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    return buffer.getvalue()


def empty(content: bytes) -> bytes:
    return b""


def garbage(content: bytes) -> bytes:
    return b"garbage" * 99


@pytest.mark.parametrize("damage", [half, flipped, other_shapes, something_else, empty, garbage])
def test_a_damaged_checkpoint(here, monkeypatch, damage):
    interrupt(monkeypatch, TOY)
    file, metrics = here / "run" / "checkpoint.pt", here / "run" / "metrics.jsonl"
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes(), metrics.read_bytes()
    with pytest.raises(RunError) as error:
        execute(TOY)
    assert "run/checkpoint.pt" in str(error.value) and "rm -r run" in str(error.value)
    assert (file.read_bytes(), metrics.read_bytes()) == before


def test_metrics_that_lost_lines(here, monkeypatch):
    interrupt(monkeypatch, TOY)
    (here / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"run/metrics\.jsonl has lost lines"):
        execute(TOY)
    assert (here / "run" / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("moment, count", [("append", 2), ("replace", 5), ("replace", 6), ("event", 2), ("event", 30)])
def test_a_full_disk(here, moment, count):
    code, output = Command(TOY, here, functools.partial(full_disk, moment, count)).wait()
    assert code == 1 and "error: the disk is full" in output and "Traceback" not in output
    assert not list((here / "run").glob(".*.tmp"))
    code, output = Command(TOY, here).wait()
    assert code == 0, output
    check_complete(here / "run", whole(TOY))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_a_compiled_run_goes_on_with_the_same_numbers(here, monkeypatch, capsys):
    compile = cpu_programs.compile
    monkeypatch.setattr(cpu_programs, "compile", lambda f, backend, **options: compile(f, "aot_eager", **options))
    line = TOY.replace("relax", "reinforce") + "compile=true "
    assert execute(line) == 0
    assert re.search(r"compiled in \d+ s", capsys.readouterr().err) and meta(here / "run")["compiled"]
    (here / "run").rename(here / "whole")
    interrupt(monkeypatch, line)
    assert execute(line) == 0
    check_complete(here / "run", here / "whole")
