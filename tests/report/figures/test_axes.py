"""How curves are drawn: bands, styles apart, the zone without variance, marks, paired differences."""

import numpy as np
import pytest
from folders import cartpole_run, cells_of, vae_run

from relax_exp.report.figures import differences
from relax_exp.report.figures.axes import draw, figure, letters, look, mark, often_without, save, spread
from relax_exp.report.figures.curves import figures
from relax_exp.report.figures.legend import below
from relax_exp.report.style import STYLES, apart, near, style, titled, words


def test_a_curve_is_the_mean_and_its_band_the_t_interval():
    low, centre, high = spread(np.array([[1.0, 2.0, 3.0], [4.0, np.nan, np.nan], [4.0, 6.0, np.nan]]))
    assert centre.tolist() == [2.0, 4.0, 5.0]
    assert high[0] - 2 == pytest.approx(4.30265 / np.sqrt(3), rel=1e-5)  # t of two degrees of freedom, deviation 1
    assert np.isnan(low[1]) and np.isnan(high[1])  # one seed has no interval
    assert np.isnan(low[2]) and np.isnan(high[2])  # that of two is drawn nowhere


def test_on_a_logarithmic_axis_mean_and_interval_are_those_of_the_logarithms():
    low, centre, high = spread(np.array([[1e-4, 1e-3, 1e-2]]), "log")
    assert centre[0] == pytest.approx(1e-3)
    assert low[0] * high[0] == pytest.approx(centre[0] ** 2)
    assert [edge.tolist() for edge in spread(np.array([[1.0, 2.0, 9.0]]), "median")] == [[1.0], [2.0], [9.0]]


def test_no_two_lines_of_a_figure_share_a_marker_or_a_colour():
    names = ["nvil", "rloo", "st_gumbel", "disarm", "muprop", "concrete", "rebar", "relax", "lax", "a2c"]
    styles = apart([*map(style, names), style("rebar", 1), style("relax", 1)])
    markers = [it.marker for it in styles]
    assert len(set(markers)) == len(markers)
    close = [(a, b) for i, a in enumerate(styles) for b in styles[:i] if near(a.color, b.color)]
    assert len(close) <= 1  # twelve hues that colour-blind readers tell apart are about all there are
    assert styles[names.index("relax")].color == STYLES["relax"].color  # the well-known keep theirs


def test_near_sees_with_deuteranopia():
    assert near("#009E73", "#00A070")
    assert not near("#D55E00", "#0072B2")
    assert not near("#000000", "#FFFFFF")


def test_raw_keys_become_words():
    assert words("CartPole-v0, frames=250000, entropy=0.01") == "CartPole-v0, 250,000 frames, entropy weight 0.01"
    assert words("relax (surrogate=network)") == "relax (free network)"
    assert words("a2c (lr_scale=3.3333333)") == "a2c (tuning rate 3.33 x policy's)"
    assert words("toy t=0.499") == "toy problem, t = 0.499"
    assert words("rebar (granularity=parameter)") == "rebar (an eta for each tensor)"
    assert words("lax (depth=2, black_box=true)") == "lax (two hidden layers, black box)"
    assert titled("st_gumbel (temperature=0.5)") == "ST Gumbel-Softmax (temperature 0.5)"
    assert (titled("no latents"), titled("mine")) == ("no latents", "mine")
    assert words("categorical 2x3 direct") == "2 variables of 3 classes, f of the logits too"
    assert words("mine") == "mine"


def test_gradients_without_variance_are_a_share_and_no_number(tmp_path):
    cartpole_run(tmp_path / "a", "a2c", lambda s, seed: 8.0 + seed)
    cartpole_run(tmp_path / "b", "arsm", lambda s, seed: -87.3 if s >= 50 * (seed + 1) else 2.0)
    ((_, fig),) = figures(cells_of(tmp_path)).items()
    returns, variances = fig.axes
    assert returns.get_xlabel() == variances.get_xlabel() == "episodes"
    (foot,) = variances.child_axes
    np.testing.assert_allclose(foot.lines[0].get_ydata(), [1 / 3, 2 / 3, 1])
    (arsm,) = [line for line in variances.lines if line.get_label() == "ARSM"]
    np.testing.assert_allclose(arsm.get_ydata(), 2.0)
    assert variances.get_ylim()[0] > -20  # nothing is drawn at -87
    assert {text.get_text() for text in returns.texts} == {"solved: 195 ↑", "highest return: 200 ↑"}


def test_differences_are_paired_by_seed(tmp_path):
    vae_run(tmp_path / "a", "relax", seeds=(0, 1))
    vae_run(tmp_path / "b", "rebar", seeds=(1, 0))
    cells = cells_of(tmp_path)
    reference, (other,) = differences.pairs(cells)
    assert (reference.name, other.name) == ("rebar", "relax")
    steps, values = differences.difference(other, other)
    assert len(steps) and not values.any() and values.shape[1] == 2


def test_a_reference_far_away_is_an_arrow_and_does_not_stretch_the_axis():
    ax = figure(3, 3).subplots()
    ax.set_ylim(-21, -20)
    mark(ax, -20.7, "random player")
    mark(ax, 14.6, "human")
    assert [text.get_text() for text in ax.texts] == ["random player", "human: 14.6 ↑"]
    assert ax.get_ylim() == (-21, -20)


def test_a_figure_is_saved_as_picture_and_drawing_the_same_every_time(tmp_path):
    def make(name):
        with look():
            fig = figure(4, 3)
            ax = fig.subplots()
            letters([ax])
            draw(ax, np.arange(3), np.ones((3, 2)), style("relax"), "relax")
            below(fig, [line for line in ax.lines if line.get_label() == "relax"], ["a note"])
        return save(fig, tmp_path / name)

    assert [path.suffix for path in make("a")] == [".png", ".svg"]
    make("b")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_where_nothing_was_measured_no_words_on_variances_are_needed():
    assert not often_without(np.full((3, 2), np.nan))
