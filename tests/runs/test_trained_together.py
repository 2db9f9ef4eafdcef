"""Runs of a sweep that differ in their data set alone are trained together on a GPU; here one is pretended."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from running import meta

from relax_exp import data
from relax_exp.cli.main import main
from relax_exp.cli.sweep import alike
from relax_exp.data import DataError, ImageData
from relax_exp.numerics.random_streams import stream
from relax_exp.runs import run
from relax_exp.runs.folder import status

LINE = (
    "task=vae estimator=rebar task.latents=3 batch_size=20 task.variance_draws=4 task.bound_every=20 steps=40 "
    "eval_every=20 seeds=[0,1]"
)


BOTH = f"-m {LINE} task.dataset=mnist,omniglot"


def load(name: str, root=None, binarize: str = "static") -> ImageData:
    """Random images, in the place of `relax_exp.data.load`: more of one data set than of the other."""
    count, share = {"mnist": (200, 0.1), "omniglot": (130, 0.3)}[name]
    rows = (torch.rand((count, 784), generator=stream(0, name)) < share).to(torch.uint8)
    return ImageData(name, rows, rows[:30], rows[:20], rows.double().mean(0), (28, 28), binarize)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a command in a folder of its own; returns the folders of its runs by data set."""
    monkeypatch.setattr(data, "load", load)

    def call(line: str, folder: str, together: bool = True, code: int = 0) -> dict[str, Path]:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setattr(run, "trains_together", lambda device: together)
        monkeypatch.setattr(sys, "argv", ["relax-exp", *shlex.split(line)])
        assert main() == code
        runs = (tmp_path / folder / "runs").glob("*/*")
        return {yaml.safe_load((it / "config.yaml").read_text())["task"]["dataset"]: it for it in runs}

    return call


def rows(path: Path) -> list[dict]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def assert_same(folders: dict[str, Path], others: dict[str, Path]) -> None:
    assert list(folders) == list(others) and len(folders) == 2
    for name, path in folders.items():
        assert path.name == others[name].name and status(path) == "done"
        found, expected = rows(path), rows(others[name])
        assert [list(row) for row in found] == [list(row) for row in expected] and len(found) == 4
        assert found == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in expected]
        names = [sorted(it.name for it in folder.iterdir()) for folder in (path, others[name])]
        assert names[0] == names[1]


def test_each_leaves_the_folder_of_the_run_alone(sweep, capfd):
    apart = sweep(BOTH, "apart", together=False)
    assert "trained together" not in capfd.readouterr().err
    together = sweep(BOTH, "together")
    said = capfd.readouterr().err
    assert "these 2 runs are trained together" in said and "omniglot, step 20: " in said
    assert_same(together, apart)
    for name, path in together.items():
        assert f"task.dataset={name}" in meta(path)["command"] and len(meta(path)["trained_together"]) == 2
        assert "trained_together" not in meta(apart[name])
        sizes = [(folder / "checkpoint.pt").stat().st_size for folder in (path, apart[name])]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_a_stopped_pair_goes_on_together_and_one_of_it_alone(sweep, monkeypatch, capfd):
    whole = sweep(BOTH, "whole")

    def tick(self):
        if self.step == 31:
            self._save()
            raise KeyboardInterrupt("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_tick", tick)
        for folder in ("pair", "one"):
            sweep(BOTH, folder, code=130)
    capfd.readouterr()
    assert_same(sweep(BOTH, "pair"), whole)
    assert capfd.readouterr().err.count("continuing runs") == 2
    sweep(f"{LINE} task.dataset=omniglot", "one")  # of the two, the later one alone
    found = sweep(BOTH, "one")
    assert "trained together" not in capfd.readouterr().err
    assert all(len(meta(path)["trained_together"]) == 2 for path in found.values())  # its time was that of both
    assert_same(found, whole)


def test_one_in_its_warm_up_is_not_joined_with_a_fresh_one(sweep, monkeypatch, capfd):
    line = LINE.replace("rebar", "relax") + " estimator.warmup=30 estimator.width=4 estimator.depth=1 task.dataset="
    apart = sweep(f"-m {line}mnist,omniglot", "apart", together=False)

    def tick(self):
        if int(self.replicas.state.tuning_t[0]) == 10:
            self._save()
            raise KeyboardInterrupt("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_tick", tick)
        sweep(f"{line}mnist", "warm", code=130)
    found = sweep(f"-m {line}mnist,omniglot", "warm")
    assert "trained together" not in capfd.readouterr().err
    assert_same(found, apart)


def test_what_hinders_one_leaves_the_other(sweep, monkeypatch, capfd):
    def no_omniglot(name: str, *given):
        if name == "omniglot":
            raise DataError("no omniglot here")
        return load(name, *given)

    monkeypatch.setattr(data, "load", no_omniglot)
    (mnist,) = sweep(BOTH, "run", code=1).items()
    assert mnist[0] == "mnist" and status(mnist[1]) == "done"
    assert "is left for later: no omniglot here" in capfd.readouterr().err


def test_which_runs_go_together():
    def config(dataset: str, **changes) -> tuple[dict, str]:
        task = {"name": "vae", "dataset": dataset}
        run = {"task": task, "estimator": {"name": "relax"}, "track": {}, "out": None, "seeds": [0]}
        return run | changes, dataset

    def found(*runs) -> list[list[str]]:
        return [[command for _, command in later] for later in alike(list(runs)).values()]

    mnist, omniglot, digits = map(config, ("mnist", "omniglot", "digits"))
    assert found(mnist, digits, omniglot) == [["omniglot"], [], []]
    assert found(mnist, config("omniglot", steps=7)) == [[], []]
    assert found(config("mnist", track={"rebar": {}}), config("omniglot", track={"rebar": {}})) == []
    assert found(({"task": {"name": "toy"}, "track": {}}, "toy")) == []
