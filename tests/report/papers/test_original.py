"""The comparison with the original code: its table, and the first epoch itself."""

import importlib.util
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from folders import cells_of, configuration, write_run

from relax_exp import data
from relax_exp.report.figures.curves import curves
from relax_exp.report.papers.original import WITHIN, original
from relax_exp.report.papers.published import published

RELAX = {"name": "relax", "noise": "tied", "surrogate": "relaxed", "depth": 2, "width": 200, "activation": "relu"}
RELAX |= {"lr_scale": 1.0, "weight_decay": 1e-3, "warmup": 1000}


def run(path, bounds, lr=1e-3, steps=4166, model="linear1", seed=0, **options):
    task = {"name": "vae", "dataset": "mnist", "model": model, "first_epoch": "file", **options}
    config = configuration(task, {"name": "relax"}, (seed,), (lr,), steps) | {"batch_size": 24, "eval_every": 2083}
    rows = [
        {"step": 2083 * i, "seed": seed, "lr": lr, "train/elbo": bound, "time/elapsed": 1.0}
        for i, bound in enumerate(bounds, 1)
    ]
    return write_run(path, config, rows)


def test_an_epoch_that_is_off_by_more_than_half_a_nat_is_found(tmp_path):
    run(tmp_path / "a", [-156.81, -139.95])
    table = original(cells_of(tmp_path))
    assert [(row[3], row[5], row[7], row[8]) for row in table.rows] == [
        ("0", "-156.71", "-0.10", "yes"),
        ("1", "-139.41", "-0.54", "no"),
    ]


def test_a_run_with_other_settings_is_not_compared(tmp_path):
    for name, hidden in (("a", 200), ("b", 784)):
        run(tmp_path / name, [-160.5, -142.0], lr=3e-4, model="nonlinear", decoder_hidden=hidden)
    assert original(cells_of(tmp_path / "a")) is None
    assert len(original(cells_of(tmp_path / "b")).rows) == 2


@pytest.mark.parametrize("other", [{"lr": 3e-4}, {"steps": 50_000}, {"model": "linear2"}, {"first_epoch": "shuffled"}])
def test_other_runs_are_not_compared(tmp_path, other):
    run(tmp_path / "a", [-156.81, -139.95], **other)
    assert original(cells_of(tmp_path)) is None


@pytest.mark.skipif(not os.environ.get("RELAX_EXP_TEST_DATA"), reason="needs MNIST in $RELAX_EXP_TEST_DATA")
def test_epoch_0_is_that_of_the_original_code():
    from relax_exp.runs.build import make_task
    from relax_exp.training.replicas import Replicas

    mnist = data.load("mnist", os.environ["RELAX_EXP_TEST_DATA"])
    task = make_task("vae", RELAX, mnist, score_term="kept")
    replicas = Replicas(task, [0], [1e-3], compiled=True)
    for _ in replicas.warm_up(task.warmup):
        pass
    for _ in replicas.advance(2083):
        pass
    known = published()["vae"]["original"][0]
    assert (known["model"], known["lr"]) == ("linear1", 1e-3)
    (means,) = replicas.means()
    assert abs(means["train/elbo"] - known["epochs"][0]) < WITHIN


def test_make_original_ends_well_where_all_epochs_of_all_seeds_agree(tmp_path, monkeypatch):
    file = Path(__file__).parents[3] / "scripts" / "original.py"
    spec = importlib.util.spec_from_file_location("make_original", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    bounds = ([-160.5, -142.0], [-160.3, -142.2], [-160.4, -142.1])
    paths = [
        run(tmp_path / str(seed), of, 3e-4, model="nonlinear", seed=seed, decoder_hidden=784)
        for seed, of in enumerate(bounds)
    ]
    runs = [SimpleNamespace(path=path, config={"steps": 4166, "eval_every": 2083}) for path in paths]
    monkeypatch.setattr(script, "planned", lambda *_: runs)
    monkeypatch.setattr(script.subprocess, "run", lambda _: SimpleNamespace(returncode=0))
    assert script.main() == 0
    shutil.rmtree(paths[2])
    run(paths[2], [-160.4], 3e-4, model="nonlinear", seed=2, decoder_hidden=784)  # its second epoch is missing
    assert script.main() == 1


@pytest.mark.parametrize("bounds", [[-156.81], [-156.81, -139.95]])
def test_the_figure_shows_the_epochs_of_the_original_code_as_far_as_ours_go(tmp_path, bounds):
    run(tmp_path / "a", bounds)
    fig = curves(cells_of(tmp_path))
    (points,) = [line for line in fig.axes[0].lines if line.get_label() == "_published"]
    assert points.get_ydata().tolist() == [-156.71, -139.41][: len(bounds)]
    assert fig.legends[0].get_texts()[-1].get_text() == "original code"
