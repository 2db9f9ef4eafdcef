"""Runs from the command line to the files they leave: stopped at any moment, continued, failing, finished."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from processes import Command, full_disk, kill, meta, moments, numbers, save_always, send, tear_a_line
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from relax_exp import config, data, run
from relax_exp.folder import RunError
from relax_exp.metrics import label
from relax_exp.tasks.toy import Toy
from relax_exp.train import Replicas

TOY = "task=toy estimator=relax steps=50 eval_every=20 task.variance_draws=20 'seeds=[0,1]' out=run "
VAE = (
    "task=vae task.dataset=digits estimator=relax task.latents=3 estimator.width=4 estimator.warmup=12 batch_size=5 "
    "task.variance_draws=12 task.bound_every=20 steps=24 eval_every=10 'seeds=[0,1]' out=run "
)


def execute(line: str) -> int:
    """The run of a command, in this process."""
    overrides = shlex.split(line)
    with initialize_config_dir(str(config.CONFIGS), version_base="1.3"):
        resolved = config.resolve(compose("config", overrides), overrides)
    return run.execute(resolved)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run of a command, made once."""

    @functools.cache
    def make(line: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        code, output = Command(line, folder).wait()
        assert code == 0, output
        return folder / "run"

    return make


def scalars(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def check_complete(path: Path, whole: Path) -> None:
    """Same numbers, each once; same files, none half-made; TensorBoard shows what metrics.jsonl holds."""
    assert numbers(path) == numbers(whole)
    assert (path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    assert sorted(f.name for f in path.iterdir()) == sorted(f.name for f in whole.iterdir())
    if (path / "curves.json").exists():
        assert (path / "curves.json").read_text() == (whole / "curves.json").read_text()
    check_tensorboard(path)


def check_tensorboard(path: Path) -> None:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for seed, lr in {(row["seed"], row["lr"]) for row in rows}:
        mine = [row for row in rows if (row["seed"], row["lr"]) == (seed, lr)]
        events = scalars(path / "tb" / label(seed, lr))
        shown = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        for key in {key for row in mine for key in row} - {"step", "seed", "lr", "failed"}:
            expected = [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in mine if row.get(key) is not None]
            assert [(event.step, event.value) for event in shown.get(key, [])] == expected, key
        times = [event.wall_time for event in shown["time/elapsed"]]
        assert times == sorted(times)
        # The hparams page, and the table as text, once.
        assert all(len(shown[f"final/{k}"]) == 1 for k, v in mine[-1].items() if isinstance(v, float) and k != "lr")
        (text,) = events.Tensors("table/text_summary")
        assert "| status" in text.tensor_proto.string_val[0].decode()
        assert Counter(tag for tag in events.summary_metadata if tag.startswith("_hparams_")).total() == 3


def test_what_a_run_leaves_and_that_running_it_again_changes_nothing(whole, here, capsys):
    path = whole(TOY)
    names = ["checkpoint.pt", "config.yaml", "curves.json", "meta.json", "metrics.jsonl", "table.md", "tb"]
    assert sorted(f.name for f in path.iterdir()) == names
    about = meta(path)
    assert (about["status"], about["step"], about["compiled"]) == ("done", 50, False)
    assert [r["status"] for r in about["replicas"]] == ["done", "done"]
    rows = [json.loads(line) for line in numbers(path)]
    assert [(row["step"], row["seed"]) for row in rows] == [(step, seed) for step in (20, 40, 50) for seed in (0, 1)]
    check_complete(path, path)

    shutil.copytree(path, here / "run")
    before = {f: f.read_bytes() for f in (here / "run").rglob("*") if f.is_file()}
    assert execute(TOY) == 0
    out, err = capsys.readouterr()
    assert "run is finished already; nothing to do" in err and "| toy t=0.499" in out
    assert {f: f.read_bytes() for f in (here / "run").rglob("*") if f.is_file()} == before


KILLS = [
    [kill("step", 5)],  # in the warm-up, nothing saved yet
    [save_always, kill("step", 8)],  # in the warm-up, in the middle of it saved
    [kill("evaluate vae", 1)],
    [tear_a_line],
    [kill("append", 1, after=True)],  # written, but not in the checkpoint
    [kill("replace", 3)],  # config.yaml and meta.json come first: the new checkpoint is written, but not in its place
    [kill("save", 1, after=True)],
    [kill("tensorboard", 2)],  # the one for what earlier processes wrote, within the first
    [save_always, kill("step", 4)],
    [save_always, kill("evaluate vae", 1)],  # saved at a step whose evaluation is still to be made
    [kill("evaluate vae", 1, after=True)],
    [kill("replace", 4)],  # meta.json after the evaluation
    [kill("finish", 2)],
    [kill("replace", 5)],  # the last status
]


def test_killed_at_any_moment(whole, here):
    for number, setup in enumerate(KILLS):
        code, output = Command(VAE, here, *setup).wait()
        assert code == -signal.SIGKILL, (number, output)
    assert meta(here / "run")["status"] == "running"
    code, output = Command(VAE, here).wait()
    assert code == 0, output
    check_complete(here / "run", whole(VAE))
    assert len(meta(here / "run")["resumed"]) == len(KILLS)


def test_killed_at_random(whole, here):
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
def test_stopping_saves_and_says_how_to_go_on(whole, here, number, expected):
    stops = [
        (12 + 7, "step", "stopped at step 7; the same command goes on from there"),
        (1, "evaluate vae", "stopped at step 11"),  # the evaluation is finished, then one step is made
        (1, "save", "stopped at step 21"),
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


def test_stopping_at_once(whole, here):
    twice = signals(signal.SIGINT, signal.SIGINT, moment="evaluate vae", count=2)
    code, output = Command(VAE, here, twice).wait()
    assert code == 130 and "stopped at once; the same command goes on from the last checkpoint" in output
    assert "Traceback" not in output
    code, output = Command(VAE, here).wait()
    assert code == 0 and "continuing run at step 10" in output
    check_complete(here / "run", whole(VAE))


def test_a_signal_at_the_very_end_comes_too_late(whole, here):
    code, output = Command(VAE, here, signals(signal.SIGINT, moment="finish", count=1)).wait()
    assert code == 0, output
    check_complete(here / "run", whole(VAE))


def test_two_processes_on_one_folder(whole, here):
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


def test_a_replica_that_fails(whole, here):
    code, output = Command(FAILING, here, kill("evaluate vae", 2)).wait()
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


def test_the_report_of_a_failure_survives_a_kill_before_meta_json(whole, here):
    code, _ = Command(FAILING, here, kill("save", 1, after=True)).wait()
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
def test_a_full_disk(whole, here, moment, count):
    code, output = Command(TOY, here, functools.partial(full_disk, moment, count)).wait()
    assert code == 1 and "error: the disk is full" in output and "Traceback" not in output
    assert not list((here / "run").glob(".*.tmp"))
    code, output = Command(TOY, here).wait()
    assert code == 0, output
    check_complete(here / "run", whole(TOY))


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
    task = Toy({"name": "reinforce"})
    for steps, choice, expected in [(4999, "auto", False), (5000, "auto", True), (1, True, True), (9999, False, False)]:
        assert run.should_compile({"steps": steps, "compile": choice}, task) is expected


def test_without_a_compiler_there_is_no_compiling(here, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert execute(TOY + "compile=true") == 0
    assert "no compiler found that torch.compile could use" in capsys.readouterr().err
    assert meta(here / "run")["compiled"] is False


def test_the_compiler_is_the_one_that_torch_calls(monkeypatch):
    monkeypatch.setenv("CXX", "my-c++")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in ("my-c++", "gcc") else None)
    assert run.find_compiler(torch.device("cpu")) == "/bin/my-c++"
    assert run.find_compiler(torch.device("cuda")) == "/bin/gcc"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_a_compiled_run_goes_on_with_the_same_numbers(here, monkeypatch, capsys):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, backend, **options: compile(f, backend="aot_eager", **options))
    line = TOY.replace("relax", "reinforce") + "compile=true "
    assert execute(line) == 0
    assert re.search(r"compiled in \d+ s", capsys.readouterr().err) and meta(here / "run")["compiled"]
    (here / "run").rename(here / "whole")
    interrupt(monkeypatch, line)
    assert execute(line) == 0
    check_complete(here / "run", here / "whole")


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


def test_tensorboard_of_a_vae(whole):
    events = scalars(whole(VAE) / "tb" / label(0, 1e-3))
    assert set(events.Tags()["images"]) == {"reconstructions", "prior_samples"}
    (image,) = events.Images("reconstructions")
    assert (image.width, image.height, image.step) == (8 * 8, 2 * 8, 24)
    (image,) = events.Images("prior_samples")
    assert (image.width, image.height) == (8 * 8, 2 * 8)


def test_the_whole_bound_is_measured_when_asked_for(whole):
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
    replicas = Replicas(Toy({"name": "reinforce"}), [0, 1], [0.1])
    steps = replicas.advance(20)
    next(steps)
    asked.clear()
    for _ in steps:
        pass
    assert asked == []
