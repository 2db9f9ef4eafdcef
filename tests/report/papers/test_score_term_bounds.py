"""The score term dropped against kept, from synthetic runs."""

import numpy as np
import pytest
from folders import cells_of, configuration, write_run

from relax_exp.report.papers.score_term import figure, score_term


def run(path, term, above, seeds=(0, 1), estimator="rebar", lr=1e-3, lrs=None, without=None, **more):
    """A run whose training bound at seed s is ``above[s]`` over -120, and whose validation bound is s under it."""
    task = {"name": "vae", "dataset": "mnist", "model": "linear1", "score_term": term}
    config = configuration(task, estimator, seeds, lrs or (lr,), 20_000) | more
    rows = [
        {"step": step, "seed": seed, "lr": lr, "train/elbo": a - 120, "valid/elbo": -120 if term == "kept" else a - 120}
        for step in (10_000, 20_000)
        for seed, a in zip(seeds, above, strict=True)
        for lr in config["lrs"]
    ]
    rows = [{k: v for k, v in row.items() if k != without} for row in rows]
    return write_run(path, config, rows)


def test_differences_of_runs_that_differ_in_the_term_alone(tmp_path):
    run(tmp_path / "a", "dropped", (1.0, 1.2))
    run(tmp_path / "b", "kept", (0.0, 0.2))
    run(tmp_path / "c", "dropped", (1.0, 1.0), estimator="disarm")  # alone
    run(tmp_path / "d", "kept", (1.0, 1.0), estimator="rloo", lr=1e-4)  # at another rate
    run(tmp_path / "e", "dropped", (1.0, 1.0), estimator="rloo")
    table = score_term(cells_of(tmp_path))
    assert table.rows == [
        ["mnist linear1", "rebar", "0.001", "20k", "2", "+1.00 ± 0.00", "better", "+1.10 ± 1.27", "undecided"],
    ]
    assert table.records[0]["training verdict"] == "better"


def test_what_they_measure_besides_and_other_rates_hinder_no_pair(tmp_path):
    run(tmp_path / "a", "dropped", (1.0, 1.2), eval_every=5_000, lrs=(1e-3, 1e-4))
    run(tmp_path / "b", "kept", (0.0, 0.2), without="valid/elbo")
    (row,) = score_term(cells_of(tmp_path)).rows
    assert row[2:] == ["0.001", "20k", "2", "+1.00 ± 0.00", "better", "–", "–"]


def test_the_figure_has_a_row_for_each_task_and_a_line_for_each_pair(tmp_path):
    for name, above in {"rebar": (1.0, 1.2, 1.1), "rloo": (0.5, 0.5, 0.5)}.items():
        run(tmp_path / f"{name}-dropped", "dropped", above, (0, 1, 2), name)
        run(tmp_path / f"{name}-kept", "kept", (0.0, 0.2, 0.1), (0, 1, 2), name)
    training, validation = figure(cells_of(tmp_path)).axes
    drawn = {line.get_label(): line.get_ydata() for line in training.lines if not line.get_label().startswith("_")}
    assert set(drawn) == {"REBAR", "RLOO"}
    np.testing.assert_allclose(drawn["REBAR"], 1.0)
    np.testing.assert_allclose(drawn["RLOO"], 0.4)
    assert (training.get_title(), validation.get_title()) == ("MNIST, one linear layer",) * 2
    assert validation.get_ylabel().startswith("validation bound")


@pytest.mark.parametrize("seeds", [(0,), (2, 3)])
def test_pairs_of_one_seed_or_none_say_nothing(tmp_path, seeds):
    run(tmp_path / "a", "dropped", (1.0, 1.0))
    run(tmp_path / "b", "kept", [0.0] * len(seeds), seeds)
    assert score_term(cells_of(tmp_path)) is None
    assert figure(cells_of(tmp_path)) is None
