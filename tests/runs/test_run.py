"""Runs from the command line to the files they leave, and what they tell on the way."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from processes import Command, full_disk
from running import TOY, VAE, check_complete, execute, meta, numbers, scalars, whole

from relax_exp import data
from relax_exp.config.identity import label
from relax_exp.errors import RunError
from relax_exp.runs import run
from relax_exp.runs.build import make_task
from relax_exp.tasks.toy import Toy
from relax_exp.training.replicas import Replicas


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_run_leaves_and_that_running_it_again_changes_nothing(here, capsys):
    path = whole(TOY)
    names = ["checkpoint.pt", "config.yaml", "curves.json", "meta.json", "metrics.jsonl", "table.md", "tb"]
    assert sorted(f.name for f in path.iterdir()) == names
    about = meta(path)
    assert (about["status"], about["step"], about["compiled"]) == ("done", 50, False)
    assert about["device"] == "cpu"  # that ran, whatever else the machine has
    assert [r["status"] for r in about["replicas"]] == ["done", "done"]
    rows = [json.loads(line) for line in numbers(path)]
    assert [(row["step"], row["seed"]) for row in rows] == [(step, seed) for step in (20, 40, 50) for seed in (0, 1)]
    check_complete(path, path)

    shutil.copytree(path, here / "run")
    before = {f: f.read_bytes() for f in (here / "run").rglob("*") if f.is_file()}
    assert execute(TOY) == 0
    out, err = capsys.readouterr()
    assert "run is finished already; nothing to do" in err and "| toy problem, t = 0.499" in out
    assert {f: f.read_bytes() for f in (here / "run").rglob("*") if f.is_file()} == before


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(here):
    code, output = Command(TOY, here, functools.partial(full_disk, "replace", 1)).wait()
    assert code == 1 and "error: the disk is full" in output and not (here / "run").exists()


def test_errors_before_the_run_leave_no_folder(here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="device=cuda, but torch sees no CUDA device here"):
        execute(TOY + "device=cuda")
    with pytest.raises(RunError, match="batch_size=2000, but the training set has 1297 images only"):
        execute(VAE + "batch_size=2000")

    def missing(*args):
        raise data.DataError("nothing there")

    monkeypatch.setattr(data, "load", missing)
    with pytest.raises(data.DataError):
        execute(VAE)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("steps, eval_every, expected", [(5, 9, [5]), (6, 3, [3, 6]), (7, 3, [3, 6, 7])])
def test_the_last_evaluation_is_at_the_end(here, steps, eval_every, expected):
    assert execute(f"{TOY} steps={steps} eval_every={eval_every} seeds=[0]") == 0
    assert [json.loads(line)["step"] for line in numbers(here / "run")] == expected


def test_compiling_is_decided_by_the_configuration(monkeypatch):
    task = make_task("toy", {"name": "reinforce"})
    for steps, choice, expected in [(4999, "auto", False), (5000, "auto", True), (1, True, True), (9999, False, False)]:
        assert run.should_compile({"steps": steps, "compile": choice}, task) is expected


def test_without_a_compiler_there_is_no_compiling(here, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert execute(TOY + "compile=true") == 0
    assert "no compiler found that torch.compile could use" in capsys.readouterr().err
    assert meta(here / "run")["compiled"] is False


def test_execute_sets_threads_and_flushes_denormals(here, monkeypatch):
    seen = []
    monkeypatch.setattr(run.Run, "finish", lambda self: seen.append(torch.get_num_threads()) or 0)
    tiny = torch.tensor(1e-39)
    try:
        assert execute(TOY + "threads=2") == 0
        assert seen == [2] and (tiny * 0.5 == 0).item()
    finally:
        torch.set_num_threads(1)
        torch.set_flush_denormal(False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(here, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert execute(TOY) == 0
    shown = sys.stderr.getvalue()
    assert "50/50" in shown and "step/s" in shown
    assert re.search(r"\rstep 40: excess \S+, theta \S+, grad/log_variance \S+ \(mean of 2 replicas\)\n", shown)


def test_a_line_for_each_evaluation_otherwise(here, capsys):
    assert execute(TOY + "seeds=[3]") == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == "1 replica on cpu -> run"
    assert [line.split(":")[0] for line in lines[1:4]] == ["step 20", "step 40", "step 50"]
    assert lines[4:] == ["metrics, table and TensorBoard files are in run"] and "\r" not in err
    assert out.strip() == (here / "run" / "table.md").read_text().strip()


def test_names_of_replicas():
    assert [label(1, lr) for lr in (1e-3, 1.0, 1e-5)] == ["seed-1_lr-0.001", "seed-1_lr-1", "seed-1_lr-1e-05"]
    assert label(1, 1e-3) != label(1, 1.0000001e-3)


ABOVE = "validation images above their reconstructions"


def test_tensorboard_of_a_vae():
    events = scalars(whole(VAE) / "tb" / label(0, 1e-3))
    assert set(events.Tags()["images"]) == {ABOVE, "draws from the prior"}
    assert [image.step for image in events.Images(ABOVE)] == [10, 20, 24]
    image, *_ = events.Images(ABOVE)
    assert (image.width, image.height) == (8 * 8, 2 * 8)
    image, *_ = events.Images("draws from the prior")
    assert (image.width, image.height) == (8 * 8, 2 * 8)


def test_the_whole_bound_is_measured_when_asked_for():
    rows = [json.loads(line) for line in numbers(whole(VAE))]
    full = {row["step"]: "valid/bound100_full" in row for row in rows}
    assert full == {10: False, 20: True, 24: True}


def test_the_clock(here, monkeypatch):
    """With steps of one second and evaluations of a hundred: speed counts the steps only."""
    seconds, evaluate, inputs = [0.0], Toy.evaluate, Replicas._inputs
    monkeypatch.setattr(run.time, "monotonic", lambda: seconds[0])

    def passing(function, cost):
        def timed(*args):
            seconds[0] += cost
            return function(*args)

        return timed

    monkeypatch.setattr(Toy, "evaluate", passing(evaluate, 100))
    monkeypatch.setattr(Replicas, "_inputs", passing(inputs, 1))
    assert execute(TOY) == 0
    rows = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["time/elapsed"] for row in rows[::2]] == [20, 140, 250]
    assert {row["time/steps_per_second"] for row in rows} == {1.0}


def test_replicas_do_not_wait_for_each_step(here, monkeypatch):
    """Nothing asks for a number while steps are made: on a GPU each question would wait for the device."""
    asked = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name):
            asked.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    replicas = Replicas(make_task("toy", {"name": "reinforce"}), [0, 1], [0.1])
    steps = replicas.advance(20)
    next(steps)
    asked.clear()
    for _ in steps:
        pass
    assert asked == []
