"""``task=temperature``: bias and variance of the relaxations against their temperature, and schedules over training.

The study that the review of the Concrete and Gumbel-Softmax papers (001) finds missing in both. On a problem of
`relax_exp.tasks.categorical_toy`, where the gradient is known exactly.
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from tabulate import tabulate
from torch import Tensor

from relax_exp import estimators
from relax_exp.config import run_path
from relax_exp.folder import RunError, RunFolder, write_atomically
from relax_exp.report.figures import draw, figure, look, save
from relax_exp.report.style import style
from relax_exp.streams import stream
from relax_exp.tasks.categorical_toy import CategoricalToy
from relax_exp.train import Replicas

STUDIED = ("concrete", "st_gumbel", "straight_through")
UNBIASED = ("reinforce", "rloo")  # to compare with
EXACT = ("exact", "rloo")  # in training
LOWEST, HIGHEST = 0.05, 5.0
FIXED = (0.1, 0.5, 1.0, 5.0)  # temperatures of the training runs; annealed from the last to the first
ANNEALED_BY = 0.8  # of the run: when the annealed temperature arrives
ROWS = 20_000  # gradients at a time
NOTHING = 1e-6  # a spread below is that of rounding
RESOLVED = 3.0  # a bias counts where it exceeds so many standard errors


def measure(name: str, options: dict, task: CategoricalToy, logits: Tensor, draws: int, seed: int) -> dict[str, float]:
    """Bias and spread of one gradient at ``logits`` (1, C), relative to the exact gradient's length.

    ``bias``: length of E[gradient] - exact, with the square of the mean's own error taken off; ``error``: that error;
    ``sd``: square root of the summed variances; ``rmse`` of one draw; ``cosine`` of E[gradient] with the exact one.
    """
    p = logits.softmax(-1)
    exact = (p * (task.values - p @ task.values))[0]
    estimator = estimators.build(name, "categorical", task.event_shape, **options).double()
    generator = stream(seed, "temperature")  # the same noise at all temperatures: smooth curves
    first, second, count = torch.zeros_like(exact), torch.zeros_like(exact), 0
    while count < draws:
        rows = min(ROWS, draws - count)
        noise = estimator.noise(rows, generator, dtype=torch.float64)
        deviation = estimator(logits.expand(rows, *logits.shape), task.loss, noise=noise).grad[:, 0] - exact
        first, second, count = first + deviation.sum(0), second + deviation.square().sum(0), count + rows
    mean, size = first / count, exact.norm()
    variance = ((second - count * mean.square()) / (count - 1)).sum().clamp(min=0)
    error = (variance / count).sqrt()
    bias = (mean.square().sum() - error.square()).clamp(min=0).sqrt()
    cosine = torch.nn.functional.cosine_similarity(exact + mean, exact, dim=0)
    lengths = {"bias": bias, "error": error, "sd": variance.sqrt(), "rmse": (bias.square() + variance).sqrt()}
    return {k: float(v / size) for k, v in lengths.items()} | {"cosine": float(cosine)}


def against_temperature(task: CategoricalToy, names: list[str], options: dict, seed: int) -> list[dict]:
    """`measure` of every estimator at every temperature, and of the unbiased ones, at one point of the simplex."""
    generator = stream(seed, "logits")
    logits = options["scale"] * torch.randn(task.event_shape, generator=generator, dtype=torch.float64)
    grid = np.geomspace(LOWEST, HIGHEST, options["points"]).tolist()
    cells = [(name, {"temperature": at}) for name in names for at in grid] + [(name, {}) for name in UNBIASED]
    rows = []
    for name, given in cells:
        rows.append({"estimator": name, **given, **measure(name, given, task, logits, options["draws"], seed)})
        if given.get("temperature") in (None, grid[-1]):
            print(f"measured {name}", file=sys.stderr, flush=True)
    return rows


def schedules(config: dict, names: list[str]) -> list[dict]:
    """Training at fixed temperatures, with an annealed one, and with unbiased gradients: excess loss over steps."""
    steps = config["steps"]
    start, end = FIXED[-1], FIXED[0]
    annealed = {"schedule": "annealed", "temperature": start, "minimum": end, "anneal_every": max(1, steps // 100)}
    annealed["rate"] = math.log(start / end) / (ANNEALED_BY * steps)
    settings = [(name, f"fixed {at:g}", {"temperature": at}) for name in names for at in FIXED]
    tempered = [name for name in names if name in ("concrete", "st_gumbel")]
    settings += [(name, f"annealed {start:g} to {end:g}", annealed) for name in tempered]
    settings += [(name, "", {}) for name in EXACT]
    rows = []
    for name, label, given in settings:
        task = toy(config, {"name": name, **given}, torch.float32)
        replicas = Replicas(task, config["seeds"], config["lrs"][:1])
        for step in replicas.advance(steps):
            if step % config["eval_every"] == 0 or step == steps:
                for seed, exact in zip(config["seeds"], task.exact(replicas.state.model), strict=True):
                    rows.append({"estimator": name, "schedule": label, "step": step, "seed": seed, **exact})
        print(f"trained {name} {label}", file=sys.stderr, flush=True)
    return rows


def toy(config: dict, estimator: dict, dtype: torch.dtype) -> CategoricalToy:
    """The problem of the configuration."""
    options = {key: config["task"][key] for key in ("problem", "categories", "optimizer")}
    return CategoricalToy(estimator, batch_size=config["batch_size"], dtype=dtype, **options)


def execute(config: dict) -> int:
    """Measure, train, write tables and figures, print the tables. Returns 0."""
    path = run_path(config)
    if RunFolder.finished(path, config):
        print((path / "table.md").read_text())
        print(f"{path} is finished already", file=sys.stderr)
        return 0
    if config["estimator"].get("path"):
        raise RunError("task=temperature studies registered estimators only: leave estimator.path out")
    torch.set_num_threads(config["threads"])
    torch.set_flush_denormal(True)
    name = config["estimator"]["name"]
    if name != "all" and "temperature" not in config["estimator"]:
        raise RunError(f"{name} has no temperature: choose one of {', '.join(STUDIED)}, or none for all of them")
    names = list(STUDIED) if name == "all" else [name]
    with RunFolder(path, config) as folder, torch.no_grad():
        task = toy(config, {"name": "exact"}, torch.float64)
        measured = against_temperature(task, names, config["task"], config["seeds"][0])
        trained = schedules(config, names)
        text = markdown(task, measured, trained, config)
        write_atomically(path / "table.md", text)
        write_atomically(path / "table.json", json.dumps({"gradient": measured, "training": trained}, indent=1))
        save(draw_tradeoff(task, measured), path / "tradeoff")
        save(draw_schedules(task, trained, names), path / "schedules")
        folder.update_meta(status="done")
    print(text)
    print(f"tables and figures are in {path}", file=sys.stderr)
    return 0


def markdown(task: CategoricalToy, measured: list[dict], trained: list[dict], config: dict) -> str:
    """Both tables, with what their columns mean."""
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
    first = tabulate(body, ["estimator", "temperature", "bias", "sd", "rmse", "cosine"], "pipe", disable_numparse=True)
    last = max(row["step"] for row in trained)
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in trained:
        if row["step"] == last:
            groups.setdefault((row["estimator"], row["schedule"]), []).append(row)
    body = [
        [*key, *(f"{np.median([row[k] for row in rows]):.4g}" for k in ("excess", "p_best"))]
        for key, rows in groups.items()
    ]
    second = tabulate(body, ["estimator", "temperature", "excess loss", "p(best)"], "pipe", disable_numparse=True)
    size, options = task.event_shape[1], config["task"]
    return (
        f"## One gradient of the {size}-way {task.problem} problem\n\n{first}\n\n"
        f"In units of the exact gradient's length, over {options['draws']:,} draws at logits drawn from "
        f"N(0, {options['scale']:g}²). Bias: with the square of its own error taken off; sd: square root of the "
        f"summed variances; rmse: of one draw. No interior mode below temperature 1/(C-1) = {1 / (size - 1):.3g}.\n\n"
        f"## Training for {last:,} steps\n\n{second}\n\n"
        f"Median over {len(config['seeds'])} seeds at the last step, {task.optimizer} with rate {config['lrs'][0]:g}.\n"
    )


class Plain(LogFormatter):
    """Ticks between powers of ten as plain numbers, where there is room for them."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_tradeoff(task: CategoricalToy, measured: list[dict]) -> Figure:
    """Bias, spread and error of one gradient over the temperature."""
    bound = 1 / (task.event_shape[1] - 1)
    titles = {"bias": "bias", "sd": "standard deviation", "rmse": "root mean square error"}
    with look():
        fig = figure(10.5, 3.8)
        for ax, (key, title) in zip(fig.subplots(1, 3), titles.items(), strict=True):
            for name in dict.fromkeys(row["estimator"] for row in measured):
                rows, it = [row for row in measured if row["estimator"] == name], style(name)
                if name in UNBIASED:
                    if key != "bias":
                        ax.axhline(rows[0][key], color=it.color, ls=it.line, lw=1, label=f"{name} (unbiased)")
                    continue
                least = {"bias": lambda row: RESOLVED * row["error"]}.get(key, lambda row: NOTHING)
                hidden = [row[key] <= least(row) for row in rows]
                values = [math.nan if gone else row[key] for row, gone in zip(rows, hidden, strict=True)]
                at = [row["temperature"] for row in rows]
                ax.plot(at, values, color=it.color, ls=it.line, marker=it.marker, markevery=3, label=name)
            ax.axvline(bound, color="0.4", lw=0.9, ls=(0, (1, 2)))
            ax.annotate("1/(C-1)", (bound, 0.02), (3, 0), xycoords=("data", "axes fraction"), color="0.35",
                        textcoords="offset points", fontsize=7)  # fmt: skip
            ax.set(xscale="log", yscale="log", xlabel="temperature", title=title)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(Plain(minor_thresholds=(1, 0.5)))
        fig.axes[0].set_ylabel("relative to the exact gradient")
        fig.suptitle(f"{task.event_shape[1]}-way {task.problem} problem, one gradient")
        handles, labels = fig.axes[1].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=3.2)
        return fig


def draw_schedules(task: CategoricalToy, trained: list[dict], names: list[str]) -> Figure:
    """Excess loss over steps, a panel for each estimator, temperatures in colours, beside unbiased gradients."""
    import matplotlib

    with look():
        fig = figure(3.8 * len(names), 3.9)
        axes = fig.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            labels = dict.fromkeys((row["estimator"], row["schedule"]) for row in trained)
            for i, (other, label) in enumerate(labels):
                if other not in (name, *EXACT):
                    continue
                rows = [row for row in trained if (row["estimator"], row["schedule"]) == (other, label)]
                steps = sorted({row["step"] for row in rows})
                values = np.array([[row["excess"] for row in rows if row["step"] == step] for step in steps])
                it = style(other)
                if other == name:
                    at = math.inf if "annealed" in label else FIXED.index(float(label.split()[1])) / len(FIXED)
                    color = "#000000" if at == math.inf else matplotlib.colors.to_hex(matplotlib.cm.viridis(at))
                    it = it._replace(color=color, line="-" if at < math.inf else (0, (5, 2)), marker="None")
                draw(ax, np.array(steps), np.maximum(values, 1e-12), it, label or other, i / len(labels))
            ax.set(yscale="log", xlabel="step", title=name)
        handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda both: len(both[1]))
        fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=3.2)
        axes[0].set_ylabel("excess of the exact loss")
        size, seeds = task.event_shape[1], len({row["seed"] for row in trained})
        fig.suptitle(f"{size}-way {task.problem} problem, {task.optimizer}: median of {seeds} seeds, band 10 to 90%")
        return fig
