"""Figures from synthetic run folders: which lines are drawn, and how."""

import numpy as np
import pytest
from folders import BEST_LOSS, cells_of, configuration, records, tables, text_row, toy_run, vae_run, write_run

from relax_exp import estimators
from relax_exp.report.figures.curves import curves, figure1, figures, title
from relax_exp.report.groups import best
from relax_exp.report.studies.verification import draw_variances
from relax_exp.report.style import STYLES, natural, style


def curves_of(ax):
    """The lines that have a name, without bands and references."""
    return [line for line in ax.lines if not line.get_label().startswith("_")]


def test_figure1_has_three_panels_with_every_estimator(tmp_path):
    for name in ("reinforce", "rebar", "relax"):
        toy_run(tmp_path / name, name)
    fig = figure1(cells_of(tmp_path))
    left, centre, *right = fig.axes
    assert (left.get_ylabel(), centre.get_ylabel()) == ("exact expected loss", "natural log of the gradient's variance")
    for ax in (left, centre):
        drawn = curves_of(ax)
        assert [line.get_label() for line in drawn] == ["REINFORCE", "REBAR", "RELAX"]
        assert [line.get_color() for line in drawn] == [style(n).color for n in ("reinforce", "rebar", "relax")]
        assert len(ax.collections) == 3  # bands
    np.testing.assert_allclose(curves_of(left)[0].get_ydata()[-1], BEST_LOSS + 2e-4)  # mean over seeds
    (minimum,) = [line for line in left.lines if line.get_label() == "_reference"]
    np.testing.assert_allclose(minimum.get_ydata(), BEST_LOSS)
    assert [ax.get_title("left") for ax in (left, centre, right[0])] == ["(a)", "(b)", "(c)"]
    assert len(right) == 2  # f's step of .002 would be invisible beside (u - t)^2
    for ax in right:
        drawn = [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
        assert drawn == ["REBAR", "RELAX", "f(b)"]
        np.testing.assert_allclose(ax.lines[-1].get_ydata(), np.repeat([0.499**2, 0.501**2], 2))
        np.testing.assert_allclose(ax.lines[-1].get_xdata(), [0, 0.5, 0.5, 1])
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["REINFORCE", "REBAR", "RELAX", "f(b)"]


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
    assert len(curves_of(drawn["figure1"].axes[0])) == 1 and len(drawn["fixed_theta"].axes) == 1
    fixed = next(record for record in records(cells) if record["kind"] == "fixed_theta")
    assert float(fixed["first log-variance"]) == pytest.approx(-5.1)
    assert float(fixed["last log-variance"]) == pytest.approx(-6.0)
    markdown = tables(tmp_path)
    assert markdown.index("## Toy problem\n") < markdown.index("## Toy problem at fixed θ\n")


def test_curves_show_each_estimator_at_its_best_rate(tmp_path):
    vae_run(tmp_path / "a", lrs=(1e-3, 3e-3))
    vae_run(tmp_path / "b", "rebar", lrs=(1e-3,), full=False)
    cells = cells_of(tmp_path)
    chosen, rule = best(cells)
    assert [(c.estimator, c.lr) for c in chosen] == [("rebar", 1e-3), ("relax", 1e-3)]
    assert rule == "final 100-sample validation bound"
    fig = curves(cells)
    assert [ax.get_ylabel() for ax in fig.axes] == [
        "train ELBO (nats)",
        "validation bound, 100 samples, first\n1,000 images (nats)",
        "natural log of the gradient's variance",
        "train ELBO minus REBAR's,\nseed by seed (nats)",
    ]
    assert [len(curves_of(ax)) for ax in fig.axes] == [2, 2, 2, 1]
    assert len(curves_of(fig.axes[2])[0].get_xdata()) == 28  # the two nulls are left out
    notes = fig.legends[0].get_title().get_text().replace("\n", " ")
    assert notes == "mean of 2 seeds; learning rate (0.001) with the best final 100-sample validation bound"


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
    row = text_row(tables(tmp_path), "digits, 1 x 2 variables of 3 categories", "concrete (categorical KL)")
    assert (row["train ELBO"], row["train relaxed"], row["valid KL form, first 1,000"]) == (
        "-101.00",
        "-90.00 (kl)",
        "-95.00",
    )
    assert len(curves_of(figures(cells_of(tmp_path))["categorical_vae_digits_1x2x3"].axes[0])) == 2


def test_a_text_model_without_latents_has_a_name(tmp_path):
    task = {"name": "sequence", "order": 1}
    for name, categories in {"rloo": 16, "reinforce": 1}.items():
        rows = [
            {"step": step, "seed": 0, "lr": 0.1, "train/bpc": 3.0, "valid/bpc100": 3.1, "valid/bpc_counts": 2.5}
            for step in (50, 100)
        ]
        write_run(tmp_path / name, configuration(task | {"categories": categories}, name, [0], [0.1]), rows)
    markdown = tables(tmp_path)
    assert text_row(markdown, "text, order 1", "no latents")["order-2 counts"] == "2.500"
    assert text_row(markdown, "text, order 1", "rloo")["held-out bpc, 100 samples"] == "3.100"
    _, held_out = figures(cells_of(tmp_path))["sequence_text_order_1"].axes
    assert [text.get_text() for text in held_out.texts] == ["order-2 counts: 2.5 ↓"]  # far below the curves


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


def test_labels_are_sorted_by_the_size_of_their_numbers():
    labels = ["lax", "lax (n=0.3)", "lax (n=1)", "lax (n=5)", "lax (n=25)", "relax"]
    assert sorted(reversed(labels), key=natural) == labels


def test_a_variance_of_rounding_errors_does_not_stretch_the_axis():
    rows = [
        {"problem": "bernoulli 3 smooth", "estimator": name, "relative": relative, "per_evaluation": relative}
        | {"verdict": "unbiased"}
        for name, relative in {"reinforce": 1.0, "rloo": 0.1, "mean_actor": 1e-14, "exact": 0.0}.items()
    ]
    (ax,) = draw_variances(rows).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["RLOO", "REINFORCE"]
    assert ax.get_xlim()[0] > 1e-3


def test_of_runs_of_several_lengths_the_longest_is_drawn(tmp_path):
    vae_run(tmp_path / "grid", lrs=(1e-3, 3e-3), points=10)
    vae_run(tmp_path / "full", lrs=(3e-3,), points=30)
    cells = cells_of(tmp_path)
    assert sorted(cell.estimator for cell in cells) == ["relax (steps=100)"] * 2 + ["relax (steps=300)"]
    (kept,), rule = best(cells)
    assert (kept.steps, kept.lr, rule) == (300, 3e-3, None)
    notes = curves(cells).legends[0].get_title().get_text().replace("\n", " ")
    assert notes == "mean of 2 seeds; the longest runs, learning rate (0.003)"


def test_four_panels_stand_two_by_two_with_letters(tmp_path):
    for name in ("relax", "rebar"):
        vae_run(tmp_path / name, name)
    fig = curves(cells_of(tmp_path))
    assert {ax.get_subplotspec().get_geometry()[:2] for ax in fig.axes} == {(2, 2)}
    assert [ax.get_title("left") for ax in fig.axes] == ["(a)", "(b)", "(c)", "(d)"]


def test_the_title_says_how_wide_a_nonlinear_decoder_is(tmp_path):
    task = {"name": "vae", "dataset": "mnist", "model": "nonlinear", "decoder_hidden": 200}
    write_run(
        tmp_path / "a",
        configuration(task, "relax", [0], [0.1]),
        [{"step": 10, "seed": 0, "lr": 0.1, "train/elbo": -1.0}],
    )
    (cell,) = cells_of(tmp_path)
    assert title(cell) == "MNIST, nonlinear (decoder of 200 units)"


def test_when_bounds_were_measured_tells_no_tasks_apart(tmp_path):
    for name, every in {"a": None, "b": 50}.items():
        task = {"name": "vae", "dataset": "digits", "model": "linear1", "bound_every": every}
        bound = {"valid/bound100_full": -100.0} if every else {}
        rows = [{"step": 50, "seed": 0, "lr": 0.1, "train/elbo": -110.0, **bound}]
        write_run(tmp_path / name, configuration(task, "relax", [0], [0.1], steps=50), rows)
    (cell,) = cells_of(tmp_path)
    assert cell.task == "digits linear1" and cell.last("valid/bound100_full").tolist() == [-100.0]
