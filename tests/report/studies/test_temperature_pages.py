"""Tables and figures of the temperature study, from rows whose numbers are known."""

from pathlib import Path

import pytest

from relax_exp.report.runs import Run
from relax_exp.report.studies import temperature

TASK = {"name": "temperature", "problem": "cos", "categories": None, "draws": 1000, "scale": 1.0, "optimizer": "adam"}


def measured(name, temp=None, bias=0.2, **more):
    row = {"part": "gradient", "estimator": name, "bias": bias, "error": 0.01, "sd": 2.0, "rmse": 2.1, "cosine": 0.9}
    return row | ({} if temp is None else {"temperature": temp}) | more


def trained(name, step, seed, excess, schedule=None):
    row = {"part": "training", "estimator": name, "seed": seed, "step": step, "excess": excess, "p_best": 1 - excess}
    return row | ({} if schedule is None else {"schedule": schedule})


ROWS = [
    measured("concrete", 0.1, bias=0.02),  # twice its error
    measured("concrete", 1.0, bias=0.4),
    measured("rloo"),
    *(trained("concrete", step, seed, excess / step, "fixed 0.1")
      for step in (10, 20) for seed, excess in enumerate((1.0, 2.0, 9.0))),
    *(trained("exact", step, seed, 0.5 / step) for step in (10, 20) for seed in range(3)),
]  # fmt: skip


@pytest.fixture
def run():
    return Run(Path("study"), {"task": TASK, "seeds": [0, 1, 2], "lrs": [0.01]}, {}, ROWS)


def test_the_size_of_a_problem_is_its_own_unless_it_is_given(run):
    assert temperature.problem(run) == (4, "cos")
    run.config["task"] = TASK | {"categories": 7}
    assert temperature.problem(run) == (7, "cos")
    assert temperature.label(run) == "cos7"


def test_parts_are_told_apart(run):
    assert len(temperature.part(run, "gradient")) == 3 and len(temperature.part(run, "training")) == 12


def test_a_bias_within_three_errors_of_zero_is_a_limit(run):
    gradient, _ = temperature.tables(run)
    rows = {(row[0], row[1]): row[2] for row in gradient.rows}
    assert rows == {("concrete", "0.1"): "< 0.03", ("concrete", "1"): "0.4", ("rloo", ""): "0.2"}
    assert "Below temperature 1/(C-1) = 0.333" in gradient.note


def test_training_is_the_median_over_seeds_at_the_last_step(run):
    _, training = temperature.tables(run)
    rows = {(row[0], row[1]): row[2:] for row in training.rows}
    assert rows == {("concrete", "fixed 0.1"): ["0.1", "0.9"], ("exact", ""): ["0.025", "0.975"]}
    records = {record["estimator"]: record for record in training.records}
    assert records["concrete"]["seeds"] == 3 and records["concrete"]["step"] == 20
    assert "Median over 3 seeds" in training.note and "adam with rate 0.01" in training.note


def test_the_figures_show_every_estimator_once(run):
    figures = temperature.figures(run)
    assert set(figures) == {"tradeoff", "schedules"}
    labels = [text.get_text() for legend in figures["tradeoff"].legends for text in legend.get_texts()]
    assert [label for label in labels if label.startswith("Concrete")] == ["Concrete"]
    assert "RLOO (unbiased)" in labels
    assert len(figures["schedules"].axes) == 1  # one biased estimator, beside exact gradients


def test_ticks_between_powers_of_ten_are_plain_numbers():
    formatter = temperature.Plain(minor_thresholds=(1, 0.5))
    formatter.create_dummy_axis(minpos=1.0)
    formatter.axis.set_view_interval(1, 5)
    formatter.set_locs([2.0, 3.0])
    assert formatter(2.0) == "2"
