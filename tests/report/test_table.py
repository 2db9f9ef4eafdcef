"""Tables from synthetic run folders: numbers against hand-computed ones, grouping, refusals, what is missing."""

import json
import math

import numpy as np
import pytest
from folders import cells_of, configuration, records, tables, text_row, toy_run, vae_run, write_run

from relax_exp.cli.status import status
from relax_exp.config.identity import MACHINE_KEYS
from relax_exp.errors import ReportError
from relax_exp.report.figures.curves import figure1, figures
from relax_exp.report.formats import EMPTY
from relax_exp.report.groups import APART
from relax_exp.report.runs import read_run
from relax_exp.report.statistics import duration, interval
from relax_exp.report.tables import run_table

# Numbers


def test_t_interval():
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(4.302652730 / math.sqrt(3))  # t(2, .975) = 4.3027, s = 1
    assert interval(np.array([1.0, np.nan])) == (1.0, None)
    mean, half = interval(np.array([]))
    assert math.isnan(mean) and half is None


def test_toy_table(tmp_path):
    toy_run(tmp_path / "a")
    cells = cells_of(tmp_path)
    (record,) = records(cells)
    assert (record["task"], record["estimator"], record["lr"]) == ("toy t=0.499", "relax", "0.01")
    assert (record["steps"], record["seeds"], record["status"]) == ("100", "0 1 2", "done")
    assert float(record["excess"]) == pytest.approx(2e-4)
    assert float(record["excess ±"]) == pytest.approx(1e-4 * 4.30265273 / math.sqrt(3))
    assert float(record["median theta"]) == pytest.approx(0.04)
    assert record["seeds at the optimum"] == "2"
    assert float(record["mean log-variance"]) == pytest.approx(-5.55)  # mean of -4 - s - step / 100
    assert float(record["time/elapsed"]) == 300
    row = text_row(tables(tmp_path), "relax")
    assert row["excess loss × 10⁴"] == "2.00 ± 2.48"
    assert (row["median θ"], row["seeds at optimum"], row["seeds"]) == ("0.040", "2 of 3", "3")
    assert row["wall time"] == "5.0 min"
    assert run_table(tmp_path / "a") in tables(tmp_path)


def test_optimum_is_one_where_t_is_above_a_half(tmp_path):
    toy_run(tmp_path / "a", t=0.6)
    assert records(cells_of(tmp_path))[0]["seeds at the optimum"] == "0"


def test_one_seed_has_no_interval(tmp_path):
    toy_run(tmp_path / "a", seeds=(0,))
    assert text_row(tables(tmp_path), "relax")["excess loss × 10⁴"] == "1.00"
    assert records(cells_of(tmp_path))[0]["excess ±"] == ""


def test_vae_table_names_the_validation_images(tmp_path):
    vae_run(tmp_path / "full")
    vae_run(tmp_path / "part", "rebar", full=False)
    markdown = tables(tmp_path)
    row = text_row(markdown, "relax")
    assert row["train ELBO"].startswith("-109.50 ± 6.35")  # t(1, .975) = 12.7062, s = .7071
    assert row["valid ELBO, all"].startswith("-110.50 ±")
    assert row["valid 100-sample bound, all"].startswith("-105.50 ±")
    assert row["log-variance"] == "-6.00 ± 0.00"
    row = text_row(markdown, "rebar")
    assert row["valid 100-sample bound, all"] == EMPTY
    assert row["valid 100-sample bound, first 1,000"].startswith("-106.50")
    assert "digits, one linear layer" in markdown


def test_null_values_show_as_missing(tmp_path):
    path = vae_run(tmp_path / "a")
    rows = read_run(path).rows
    for row in rows:
        row["grad/log_variance"] = None
        if row["seed"] == 1:
            row["train/elbo"] = None
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = text_row(tables(path), "relax")
    assert row["log-variance"] == "–"
    assert row["train ELBO"] == "-110.00 (1 of 2 seeds)"
    assert len(figures(cells_of(path))["vae_digits_linear1"].axes[0].lines) == 1


def test_no_variance_is_minus_infinity_and_drawn_as_a_share(tmp_path):
    path = toy_run(tmp_path / "a", "exact")
    rows = [row | {"grad/log_variance": -87.34} for row in read_run(path).rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert text_row(tables(path), "exact")["mean log-variance"] == "−∞"
    _, centre, *_ = figure1(cells_of(path)).axes
    (foot,) = centre.child_axes
    assert not centre.lines and set(foot.lines[0].get_ydata()) == {1.0}


def test_unknown_tasks_get_a_plain_table_and_figure(tmp_path):
    rows = [{"step": s, "seed": 0, "lr": 0.1, "loss": 2.0, "grad/log_variance": -1.0} for s in (50, 100)]
    write_run(tmp_path / "a", configuration({"name": "knapsack"}, "mine", [0], [0.1]), rows)
    assert text_row(tables(tmp_path), "knapsack", "mine")["loss"] == "2.00"
    assert list(figures(cells_of(tmp_path))) == ["knapsack"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (119, "119 s"), (300, "5.0 min"), (7200, "2.0 h"), (math.nan, "–")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


# Grouping


def test_seeds_of_several_runs_share_a_cell_and_rates_do_not(tmp_path):
    toy_run(tmp_path / "a", seeds=(0, 1), device="cpu", threads=1)
    toy_run(tmp_path / "b", seeds=(2, 3), device="cuda", threads=4, lrs=(0.01, 0.1))
    cells = cells_of(tmp_path)
    assert [(c.lr, [r.seed for r in c.replicas]) for c in cells] == [(0.01, [0, 1, 2, 3]), (0.1, [2, 3])]
    assert [run.label for run in cells[0].runs] == [f"{tmp_path.name}/a", f"{tmp_path.name}/b"]


def test_labels_name_what_differs(tmp_path):
    toy_run(tmp_path / "a", {"name": "relax", "surrogate": "network", "depth": 1})
    toy_run(tmp_path / "b", {"name": "relax", "surrogate": "relaxed", "depth": 1})
    toy_run(tmp_path / "c", "rebar")
    toy_run(tmp_path / "d", {"name": "relax", "surrogate": "network", "depth": 1}, t=0.45)
    labels = [(c.task, c.estimator) for c in cells_of(tmp_path)]
    assert labels == [
        ("toy t=0.45", "relax"),
        ("toy t=0.499", "rebar"),
        ("toy t=0.499", "relax (surrogate=network)"),
        ("toy t=0.499", "relax (surrogate=relaxed)"),
    ]


def test_refuses_to_mix_configurations_and_names_them(tmp_path):
    a = toy_run(tmp_path / "a", seeds=(0, 1))
    b = toy_run(tmp_path / "b", seeds=(2, 3), batch_size=200)
    with pytest.raises(ReportError) as error:
        cells_of(tmp_path)
    assert str(a) in str(error.value) and str(b) in str(error.value)
    assert "batch_size: 1, 200" in str(error.value) and "--by batch_size" in str(error.value)
    assert [c.task for c in cells_of(tmp_path, by=["batch_size"])] == [
        "toy t=0.499, batch_size=1",
        "toy t=0.499, batch_size=200",
    ]
    with pytest.raises(ReportError, match="'step'"):
        cells_of(tmp_path, by=["step"])


def test_refuses_a_seed_that_is_there_twice(tmp_path):
    toy_run(tmp_path / "a", seeds=(0, 1))
    toy_run(tmp_path / "b", seeds=(1, 2))
    with pytest.raises(ReportError, match="seed 1 is there twice"):
        cells_of(tmp_path)


def test_only_what_changes_no_number_is_ignored():
    assert {*APART} - {*MACHINE_KEYS} == {"seed", "seeds", "lr", "lrs", "track"}


# What did not finish


def test_failed_replicas_are_marked_and_left_out(tmp_path):
    replicas = [
        {"seed": 0, "lr": 0.01, "status": "done", "reason": None},
        {"seed": 1, "lr": 0.01, "status": "done", "reason": None},
        {"seed": 2, "lr": 0.01, "status": "failed", "reason": "loss not finite at step 50"},
    ]
    toy_run(tmp_path / "a", state="failed", replicas=replicas)
    markdown = tables(tmp_path)
    row = text_row(markdown, "relax")
    assert (row["seeds"], row["status"]) == ("2", "2 of 3 done; seed 2 failed")
    assert row["excess loss × 10⁴"].startswith("1.50 ±")
    assert "seed 2: loss not finite at step 50" in markdown
    assert "loss not finite at step 50" in status([tmp_path])[0]


def test_all_failed_has_no_numbers_and_no_figure(tmp_path):
    toy_run(tmp_path / "a", state="failed")
    row = text_row(tables(tmp_path), "relax")
    assert (row["seeds"], row["excess loss × 10⁴"], row["median θ"], row["status"]) == ("0", "–", "–", "failed")
    assert figures(cells_of(tmp_path)) == {}


def test_unfinished_runs_are_marked(tmp_path):
    toy_run(tmp_path / "a", state="running", upto=50)
    cells = cells_of(tmp_path)
    assert cells[0].status == "running at 50 of 100"
    assert text_row(tables(tmp_path), "relax")["steps"] == "50"
    labels = [text.get_text() for text in figure1(cells).legends[0].get_texts()]
    assert any(label.startswith("RELAX, so far ") for label in labels)


def test_finished_and_unfinished_seeds_are_not_mixed(tmp_path):
    toy_run(tmp_path / "a", seeds=(0, 1))
    toy_run(tmp_path / "b", seeds=(2, 3), state="interrupted", upto=30)
    (cell,) = cells_of(tmp_path)
    assert [r.seed for r in cell.counted] == [0, 1]
    assert cell.status == "2 of 4 done; seeds 2, 3 interrupted at 30 of 100"
    assert cell.steps == 100


def test_unfinished_seeds_are_compared_at_a_common_step(tmp_path):
    toy_run(tmp_path / "a", seeds=(0,), state="running", upto=50)
    toy_run(tmp_path / "b", seeds=(1,), state="running", upto=30)
    (cell,) = cells_of(tmp_path)
    steps, values = cell.series("excess")
    assert cell.steps == steps[-1] == 30 and np.isfinite(values).all()


def test_a_run_before_its_first_evaluation(tmp_path):
    toy_run(tmp_path / "a", state="running", upto=1)
    row = text_row(tables(tmp_path), "relax")
    assert (row["steps"], row["excess loss × 10⁴"], row["wall time"]) == ("0", "–", "–")
    assert figures(cells_of(tmp_path)) == {}
