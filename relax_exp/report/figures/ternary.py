"""The simplex of three categories, drawn as a triangle and cut into small triangles of equal area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])  # where each category has probability 1


def lattice(parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut every edge of the simplex into so many parts, and the simplex into ``parts``^2 triangles.

    Returns:
        The vertices as points of the simplex, ``(V, 3)``, and the three vertices of each triangle, ``(parts^2, 3)``.
    """
    at = {(i, j): n for n, (i, j) in enumerate((i, j) for i in range(parts + 1) for j in range(parts + 1 - i))}
    vertices = np.array([(i, j, parts - i - j) for i, j in at]) / parts
    upright = [(at[i, j], at[i + 1, j], at[i, j + 1]) for i, j in at if i + j < parts]
    inverted = [(at[i + 1, j], at[i, j + 1], at[i + 1, j + 1]) for i, j in at if i + j < parts - 1]
    return vertices, np.array(upright + inverted)


def centroids(parts: int) -> np.ndarray:
    """Return the centre of each triangle of `lattice`, ``(parts^2, 3)``; none of them lies on the edge."""
    vertices, triangles = lattice(parts)
    return vertices[triangles].mean(1)


def shade(ax: Axes, values: Sequence[float] | np.ndarray, **options: Any) -> ScalarMappable:
    """Draw ``values``, one for each triangle of `lattice` in its order, as colours; ``options`` are tripcolor's."""
    vertices, triangles = lattice(math.isqrt(len(values)))
    x, y = (vertices @ CORNERS).T
    empty(ax)
    return ax.tripcolor(x, y, triangles, facecolors=np.asarray(values), rasterized=True, **options)


def empty(ax: Axes) -> None:
    """Draw the triangle's outline and the names of its corners, and no axes."""
    ax.set_axis_off()
    ax.set(aspect="equal", xlim=(-0.13, 1.13), ylim=(-0.12, 1.0))
    ax.fill(*CORNERS.T, facecolor="none", edgecolor="0.3", lw=0.8, zorder=3)
    for k, corner in enumerate(CORNERS, 1):
        x, y = corner + 0.16 * (corner - CORNERS.mean(0))
        ax.text(x, y, f"{k}", ha="center", va="center", fontsize=8, color="0.25")
