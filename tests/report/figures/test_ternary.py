"""The simplex as a triangle."""

import numpy as np
from matplotlib.figure import Figure

from relax_exp.report.figures import ternary


def areas(points, triangles):
    a, b, c = (points[triangles[:, i]] for i in range(3))
    return 0.5 * np.abs((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1]))


def test_the_triangles_tile_the_simplex():
    for parts in (1, 2, 7):
        vertices, triangles = ternary.lattice(parts)
        assert len(vertices) == (parts + 1) * (parts + 2) // 2 and len(triangles) == parts**2
        np.testing.assert_allclose(vertices.sum(1), 1)
        np.testing.assert_allclose(areas(vertices[:, :2], triangles), 0.5 / parts**2)  # equal, and they add up
        np.testing.assert_allclose(areas(vertices @ ternary.CORNERS, triangles).sum(), 3**0.5 / 4)


def test_the_centres_are_inside_and_alike_in_all_categories():
    centres = ternary.centroids(6)
    assert (centres > 0).all()
    rows = {tuple(row) for row in np.round(centres, 9)}
    assert len(rows) == 36 and rows == {(b, c, a) for a, b, c in rows} == {(b, a, c) for a, b, c in rows}


def test_every_value_has_its_triangle():
    ax = Figure().subplots()
    drawn = ternary.shade(ax, np.arange(16.0))
    np.testing.assert_array_equal(drawn.get_array(), np.arange(16.0))
    inside = [path.contains_point(centre) for path, centre in
              zip(drawn.get_paths(), ternary.centroids(4) @ ternary.CORNERS, strict=True)]  # fmt: skip
    assert all(inside)
