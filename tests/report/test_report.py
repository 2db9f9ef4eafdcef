"""Reports from synthetic run folders: numbers against hand-computed ones, grouping, refusals, figures, command."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import yaml

from relax_exp import estimators
from relax_exp.config import MACHINE_KEYS
from relax_exp.report.cells import NOT_CONFIGURATION, best, make_cells
from relax_exp.report.cli import load, main, report, status, tables
from relax_exp.report.columns import duration, interval
from relax_exp.report.figures import curves, figure1, figures
from relax_exp.report.read import ReportError, find_runs, read_run, series
from relax_exp.report.style import STYLES, style
from relax_exp.report.table import run_table, to_csv

BEST_LOSS = 0.499**2


def write_run(path, config, rows, state="done", replicas=None, **meta):
    """A run folder as the runner leaves it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    grid = [{"seed": s, "lr": lr, "status": state, "reason": None} for s in config["seeds"] for lr in config["lrs"]]
    meta = {"status": state, "replicas": replicas or grid, "command": f"relax-exp out={path.name}", **meta}
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def configuration(task, estimator, seeds, lrs=(0.01,), steps=100, **more):
    return {
        "task": task,
        "estimator": {"name": estimator} if isinstance(estimator, str) else estimator,
        "steps": steps,
        "seeds": list(seeds),
        "lrs": list(lrs),
        "batch_size": 1,
        "eval_every": 10,
        "out": None,
        **more,
    }


def toy_run(path, estimator="relax", seeds=(0, 1, 2), t=0.499, excess=lambda s: 1e-4 * (s + 1), upto=None, **more):
    """A toy run whose replica s ends at `excess(s)`, with curves.json where the estimator has a relaxation."""
    meta = {key: more.pop(key) for key in ("state", "replicas", "git") if key in more}
    task = {"name": "toy", "t": t, "latents": 1, "freeze": more.pop("freeze", False)}
    config = configuration(task, estimator, seeds, **more)
    last = upto or config["steps"]
    rows = [
        {
            "step": step,
            "seed": seed,
            "lr": lr,
            "loss": BEST_LOSS + excess(seed) * last / step,
            "excess": excess(seed) * last / step,
            "theta": [0.02 * (seed + 1)] if seed < 2 else 0.3,
            "grad/log_variance": -4.0 - seed - step / 100,
            "time/elapsed": 3.0 * step,
        }
        for step in range(10, last + 1, 10)
        for seed in seeds
        for lr in config["lrs"]
    ]
    write_run(path, config, rows, **meta)
    name = config["estimator"]["name"]
    u = np.linspace(0.01, 0.99, 201)
    c = {f"seed-{s}_lr-{lr:g}": ((u - t) ** 2 + 0.001 * s).tolist() for s in seeds for lr in config["lrs"]}
    relaxation = c if name in ("relax", "rebar") else {}
    content = {"u": u.tolist(), "theta": 0.5, "f": [t**2, (1 - t) ** 2], "relaxation": relaxation}
    (path / "curves.json").write_text(json.dumps(content))
    return path


def vae_run(path, estimator="relax", seeds=(0, 1), lrs=(1e-3,), level=-110.0, full=True, points=30, **more):
    """A VAE run; the train ELBO of replica s at rate lr ends at level + s - 1000 |lr - 1e-3|."""
    meta = {key: more.pop(key) for key in ("state", "replicas") if key in more}
    task = {"name": "vae", "dataset": "digits", "model": "linear1", "latents": 200}
    config = configuration(task, estimator, seeds, lrs, steps=10 * points, **more)
    rows = []
    for step in range(10, 10 * points + 1, 10):
        for seed in seeds:
            for lr in lrs:
                elbo = level + seed - 1000 * abs(lr - 1e-3) - 100 * (10 * points / step - 1)
                last = full and step == 10 * points
                values = {"train/elbo": elbo, "valid/elbo": elbo - 2, "valid/bound100": elbo + 3}
                values |= {"valid/elbo_full": elbo - 1, "valid/bound100_full": elbo + 4} if last else {}
                values |= {"grad/log_variance": -6.0 if step > 20 else None, "time/elapsed": 1.0 * step}
                rows.append({"step": step, "seed": seed, "lr": lr, **values})
    return write_run(path, config, rows, **meta)


def cells_of(*paths, by=()):
    return make_cells(find_runs(paths), by)


def records(cells):
    return list(csv.DictReader(to_csv(cells).splitlines()))


def text_row(markdown, *labels):
    """The fields of the table row that has these labels, by header."""
    lines = [[field.strip() for field in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]
    header = next(line for line in lines if line[0] == "task")
    (row,) = [line for line in lines if set(labels) <= set(line)]
    return dict(zip(header, row, strict=True))


# Reading


def test_finds_runs_once_wherever_the_path_points(tmp_path):
    a = toy_run(tmp_path / "runs" / "toy" / "a")
    b = toy_run(tmp_path / "runs" / "toy" / "b", "rebar")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "config.yaml").write_text("no: run")
    runs = find_runs([tmp_path, a, tmp_path / "runs"])
    assert [run.path for run in runs] == [a, b]
    assert [run.estimator for run in runs] == ["relax", "rebar"]
    with pytest.raises(ReportError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_torn_last_line_is_left_out_and_damage_is_named(tmp_path):
    path = toy_run(tmp_path / "a")
    whole = read_run(path).rows
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 110, "seed": 0, "lr"')
    assert read_run(path).rows == whole
    (path / "metrics.jsonl").write_text("{torn\n" + json.dumps(whole[0]) + "\n")
    with pytest.raises(ReportError, match=r"metrics\.jsonl: line 1 is damaged"):
        read_run(path)
    (path / "metrics.jsonl").unlink()
    assert read_run(path).rows == []
    (path / "meta.json").write_text('{"status"')
    with pytest.raises(ReportError, match=r"cannot read .*meta\.json"):
        read_run(path)
    (path / "config.yaml").write_text("estimator: {name: relax}")
    with pytest.raises(ReportError, match=r"cannot read .*config\.yaml"):
        read_run(path)


def test_series_has_nan_for_null_and_missing(tmp_path):
    rows = [
        {"step": 10, "seed": 0, "lr": 0.01, "x": 1.0},
        {"step": 10, "seed": 1, "lr": 0.01, "x": None},
        {"step": 20, "seed": 0, "lr": 0.01, "x": [2.0, 4.0]},
    ]
    task = {"name": "toy", "t": 0.4}
    run = read_run(write_run(tmp_path / "a", configuration(task, "relax", [0, 1]), rows))
    steps, values = series(run.replicas(), "x")
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(values, [[1, np.nan], [3, np.nan]])
    assert series(run.replicas(), "x", until=10)[1].shape == (1, 2)
    assert series([], "x")[1].shape == (0, 0)


def test_replicas_without_meta_entries_are_the_grid(tmp_path):
    path = toy_run(tmp_path / "a", seeds=(3, 4), lrs=(0.1, 0.2))
    (path / "meta.json").write_text(json.dumps({"status": "interrupted"}))
    replicas = read_run(path).replicas()
    assert [(r.seed, r.lr, r.status) for r in replicas] == [(s, lr, "interrupted") for s in (3, 4) for lr in (0.1, 0.2)]
    assert all(r.last_step == 100 for r in replicas)


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
    row = text_row(tables([tmp_path]), "relax")
    assert row["excess loss × 10⁴"] == "2.00 ± 2.48"
    assert (row["median θ"], row["seeds at optimum"], row["seeds"]) == ("0.040", "2 of 3", "3")
    assert row["wall time"] == "5.0 min"
    assert run_table(tmp_path / "a") in tables([tmp_path])


def test_optimum_is_one_where_t_is_above_a_half(tmp_path):
    toy_run(tmp_path / "a", t=0.6)
    assert records(cells_of(tmp_path))[0]["seeds at the optimum"] == "0"


def test_one_seed_has_no_interval(tmp_path):
    toy_run(tmp_path / "a", seeds=(0,))
    assert text_row(tables([tmp_path]), "relax")["excess loss × 10⁴"] == "1.00"
    assert records(cells_of(tmp_path))[0]["excess ±"] == ""


def test_vae_table_prefers_all_validation_images(tmp_path):
    vae_run(tmp_path / "full")
    vae_run(tmp_path / "part", "rebar", full=False)
    markdown = tables([tmp_path])
    row = text_row(markdown, "relax")
    assert row["train ELBO"].startswith("-109.50 ± 6.35")  # t(1, .975) = 12.7062, s = .7071
    assert row["valid ELBO"].startswith("-110.50 ±")
    assert row["valid 100-sample bound"].startswith("-105.50 ±") and "†" not in row["valid 100-sample bound"]
    assert row["log-variance"] == "-6.00 ± 0.00"
    row = text_row(markdown, "rebar")
    assert row["valid 100-sample bound"].startswith("-106.50") and row["valid 100-sample bound"].endswith("†")
    assert "digits linear1" in markdown


def test_null_values_show_as_missing(tmp_path):
    path = vae_run(tmp_path / "a")
    rows = read_run(path).rows
    for row in rows:
        row["grad/log_variance"] = None
        if row["seed"] == 1:
            row["train/elbo"] = None
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = text_row(tables([path]), "relax")
    assert row["log-variance"] == "–"
    assert row["train ELBO"] == "-110.00 (1 of 2 seeds)"
    assert len(figures(cells_of(path))["vae_digits_linear1"].axes[0].lines) == 1


def test_no_variance_is_minus_infinity_and_not_drawn(tmp_path):
    path = toy_run(tmp_path / "a", "exact")
    rows = [row | {"grad/log_variance": -87.34} for row in read_run(path).rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert text_row(tables([path]), "exact")["mean log-variance"] == "−∞"
    _, centre, *_ = figure1(cells_of(path)).axes
    assert len(centre.lines) == 0


def test_unknown_tasks_get_a_plain_table_and_figure(tmp_path):
    rows = [{"step": s, "seed": 0, "lr": 0.1, "loss": 2.0, "grad/log_variance": -1.0} for s in (50, 100)]
    write_run(tmp_path / "a", configuration({"name": "knapsack"}, "mine", [0], [0.1]), rows)
    assert text_row(tables([tmp_path]), "knapsack", "mine")["loss"] == "2.00"
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
    b = toy_run(tmp_path / "b", seeds=(2, 3), steps=200)
    with pytest.raises(ReportError) as error:
        cells_of(tmp_path)
    assert str(a) in str(error.value) and str(b) in str(error.value)
    assert "steps: 100, 200" in str(error.value) and "--by steps" in str(error.value)
    assert [c.task for c in cells_of(tmp_path, by=["steps"])] == [
        "toy t=0.499, steps=100",
        "toy t=0.499, steps=200",
    ]
    with pytest.raises(ReportError, match="'step'"):
        cells_of(tmp_path, by=["step"])


def test_refuses_a_seed_that_is_there_twice(tmp_path):
    toy_run(tmp_path / "a", seeds=(0, 1))
    toy_run(tmp_path / "b", seeds=(1, 2))
    with pytest.raises(ReportError, match="seed 1 is there twice"):
        cells_of(tmp_path)


def test_only_what_changes_no_number_is_ignored():
    assert set(MACHINE_KEYS) <= set(NOT_CONFIGURATION)


# What did not finish


def test_failed_replicas_are_marked_and_left_out(tmp_path):
    replicas = [
        {"seed": 0, "lr": 0.01, "status": "done", "reason": None},
        {"seed": 1, "lr": 0.01, "status": "done", "reason": None},
        {"seed": 2, "lr": 0.01, "status": "failed", "reason": "loss not finite at step 50"},
    ]
    toy_run(tmp_path / "a", state="failed", replicas=replicas)
    markdown = tables([tmp_path])
    row = text_row(markdown, "relax")
    assert (row["seeds"], row["status"]) == ("2", "2 of 3 done; seed 2 failed")
    assert row["excess loss × 10⁴"].startswith("1.50 ±")
    assert "seed 2: loss not finite at step 50" in markdown
    assert "loss not finite at step 50" in status([tmp_path])


def test_all_failed_has_no_numbers_and_no_figure(tmp_path):
    toy_run(tmp_path / "a", state="failed")
    row = text_row(tables([tmp_path]), "relax")
    assert (row["seeds"], row["excess loss × 10⁴"], row["median θ"], row["status"]) == ("0", "–", "–", "failed")
    assert figures(cells_of(tmp_path)) == {}


def test_unfinished_runs_are_marked(tmp_path):
    toy_run(tmp_path / "a", state="running", upto=50)
    cells = cells_of(tmp_path)
    assert cells[0].status == "running at 50 of 100"
    assert text_row(tables([tmp_path]), "relax")["steps"] == "50"
    labels = [text.get_text() for text in figure1(cells).legends[0].get_texts()]
    assert "relax (unfinished)" in labels


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
    row = text_row(tables([tmp_path]), "relax")
    assert (row["steps"], row["excess loss × 10⁴"], row["wall time"]) == ("0", "–", "–")
    assert figures(cells_of(tmp_path)) == {}


# Figures


def test_figure1_has_three_panels_with_every_estimator(tmp_path):
    for name in ("reinforce", "rebar", "relax"):
        toy_run(tmp_path / name, name)
    fig = figure1(cells_of(tmp_path))
    left, centre, *right = fig.axes
    assert (left.get_ylabel(), centre.get_ylabel()) == ("exact expected loss", "log-variance of the gradient")
    for ax in (left, centre):
        assert [line.get_label() for line in ax.lines[:3]] == ["reinforce", "rebar", "relax"]
        assert [line.get_color() for line in ax.lines[:3]] == [style(n).color for n in ("reinforce", "rebar", "relax")]
        assert len(ax.collections) == 3  # bands
    np.testing.assert_allclose(left.lines[0].get_ydata()[-1], BEST_LOSS + 2e-4)  # median over seeds
    np.testing.assert_allclose(left.lines[3].get_ydata(), BEST_LOSS)  # the minimum
    assert len(right) == 2  # f's step of .002 would be invisible beside (u - t)^2
    for ax in right:
        drawn = [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
        assert drawn == ["rebar", "relax", "f(b)"]
        np.testing.assert_allclose(ax.lines[-1].get_ydata(), np.repeat([0.499**2, 0.501**2], 2))
        np.testing.assert_allclose(ax.lines[-1].get_xdata(), [0, 0.5, 0.5, 1])
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["reinforce", "rebar", "relax", "f(b)"]


def test_figure1_where_f_can_be_seen_beside_c_has_one_right_axis(tmp_path):
    toy_run(tmp_path / "a", t=0.3)
    assert len(figure1(cells_of(tmp_path)).axes) == 3


def test_figure1_without_curves(tmp_path):
    (toy_run(tmp_path / "a") / "curves.json").unlink()
    assert len(figure1(cells_of(tmp_path)).axes) == 3


def test_fixed_theta_is_a_table_and_a_figure_of_its_own(tmp_path):
    toy_run(tmp_path / "free")
    toy_run(tmp_path / "fixed", freeze=True)
    cells = cells_of(tmp_path)
    assert [c.kind for c in cells] == ["fixed_theta", "toy"]
    drawn = figures(cells)
    assert set(drawn) == {"figure1", "fixed_theta"}
    assert len(drawn["figure1"].axes[0].lines) == 2 and len(drawn["fixed_theta"].axes) == 1
    fixed = next(record for record in records(cells) if record["kind"] == "fixed_theta")
    assert float(fixed["first log-variance"]) == pytest.approx(-5.1)
    assert float(fixed["last log-variance"]) == pytest.approx(-6.0)
    markdown = tables([tmp_path])
    assert markdown.index("## Toy problem\n") < markdown.index("## Toy problem at fixed θ\n")


def test_curves_show_each_estimator_at_its_best_rate(tmp_path):
    vae_run(tmp_path / "a", lrs=(1e-3, 3e-3))
    vae_run(tmp_path / "b", "rebar", lrs=(1e-3,), full=False)
    cells = cells_of(tmp_path)
    chosen, rule = best(cells)
    assert [(c.estimator, c.lr) for c in chosen] == [("rebar", 1e-3), ("relax", 1e-3)]
    assert rule == "final validation bound"
    fig = curves(cells)
    assert [ax.get_ylabel() for ax in fig.axes] == [
        "train ELBO (nats)",
        "validation 100-sample bound (nats)",
        "log-variance of the gradient",
    ]
    assert all(len(ax.lines) == 2 for ax in fig.axes)
    assert len(fig.axes[2].lines[0].get_xdata()) == 28  # the two nulls are left out
    assert "best final validation bound" in fig.legends[0].get_title().get_text()


def test_finished_rates_go_before_better_unfinished_ones(tmp_path):
    toy_run(tmp_path / "a", lrs=(0.1,), excess=lambda s: 1e-3)
    toy_run(tmp_path / "b", lrs=(0.2,), state="running", upto=50, excess=lambda s: 1e-5)
    (chosen,), rule = best(cells_of(tmp_path))
    assert chosen.lr == 0.1 and rule is None


def test_relaxed_objectives_are_rows_of_one_table(tmp_path):
    task = {"name": "categorical_vae", "dataset": "digits", "layers": 1, "variables": 2, "categories": 3}
    for relaxed, level in {"kl": -90.0, "density": -100.0}.items():
        values = {"train/elbo": -101.0, f"train/relaxed_{relaxed}": level, "valid/relaxed_kl": -95.0}
        rows = [{"step": 100, "seed": 0, "lr": 0.1, **values}]
        config = configuration(task | {"relaxed": relaxed}, "concrete", [0], [0.1])
        write_run(tmp_path / relaxed, config, rows)
    row = text_row(tables([tmp_path]), "digits 1x2x3", "concrete (relaxed=kl)")
    assert (row["train ELBO"], row["train relaxed"], row["valid KL form †"]) == ("-101.00", "-90.00 (kl)", "-95.00")
    assert len(figures(cells_of(tmp_path))["categorical_vae_digits_1x2x3"].axes[0].lines) == 2


def test_a_text_model_without_latents_has_a_name(tmp_path):
    task = {"name": "sequence", "order": 1}
    for name, categories in {"rloo": 16, "reinforce": 1}.items():
        rows = [
            {"step": step, "seed": 0, "lr": 0.1, "train/bpc": 3.0, "valid/bpc100": 3.1, "valid/bpc_counts": 2.5}
            for step in (50, 100)
        ]
        write_run(tmp_path / name, configuration(task | {"categories": categories}, name, [0], [0.1]), rows)
    markdown = tables([tmp_path])
    assert text_row(markdown, "text, order 1", "no latents")["order-2 counts"] == "2.500"
    assert text_row(markdown, "text, order 1", "rloo")["held-out bpc, 100 samples"] == "3.100"
    _, held_out, _ = figures(cells_of(tmp_path))["sequence_text_order_1"].axes
    assert held_out.lines[-1].get_ydata()[0] == 2.5


def test_every_estimator_has_its_own_style():
    names = {*STYLES, *estimators.names(), "mine"}
    assert len({style(name) for name in names}) == len(names)
    assert set(estimators.names()) <= set(STYLES)
    assert len({s.color for s in STYLES.values()}) == len(STYLES)
    without_colour = [(str(s.line), s.marker) for s in STYLES.values()]
    assert len(set(without_colour)) == len(STYLES), "told apart in greyscale"
    assert style("mine") == style("mine")
    variants = [style("relax", n) for n in range(3)]
    assert len(set(variants)) == 3 and variants[0] == STYLES["relax"]


# The command


def test_report_writes_what_it_says(tmp_path, capsys):
    for name in ("reinforce", "relax"):
        toy_run(tmp_path / "runs" / name, name, git={"commit": "0123456789abcdef", "dirty": True})
    vae_run(tmp_path / "runs" / "vae")
    assert main([str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    written = {path.name for path in (tmp_path / "runs" / "report").iterdir()}
    figure_names = {f"{name}.{kind}" for name in ("figure1", "vae_digits_linear1") for kind in ("png", "pdf")}
    assert written == {"table.md", "table.csv"} | figure_names
    assert {line.rsplit("/", 1)[1] for line in out.splitlines() if line.startswith("wrote ")} == written
    assert "## Toy problem" in out and "## Binary VAE" in out
    markdown = (tmp_path / "runs" / "report" / "table.md").read_text()
    assert "- runs/relax: `relax-exp out=relax` (commit 0123456789 + changes)" in markdown
    assert str(tmp_path) not in markdown + (tmp_path / "runs" / "report" / "table.csv").read_text()
    for path in (tmp_path / "runs" / "report").iterdir():
        assert path.stat().st_size > (5000 if path.suffix in (".png", ".pdf") else 100)


def test_report_from_python_names_figures_of_several_problems(tmp_path):
    toy_run(tmp_path / "a")
    toy_run(tmp_path / "b", t=0.45)
    names = {path.name for path in report([tmp_path], tmp_path / "out") if path.suffix == ".png"}
    assert names == {"figure1_t-0.499.png", "figure1_t-0.45.png"}


def test_no_runs_is_a_short_error_and_leaves_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(tmp_path), "-o", str(out)]) == 1
    assert main([str(tmp_path / "nowhere"), "-o", str(out)]) == 1
    assert main([str(tmp_path), "--status"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 3 and "no runs found" in error and "no such folder" in error
    assert not out.exists()


def test_refusals_and_unwritable_places_are_short_errors(tmp_path, capsys):
    toy_run(tmp_path / "runs" / "a", seeds=(0, 1))
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "file")]) == 1
    assert "cannot write to" in capsys.readouterr().err
    toy_run(tmp_path / "runs" / "b", seeds=(2, 3), batch_size=8)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "batch_size: 1, 8" in captured.err and captured.out == ""
    assert not (tmp_path / "out").exists()
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--by", "batch_size"]) == 0
    with pytest.raises(SystemExit) as error:
        main(["--unknown"])
    assert error.value.code == 2


def test_status_lists_every_run_and_damaged_ones(tmp_path, capsys):
    done = toy_run(tmp_path / "done")
    toy_run(tmp_path / "running", "rebar", state="running", upto=50)
    damaged = toy_run(tmp_path / "torn")
    (damaged / "meta.json").write_text("{")
    assert main([str(tmp_path), "--status"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "done" in lines[str(done)] and "100 of 100" in lines[str(done)]
    assert "rebar" in lines[str(tmp_path / "running")] and "50 of 100" in lines[str(tmp_path / "running")]
    assert "unreadable" in lines[str(damaged)]
    with pytest.raises(ReportError):
        load([tmp_path])


def test_help_and_reading_import_nothing_heavy():
    heavy = "{'torch', 'matplotlib', 'scipy', 'pandas'}"
    code = f"""
import sys
from relax_exp.report.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
assert not {heavy} & set(sys.modules)
import relax_exp.report.table, relax_exp.report.figures
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "relax-exp-report" in done.stdout
