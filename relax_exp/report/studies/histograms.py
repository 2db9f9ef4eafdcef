"""Table and figures of ``task=histograms`` from its rows: parts ``gradient``, and ``histogram``, a row for each bin."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from relax_exp.report.figures.axes import figure, letters, look
from relax_exp.report.figures.legend import below
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.runs import Run
from relax_exp.report.studies.temperature import part
from relax_exp.report.style import style, titled

LAX_PARTS = ("reinforce", "reinforce of c", "reparameterization of c")  # LAX is the first - the second + the third
SIGNS = ("=", "-", "+")
DISCRETE, CONTINUOUS = ("reinforce", "rebar", "relax"), ("reinforce", "reparameterization", "lax")
NONE = 1e-9  # a spread below is that of rounding
EXACT = {"color": "black", "ls": "", "marker": "v", "markersize": 6}  # on the upper edge, so that it hides no bar
WITH_RESPECT_TO = {"toy": "logit", "gaussian": "mean"}


def label(run: Run) -> str:
    """Return what tells the run from others of its kind."""
    task = run.config["task"]
    return f"t={task['t']:g} {task['problem']}"


def problems(run: Run) -> dict[str, str]:
    """Return both problems in words."""
    task = run.config["task"]
    return {"toy": f"toy problem, t = {task['t']:g}", "gaussian": f"Gaussian, {task['problem']}"}


def tables(run: Run) -> list[Table]:
    """Make the table of means and spreads."""
    words, body, records = problems(run), [], []
    for row in part(run, "gradient"):
        z = (row["mean"] - row["exact"]) / row["error"] if row["sd"] > NONE else math.nan
        log_variance = 2 * math.log(row["sd"]) if row["sd"] > NONE else math.nan
        numbers = [f"{row[key]:.4g}" for key in ("mean", "exact")]
        shown = [EMPTY if math.isnan(x) else f"{x:.{digits}f}" for x, digits in ((z, 1), (log_variance, 2))]
        body.append([words[row["problem"]], row["estimator"], *numbers, shown[0], f"{row['sd']:.3g}", shown[1]])
        records.append({k: v for k, v in row.items() if k != "part"} | {"z": z, "log-variance": log_variance})
    note = (
        f"Over {run.config['task']['draws']:,} single gradients at the parameters that training starts from: with "
        "respect to the logit at θ = 1/2, and to the mean of a standard normal variable. Before that the estimators "
        f"were tuned for {run.config['steps']:,} steps while the parameters stayed. z: the mean's distance from the "
        "exact gradient in standard errors. c: LAX's learned surrogate; its two parts are gradients of E[c], not E[f]."
    )
    headers = ["problem", "estimator", "mean", "exact", "z", "sd", "log-variance"]
    return [Table("histograms", "Single gradients", headers, body, note, records)]


def figures(run: Run) -> dict[str, Figure]:
    """Draw the estimators, and LAX with its parts, by file name."""
    return {"histograms": draw_estimators(run), "lax_parts": draw_parts(run)}


def histogram(ax: Axes, run: Run, problem: str, estimator: str, color: str) -> None:
    """Draw one histogram, with a mark at the exact gradient and the standard deviation in words."""
    bins = [row for row in part(run, "histogram") if (row["problem"], row["estimator"]) == (problem, estimator)]
    found = next(r for r in part(run, "gradient") if (r["problem"], r["estimator"]) == (problem, estimator))
    left, shares = [row["left"] for row in bins], [row["share"] for row in bins]
    ax.bar(left, shares, width=bins[0]["right"] - bins[0]["left"], align="edge", color=color, lw=0)
    ax.plot([found["exact"]], [0.98], transform=ax.get_xaxis_transform(), clip_on=False, **EXACT)
    ax.set(xlim=(left[0], bins[-1]["right"]), ylim=(0, 1.25 * max(shares)))
    ax.set_xlabel(f"gradient in the {WITH_RESPECT_TO[problem]}")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    said = f"sd {found['sd']:.3g}" + (f"\n{found['outside']:.1%} outside" if found["outside"] >= 5e-4 else "")
    ax.text(0.97, 0.97, said, transform=ax.transAxes, ha="right", va="top", fontsize=8, color="0.25")


def draw_estimators(run: Run) -> Figure:
    """Draw the discrete estimators above, the continuous ones below."""
    with look():
        fig = figure(9.5, 5.4)
        axes = fig.subplots(2, 3)
        letters(axes.flat)
        for row, (problem, words), names in zip(axes, problems(run).items(), (DISCRETE, CONTINUOUS), strict=True):
            for ax, name in zip(row, names, strict=True):
                histogram(ax, run, problem, name, style(name).color)
                ax.set_title(titled(name))
            row[0].set_ylabel(f"{words}\nshare of draws in a bin")
        fig.suptitle("Single gradients at fixed parameters")
        below(fig, [exact()], said(run))
        return fig


def draw_parts(run: Run) -> Figure:
    """Draw LAX and what it is the sum of, as the paper does."""
    titles = ("LAX", "REINFORCE of f", "REINFORCE of c", "reparameterisation of c")
    properties = ("unbiased", "unbiased", "of E[c]: biased", "of E[c]: biased")
    with look():
        fig = figure(11.0, 3.1)
        axes = fig.subplots(1, 4)
        letters(axes)
        for ax, name, title, what in zip(axes, ("lax", *LAX_PARTS), titles, properties, strict=True):
            histogram(ax, run, "gaussian", name, style(name.partition(" ")[0]).color)
            ax.set(title=title, xlabel=f"{ax.get_xlabel()}\n({what})")
        for ax, sign in zip(axes[1:], SIGNS, strict=True):
            ax.annotate(sign.replace("-", "\N{MINUS SIGN}"), (-0.34, 0.5), xycoords="axes fraction", fontsize=16,
                        ha="center", va="center")  # fmt: skip
        axes[0].set_ylabel("share of draws in a bin")
        fig.suptitle(f"LAX draw by draw: {problems(run)['gaussian']}")
        below(fig, [exact()], said(run))
        return fig


def exact() -> Line2D:
    """Return the handle of the exact gradient's mark."""
    return Line2D([], [], **EXACT, label="exact gradient")


def said(run: Run) -> list[str]:
    """Say how many draws there are, and after how much tuning."""
    return [f"{run.config['task']['draws']:,} draws", f"estimators tuned for {run.config['steps']:,} steps there"]
