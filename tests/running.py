"""Commands to run in tests, and what a finished run must look like."""

from __future__ import annotations

import functools
import json
import shlex
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from processes import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._pytree import tree_leaves

from relax_exp.config import resolve as config
from relax_exp.config import yaml_files
from relax_exp.config.identity import label
from relax_exp.runs import run
from relax_exp.tasks.registry import TASKS
from relax_exp.training.replicas import Replicas

TOY = "task=toy estimator=relax steps=50 eval_every=20 task.variance_draws=20 'seeds=[0,1]' out=run "
VAE = (
    "task=vae task.dataset=digits estimator=relax task.latents=3 estimator.width=4 estimator.warmup=12 batch_size=5 "
    "task.variance_draws=12 task.bound_every=20 steps=24 eval_every=10 'seeds=[0,1]' out=run "
)
KEPT: list[tempfile.TemporaryDirectory] = []  # until the tests end


def resolve(line: str) -> dict:
    """The configuration of a command, without ``relax-exp`` in front."""
    overrides = shlex.split(line)
    with initialize_config_dir(str(yaml_files.CONFIGS), version_base="1.3"):
        return config.resolve(compose("config", overrides), overrides)


def execute(line: str) -> int:
    """The run of a command, in this process."""
    return run.execute(resolve(line))


def stop(line: str, step: int) -> None:
    """Execute a command and break off, with a checkpoint, where it has taken ``step`` steps."""

    class Stopped(Exception):
        pass

    def tick(self):
        if self.step == step:
            self._save()
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(run.Run, "_tick", tick)
        execute(line)


def beside_and_alone(task, lrs=(1e-3, 1e-2), steps=6, trainer=Replicas, relative=1e-8):
    """Train seeds 3 and 4 at two learning rates, and seed 4 at the first one alone, and compare the two.

    All numbers of the state must differ by no more than ``relative`` of the largest in their tensor.
    """
    together, alone = trainer(task, [3, 4], list(lrs)), trainer(task, [4], list(lrs[:1]))
    for replicas in (together, alone):
        assert len(list(replicas.advance(steps))) == steps
    for ours, theirs in zip(tree_leaves(together.state), tree_leaves(alone.state), strict=True):
        a, b = (x.double() for x in (ours[2:3], theirs))
        assert torch.equal(a.isnan(), b.isnan())
        scale = b.abs().nan_to_num().max().clamp(min=1e-300)
        assert ((a - b).nan_to_num().abs() <= relative * scale).all()
    return together, alone


@functools.cache
def whole(line: str) -> Path:
    """The folder of an uninterrupted run of the command, made once."""
    folder = tempfile.TemporaryDirectory()
    KEPT.append(folder)
    code, output = Command(line, Path(folder.name)).wait()
    assert code == 0, output
    return Path(folder.name) / "run"


def numbers(run: Path) -> list[str]:
    """The lines of metrics.jsonl without what the clock says, in their order and with the order of their keys."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({k: v for k, v in row.items() if not k.startswith("time/")}) for row in rows]


def meta(run: Path) -> dict:
    """meta.json."""
    return json.loads((run / "meta.json").read_text())


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
        of = {tag.split(", ")[0]: its for tag, its in shown.items()}  # "valid/elbo, first 1,000 images"
        for key in {key for row in mine for key in row} - {"step", "seed", "lr", "failed"}:
            expected = [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in mine if row.get(key) is not None]
            if len(mine) > 1 and [step for step, _ in expected] == [mine[-1]["step"]]:
                expected = []  # measured at the end alone: a curve of one point
            assert [(event.step, event.value) for event in of.get(key, [])] == expected, key
        times = [event.wall_time for event in shown["time/elapsed"]]
        assert times == sorted(times)
        # The hparams page, and the table as text, once.
        headline = TASKS[OmegaConf.load(path / "config.yaml").task.name].headline
        assert not [tag for tag in shown if tag.startswith("final/")]  # a chart of one point says nothing
        experiment = events.summary_metadata["_hparams_/experiment"].plugin_data.content.decode("latin-1")
        assert all(key in experiment for key in headline if isinstance(mine[-1].get(key), float))
        if (seed, lr) == (rows[0]["seed"], rows[0]["lr"]):
            (text,) = events.Tensors("table/text_summary")
            assert "| status" in text.tensor_proto.string_val[0].decode()
        else:
            assert "table/text_summary" not in events.Tags()["tensors"]
        assert Counter(tag for tag in events.summary_metadata if tag.startswith("_hparams_")).total() == 3
