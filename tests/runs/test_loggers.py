"""What is printed while a run goes on."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from relax_exp.runs.loggers import JOB, Console, TensorBoard


def test_lines_of_jobs_that_run_at_once_name_their_job(monkeypatch, capfd):
    console = Console(10, 0, ("loss",))
    console.rows([{"step": 5, "loss": 1.5}])
    monkeypatch.setenv(JOB, "3")
    console.rows([{"step": 10, "loss": 0.5}])
    console.close()
    assert capfd.readouterr().err.splitlines() == ["step 5: loss 1.5", "[job 3] step 10: loss 0.5"]


def row(step, **more):
    return {"step": step, "seed": 0, "lr": 0.1, "time/elapsed": float(step), "valid/elbo": -step, **more}


def shown(folder):
    (path,) = folder.iterdir()
    events = EventAccumulator(str(path), size_guidance={"images": 0})
    events.Reload()
    return events


def test_lines_and_curves_say_of_which_images_a_bound_is(tmp_path, capfd):
    parts = {"valid/elbo": "first 1,000 images"}
    console = Console(10, 0, ("valid/elbo",))
    console.rows([row(5)], parts)
    console.close()
    assert capfd.readouterr().err.strip() == "step 5: valid/elbo (first 1,000 images) -5"
    board = TensorBoard(tmp_path, [(0, 0.1)], [], parts)
    board.add([row(5)])
    board.finish((0, 0.1), {"estimator": "relax"}, ["valid/elbo", "valid/elbo_full"], "table", 5)
    board.close()
    assert "valid/elbo, first 1,000 images" in shown(tmp_path).Tags()["scalars"]


def test_what_is_measured_at_the_end_alone_is_no_chart_of_one_point(tmp_path):
    board = TensorBoard(tmp_path, [(0, 0.1)], [])
    board.add([row(5)])
    board.add([row(10, **{"valid/elbo_full": -3.0})], last=True)
    board.close()
    tags = shown(tmp_path).Tags()["scalars"]
    assert "valid/elbo" in tags and "valid/elbo_full" not in tags


@pytest.mark.parametrize("evaluated", [5, 10])
def test_pictures_of_earlier_evaluations_outlive_an_interruption(tmp_path, evaluated):
    picture = {"draws": torch.zeros(8, 1, 2, 2)}
    board = TensorBoard(tmp_path, [(0, 0.1)], [])
    for step in (5, 10):
        board.add([row(step)])
        board.images((0, 0.1), picture, step)
    board.close()
    again = TensorBoard(tmp_path, [(0, 0.1)], [row(step) for step in (5, 10) if step <= evaluated])
    again.add([row(15)])
    again.images((0, 0.1), picture, 15)
    again.close()
    events = shown(tmp_path)
    steps = [step for step in (5, 10) if step <= evaluated]
    assert [image.step for image in events.Images("draws")] == [*steps, 15]
    assert [scalar.step for scalar in events.Scalars("valid/elbo")] == [*steps, 15]
