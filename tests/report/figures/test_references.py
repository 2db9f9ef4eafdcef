"""Lines and points of others that curves are drawn beside."""

from folders import cells_of, configuration, reinmax_run, write_run

from relax_exp.report.figures import references
from relax_exp.report.figures.axes import save
from relax_exp.report.figures.curves import curves
from relax_exp.report.style import style


def test_references_of_environments_and_games():
    task = {"env": "CartPole-v0"}
    assert references.of_environment(task) == [(195.0, "solved"), (200.0, "highest return")]
    assert references.of_environment({**task, "threshold": 150.0})[0] == (150.0, "solved")
    assert references.of_game("ALE/Pong-v5") == [(-20.7, "random player"), (14.6, "human")]
    assert references.of_game("ALE/SpaceInvaders-v5")[1][0] > 1000
    assert references.of_game("ALE/Nothing-v5") == [(None, "random player"), (None, "human")]


def test_arsms_published_log_is_drawn_beside_its_model(tmp_path):
    task = {"name": "categorical_vae", "dataset": "mnist", "binarize": "threshold", "layers": 1, "variables": 20}
    task["categories"] = 10
    values = {"seed": 0, "lr": 0.1, "valid/elbo": -200.0, "valid/bound100": -9.0}
    rows = [{"step": s, "train/elbo": -230 + s / 100, **values} for s in (275, 2750, 5500)]
    config = configuration(task, "arsm", [0], [0.1]) | {"batch_size": 200}
    write_run(tmp_path / "a", config, rows)
    fig = curves(cells_of(tmp_path))
    points = [line for line in fig.axes[0].lines if line.get_label() == "_published"]
    low, high = fig.axes[0].get_ylim()
    assert points[0].get_ydata().tolist() == [y for y in (-228.35, -123.70) if low <= y <= high]
    assert save(fig, tmp_path / "drawn")
    assert fig.axes[1].get_ylabel() == "validation ELBO, first 1,000 images\n(nats)"
    assert fig.legends[0].get_texts()[-1].get_text() == "published log (ARSM)"


def test_the_published_means_of_reinmaxs_vae_are_drawn_in_the_colour_of_their_estimator(tmp_path):
    reinmax_run(tmp_path / "a", [1.0, 1.0], [1.0, 1.0])
    fig = curves(cells_of(tmp_path))
    ax = next(ax for ax in fig.axes if ax.get_ylabel().startswith("test ELBO"))
    (points,) = [line for line in ax.lines if line.get_label() == "_published"]
    assert dict(zip(points.get_xdata(), points.get_ydata(), strict=True)) == {
        1200: -172.85
    }  # that of epoch 1 is below the axis
    assert points.get_color() == style("reinmax").color
    assert "published mean of ten seeds" in fig.legends[0].get_texts()[-1].get_text()
