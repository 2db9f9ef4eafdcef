"""Tables and figures of ``task=simplex`` from its rows: parts ``density``, ``temperature`` and ``simplex``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relax_exp.report.figures import ternary
from relax_exp.report.figures.axes import figure, letters, look
from relax_exp.report.figures.legend import below
from relax_exp.report.formats import Table
from relax_exp.report.runs import Run
from relax_exp.report.studies.temperature import RESOLVED, Plain, part

WEIGHTS = (2.0, 0.5, 1.0)  # unnormalised probabilities: of the densities, and where gradients are measured
DENSITIES = (0.5, 1.0, 2.0)  # temperatures of Maddison et al.; with 0, the discrete law, in the figure
MAPS = (0.1, 0.5, 1.0)  # temperatures at which the variance is mapped
MAPPED_K = 100  # draws of Gumbel-Rao there
SHADES = (0.1, 30.0)  # densities between which colours are spread; the uniform density is 2
RATIOS = " : ".join(f"{weight:g}" for weight in WEIGHTS)
LINES = {1: ("-", "o"), 10: ((0, (1, 1.5)), "h"), 100: ((0, (5, 2)), "s"), 1000: ((0, (9, 3)), "^")}


def label(run: Run) -> str:
    """Return what tells the run from others of its kind."""
    return f"{run.config['task']['draws']} draws"


def draws_of_maps(config: dict[str, Any]) -> int:
    """Return the draws at each place of the maps: a quarter of those at each temperature of the curves."""
    return max(2, config["task"]["draws"] // 4)


def named(samples: float) -> str:
    """Name an estimator by its draws of the relaxed sample given the hard one."""
    return "st_gumbel" if samples == 1 else f"gumbel_rao, K = {samples:,.0f}"


def tables(run: Run) -> list[Table]:
    """Make the tables of the measurements over the temperature, and over the simplex."""
    measured = part(run, "temperature")
    single = {row["temperature"]: row["variance"] for row in measured if row["samples"] == 1}
    body = [
        [
            named(row["samples"]),
            f"{row['temperature']:.3g}",
            _bias2(row),
            *(f"{row[key]:.3g}" for key in ("variance", "mse")),
            f"{row['variance'] / single[row['temperature']]:.3g}",
        ]
        for row in measured
    ]
    draws = run.config["task"]["draws"]
    note = (
        f"At the probabilities {RATIOS}, over {draws:,} draws. Bias²: squared length of the difference between the "
        "mean gradient and the exact one, lowered by what chance adds to it; < : within three standard errors of zero. "
        "Variance: summed over the three logits. MSE: their sum. K: draws of the relaxed sample given the hard one; "
        "straight-through Gumbel-Softmax is K = 1."
    )
    headers = ["estimator", "temperature", "bias²", "variance", "MSE", "variance relative to st_gumbel"]
    records = [{key: value for key, value in row.items() if key != "part"} for row in measured]
    first = Table("gumbel_rao", "Gumbel-Rao on the quadratic", headers, body, note, records, words=1)
    return [first, over_simplex(run)]


def _bias2(row: dict[str, Any]) -> str:
    limit = RESOLVED**2 * row["error2"]
    return f"{row['bias2']:.3g}" if row["bias2"] > limit else f"< {limit:.1g}"


def maps(run: Run) -> dict[float, dict[int, np.ndarray]]:
    """Return the variances over the simplex, in the order of `ternary.lattice`, by temperature and K."""
    rows = part(run, "simplex")
    return {
        at: {k: np.array([r["variance"] for r in rows if (r["temperature"], r["samples"]) == (at, k)])
             for k in (1, MAPPED_K)}
        for at in MAPS
    }  # fmt: skip


def over_simplex(run: Run) -> Table:
    """Make the table of how much variance Gumbel-Rao saves over the simplex."""
    body, records = [], []
    for at, of in maps(run).items():
        ratio = of[MAPPED_K] / of[1]
        means = [float(of[k].mean()) for k in (1, MAPPED_K)]
        spread = [float(x) for x in (ratio.min(), np.median(ratio), ratio.max())]
        body.append([f"{at:g}", *(f"{x:.3g}" for x in (*means, *spread))])
        keys = ("st_gumbel", "gumbel_rao", "smallest ratio", "median ratio", "largest ratio")
        records.append({"temperature": at, **dict(zip(keys, [*means, *spread], strict=True))})
    places = len(next(iter(maps(run).values()))[1])
    note = (
        f"Means of the variance over {places} places spread evenly over the simplex, {draws_of_maps(run.config):,} "
        f"draws at each, and Gumbel-Rao's variance relative to st_gumbel's: smallest, median and largest of the places."
    )
    headers = ["temperature", "st_gumbel", f"gumbel_rao, K = {MAPPED_K}", "smallest ratio", "median", "largest"]
    return Table("simplex", "Variance over the simplex", headers, body, note, records, words=1)


def figures(run: Run) -> dict[str, Figure]:
    """Draw the three figures, by file name."""
    return {"densities": draw_densities(run), "gumbel_rao": draw_tradeoff(run), "simplex_variance": draw_maps(run)}


def draw_densities(run: Run) -> Figure:
    """Draw the discrete law and the Concrete densities at rising temperatures."""
    rows = part(run, "density")
    with look():
        fig = figure(10.5, 3.1)
        axes = fig.subplots(1, 1 + len(DENSITIES))
        letters(axes)
        ternary.empty(axes[0])
        axes[0].set_title("temperature 0")
        for (x, y), weight in zip(ternary.CORNERS, WEIGHTS, strict=True):
            share = weight / sum(WEIGHTS)
            axes[0].scatter([x], [y], s=500 * share, color="#3B528B", zorder=4, clip_on=False)
            inward = 0.35 * (ternary.CORNERS.mean(0) - (x, y))
            axes[0].text(x + inward[0], y + inward[1], f"{share:.2f}", ha="center", va="center")
        norm, shaded = LogNorm(*SHADES), None
        for ax, at in zip(axes[1:], DENSITIES, strict=True):
            values = [row["density"] for row in rows if row["temperature"] == at]
            shaded = ternary.shade(ax, values, norm=norm, cmap="viridis")
            ax.set_title(f"temperature {at:g}")
        assert shaded is not None
        bar = fig.colorbar(shaded, ax=axes[-1], extend="both", shrink=0.8)
        bar.set_label("density (uniform: 2)")
        bar.ax.yaxis.set_major_formatter("{x:g}")
        fig.suptitle(f"Concrete distribution of three categories with probabilities {RATIOS}")
        return fig


def draw_tradeoff(run: Run) -> Figure:
    """Draw squared bias, variance and mean square error over the temperature, a line for each K."""
    measured = part(run, "temperature")
    samples = [int(k) for k in dict.fromkeys(row["samples"] for row in measured)]
    colors = {k: colormaps["viridis"](i / max(1, len(samples))) for i, k in enumerate(samples)}
    titles = {"bias2": "squared bias", "variance": "variance", "mse": "mean square error"}
    with look():
        fig = figure(10.5, 3.7)
        axes = fig.subplots(1, 3)
        letters(axes)
        handles = []
        for k in samples:
            rows = [row for row in measured if row["samples"] == k]
            line, marker = LINES.get(k, ("-", "d"))
            drawn = {"color": colors[k], "ls": line, "marker": marker}
            handles.append(Line2D([], [], **drawn, label=named(k)))
            for ax, key in zip(axes, titles, strict=True):
                hidden = [key == "bias2" and row[key] <= RESOLVED**2 * row["error2"] for row in rows]
                at = np.array([row["temperature"] for row in rows])
                ax.plot(at, [math.nan if no else row[key] for no, row in zip(hidden, rows, strict=True)], **drawn)
        for ax, title in zip(axes, titles.values(), strict=True):
            ax.set(xscale="log", yscale="log", xlabel="temperature", title=title)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(Plain(minor_thresholds=(1, 0.5)))
        axes[0].set_ylabel("of the gradient, summed over logits")
        fig.suptitle(f"Quadratic on the simplex, one gradient at the probabilities {RATIOS}")
        draws = f"{run.config['task']['draws']:,} draws at each temperature"
        below(fig, handles, [draws, "biases within three standard errors of zero are left out"])
        return fig


def draw_maps(run: Run) -> Figure:
    """Draw the variance over the simplex of both estimators, and their ratio, a row for each temperature."""
    measured = maps(run)
    logs = [np.log10(of[k]) for of in measured.values() for k in (1, MAPPED_K)]
    norm = Normalize(float(np.percentile(logs, 2)), max(float(log.max()) for log in logs))
    with look():
        fig = figure(8.2, 2.3 * len(measured) + 0.5)
        axes = fig.subplots(len(measured), 3, squeeze=False)
        letters(axes.flat)
        shaded = ratios = None
        for row, (at, of) in zip(axes, measured.items(), strict=True):
            for ax, k in zip(row, (1, MAPPED_K), strict=False):
                shaded = ternary.shade(ax, np.log10(of[k]), norm=norm, cmap="viridis")
            ratios = ternary.shade(row[2], of[MAPPED_K] / of[1], norm=Normalize(0, 1), cmap="cividis")
            row[0].text(-0.25, 0.4, f"temperature {at:g}", rotation=90, ha="center", va="center")
        for ax, heading in zip(axes[0], (named(1), named(MAPPED_K), "second over first"), strict=True):
            ax.set_title(heading)
        assert shaded is not None and ratios is not None
        fig.colorbar(shaded, ax=axes[:, :2], extend="min", shrink=0.5, aspect=30, location="bottom",
                     label="log₁₀ of the variance, summed over logits")  # fmt: skip
        fig.colorbar(ratios, ax=axes[:, 2], shrink=0.9, aspect=15, location="bottom",
                     label="variance, relative to st_gumbel")  # fmt: skip
        fig.suptitle("Variance of the gradient over the simplex of three categories, quadratic")
        return fig
