"""The sentences of the legend: where lines end, and what the strip at the foot shows."""

from folders import cartpole_run, cells_of, configuration, write_run

from relax_exp.report.figures.curves import figures


def notes(fig):
    """What stands above the lines of the legend."""
    return fig.legends[0].get_title().get_text().replace("\n", " ")


def test_a_line_that_ends_before_some_of_its_seeds_is_said_to(tmp_path):
    task = {"name": "cartpole", "env": "CartPole-v0", "entropy": 0.0, "frames": None}
    for name, lasts in {"a2c": (150, 150, 150), "relax": (100, 150, 150)}.items():
        rows = [
            {"step": s, "seed": seed, "lr": 0.1, "episodes": s, "frames": s * 50, "return100": 100.0}
            for seed, last in enumerate(lasts)
            for s in range(50, last + 1, 50)
        ]
        write_run(tmp_path / name, configuration(task, name, [0, 1, 2], [0.1]), rows)
        (fig,) = figures(cells_of(tmp_path / name)).values()
        assert ("a line ends where the first of its seeds stopped" in notes(fig)) == (name == "relax")


def test_the_strip_at_the_foot_is_named_below_the_panels(tmp_path):
    cartpole_run(tmp_path / "b", "arsm", lambda s, seed: -87.3 if s >= 50 * (seed + 1) else 2.0)
    (fig,) = figures(cells_of(tmp_path)).values()
    assert "strip at the foot: share of seeds whose gradient has no variance" in notes(fig)
