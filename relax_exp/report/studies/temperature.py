"""Tables and figures of ``task=temperature`` from its rows: part ``gradient``, and part ``training``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from relax_exp.report.figures.axes import draw, figure, letters, look
from relax_exp.report.figures.legend import below
from relax_exp.report.formats import Table
from relax_exp.report.runs import Run
from relax_exp.report.style import apart, style, titled
from relax_exp.tasks.registry import CATEGORIES

UNBIASED = ("reinforce", "rloo")  # to compare with
EXACT = ("exact", *UNBIASED)  # in training
FIXED = (0.1, 0.5, 1.0, 5.0)  # temperatures of the training runs; annealed from the last to the first
NOTHING = 1e-6  # a spread below is that of rounding
RESOLVED = 3.0  # a bias counts where it exceeds so many standard errors


def problem(run: Run) -> tuple[int, str]:
    """Return the categories and the name of the run's problem."""
    task = run.config["task"]
    return task["categories"] or CATEGORIES[task["problem"]], task["problem"]


def label(run: Run) -> str:
    """Return what tells the run from others of its kind."""
    size, name = problem(run)
    return f"{name}{size}"


def part(run: Run, name: str) -> list[dict[str, Any]]:
    """Return the rows of one part."""
    return [row for row in run.rows if row["part"] == name]


def tables(run: Run) -> list[Table]:
    """Make the tables of one gradient at each temperature, and of the end of training."""
    (size, name), options = problem(run), run.config["task"]
    where, raw = f"{PROBLEMS[name]} {size}-way", f"{size}-way {name}"
    measured, trained = part(run, "gradient"), part(run, "training")
    body = [
        [
            row["estimator"],
            f"{row['temperature']:.3g}" if "temperature" in row else "",
            f"{row['bias']:.3g}" if row["bias"] > RESOLVED * row["error"] else f"< {RESOLVED * row['error']:.1g}",
            *(f"{row[key]:.3g}" for key in ("sd", "rmse")),
            f"{row['cosine']:.4f}",
        ]
        for row in measured
    ]
    note = (
        f"In units of the exact gradient's length, over {options['draws']:,} draws at logits drawn from "
        f"N(0, {options['scale']:g}²). Bias: length of the difference between the mean gradient and the exact one, "
        "where what chance adds to its square is subtracted; < : within three standard errors of zero; sd: square root "
        "of the summed variances; rmse: root mean square error of one draw; cosine: between the mean gradient and the "
        f"exact one. Below temperature 1/(C-1) = {1 / (size - 1):.3g} the relaxed sample's density has no mode in the "
        "interior."
    )
    headers = ["estimator", "temperature", "bias", "sd", "rmse", "cosine"]
    records = [{"problem": raw, **row} for row in measured]
    first = Table("gradient", f"One gradient: {where} problem", headers, body, note, records)

    last = max((row["step"] for row in trained), default=0)
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in trained:
        if row["step"] == last:
            groups.setdefault((row["estimator"], row.get("schedule", "")), []).append(row)
    keys = ("excess", "p_best")
    medians = {group: [float(np.median([row[k] for row in rows])) for k in keys] for group, rows in groups.items()}
    body = [[*group, *(f"{value:.4g}" for value in values)] for group, values in medians.items()]
    note = (
        f"Median over {len(run.config['seeds'])} seeds at the last step, {options['optimizer']} with rate "
        f"{run.config['lrs'][0]:g}."
    )
    records = [
        {"problem": raw, "part": "training", "estimator": name, "schedule": schedule, "step": last,
         "seeds": len(groups[name, schedule]), **dict(zip(keys, values, strict=True))}
        for (name, schedule), values in medians.items()
    ]  # fmt: skip
    headers = ["estimator", "temperature", "excess loss", "p(best)"]
    return [first, Table("training", f"Training for {last:,} steps: {where} problem", headers, body, note, records)]


def figures(run: Run) -> dict[str, Figure]:
    """Draw both figures, by file name."""
    return {"tradeoff": draw_tradeoff(run), "schedules": draw_schedules(run)}


class Plain(LogFormatter):
    """Ticks between powers of ten as plain numbers, where there is room for them."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


PROBLEMS = {"cos": "the cosine's", "arsm": "ARSM's", "quadratic": "the quadratic's"}  # in words


def draw_tradeoff(run: Run) -> Figure:
    """Draw bias, spread and error of one gradient over the temperature."""
    (size, problem_name), measured = problem(run), part(run, "gradient")
    bound = 1 / (size - 1)
    names = list(dict.fromkeys(row["estimator"] for row in measured))
    styles = dict(zip(names, apart([style(name) for name in names]), strict=True))
    titles = {"bias": "bias", "sd": "standard deviation", "rmse": "root mean square error"}
    with look():
        fig = figure(10.5, 3.9)
        panels = fig.subplots(1, 3)
        letters(panels)
        for ax, (key, title) in zip(panels, titles.items(), strict=True):
            for name in names:
                rows, it = [row for row in measured if row["estimator"] == name], styles[name]
                if name in UNBIASED:
                    if key != "bias":
                        ax.axhline(rows[0][key], color=it.color, ls=it.line, lw=1.2)
                    continue
                _tradeoff(ax, rows, key, it)
            ax.axvline(bound, color="0.4", lw=0.9, ls=(0, (1, 2)))
            ax.annotate("1/(C-1)", (bound, 0.02), (3, 0), xycoords=("data", "axes fraction"), color="0.35",
                        textcoords="offset points", fontsize=7)  # fmt: skip
            ax.set(xscale="log", yscale="log", xlabel="temperature", title=title)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(Plain(minor_thresholds=(1, 0.5)))
        panels[0].set_ylabel("relative to the exact gradient")
        fig.suptitle(f"{PROBLEMS[problem_name]} {size}-way problem, one gradient")
        handles = [
            Line2D([], [], color=it.color, ls=it.line, marker="None" if name in UNBIASED else it.marker,
                   label=titled(name) + (" (unbiased)" if name in UNBIASED else ""))
            for name, it in styles.items()
        ]  # fmt: skip
        limit = Line2D([], [], color="0.35", ls="", marker="v", fillstyle="none", label="bias below detection: limit")
        mode = "dotted: below 1/(C-1), C categories, the relaxed density has no mode inside the simplex"
        below(fig, [*handles, limit], [f"{run.config['task']['draws']:,} draws at each temperature", mode])
        return fig


def _tradeoff(ax, rows: list[dict[str, Any]], key: str, it) -> None:
    """One estimator's line; where a bias is within `RESOLVED` standard errors of zero, open triangles at that limit."""
    limits = [RESOLVED * row["error"] if key == "bias" else NOTHING for row in rows]
    at, values = np.array([row["temperature"] for row in rows]), np.array([row[key] for row in rows])
    hidden = values <= np.array(limits)
    ax.plot(at, np.where(hidden, math.nan, values), color=it.color, ls=it.line, marker=it.marker, markevery=3)
    if key == "bias" and hidden.any():
        ax.plot(at[hidden], np.array(limits)[hidden], color=it.color, ls="", marker="v", fillstyle="none", markersize=4)


def draw_schedules(run: Run) -> Figure:
    """Draw the excess loss over steps, temperatures in colours, beside unbiased gradients, a panel an estimator."""
    (size, problem_name), trained = problem(run), part(run, "training")
    names = [name for name in dict.fromkeys(row["estimator"] for row in trained) if name not in EXACT]
    with look():
        fig = figure(3.8 * len(names), 3.9)
        axes = fig.subplots(1, len(names), sharey=True, squeeze=False)[0]
        letters(axes)
        handles: dict[str, Line2D] = {}
        for ax, name in zip(axes, names, strict=True):
            labels = dict.fromkeys((row["estimator"], row.get("schedule", "")) for row in trained)
            for i, (other, label) in enumerate(labels):
                if other not in (name, *EXACT):
                    continue
                rows = [row for row in trained if (row["estimator"], row.get("schedule", "")) == (other, label)]
                steps = sorted({row["step"] for row in rows})
                values = np.array([[row["excess"] for row in rows if row["step"] == step] for step in steps])
                it = style(other)
                if other == name:
                    at = math.inf if "annealed" in label else FIXED.index(float(label.split()[1])) / len(FIXED)
                    color = "#000000" if at == math.inf else to_hex(colormaps["viridis"](at))
                    it = it._replace(color=color, line="-" if at < math.inf else (0, (5, 2)), marker="None")
                said = f"temperature {label}" if label else f"{titled(other)} (unbiased)"
                handles[said] = Line2D([], [], **it.keywords, label=said)
                draw(ax, np.array(steps), np.maximum(values, 1e-12), it, said, i / len(labels), "median")
            ax.set(yscale="log", xlabel="step", title=titled(name))
            ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(Plain(minor_thresholds=(1, 0.5)))
        axes[0].set_ylabel("exact loss above its minimum")
        seeds, optimizer = len({row["seed"] for row in trained}), run.config["task"]["optimizer"].upper()
        fig.suptitle(f"{PROBLEMS[problem_name]} {size}-way problem, {optimizer}")
        below(fig, handles.values(), [f"median of {seeds} seeds, band: all of them"])
        return fig
