"""Episodes until CartPole is solved, with those that never did it: of runs that stop there (``task.until_solved``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.kinds.control import observed
from relax_exp.report.papers.published import published
from relax_exp.report.runs import Replica
from relax_exp.report.style import style, titled
from relax_exp.run_files import DONE, FAILED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK = 100  # seeds 0 to 99 are one block, 100 to 199 the next: fresh seeds, of which nothing was chosen
ERRORS = {"advantage": "published advantage", "sampler": "published sampler"}


def stopping(cells: list[Cell]) -> list[Cell]:
    """Return the cells whose replicas stop once they have solved their environment, and have begun."""
    return [c for c in cells if c.runs[0].config["task"].get("until_solved") and c.steps]


def variant(cell: Cell) -> str:
    """Return the estimator, and which error of the published code it has."""
    options = cell.runs[0].config["estimator"]
    error = next((words for key, words in ERRORS.items() if options.get(key) == "published_error"), "")
    return f"{cell.name}, {error}" if error else cell.name


def groups(cells: list[Cell]) -> Iterator[tuple[tuple, Cell, str, list[Replica]]]:
    """Place in the table, cell, seeds in words and replicas of each line."""
    for cell in stopping(cells):
        task, options = cell.runs[0].config["task"], cell.runs[0].config["estimator"]
        replicas = [r for r in cell.replicas if r.rows]
        for block in sorted({r.seed // BLOCK for r in replicas}):
            those = [r for r in replicas if r.seed // BLOCK == block]
            seeds = sorted(r.seed for r in those)
            words = f"{seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
            ratio = options.get("lr_scale", 1)
            where = task["env"], -task["frame_skip"], -cell.lr, ratio, cell.name, variant(cell), block
            yield where, cell, words, those


def solving_times(cells: list[Cell]) -> Table | None:
    """Make a line for each variant, rate and block of seeds; None where no runs stop once solved."""
    found = sorted(groups(cells), key=lambda one: one[0])
    if not found:
        return None
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    before = None
    for where, cell, seeds, replicas in found:
        task, options = cell.runs[0].config["task"], cell.runs[0].config["estimator"]
        if before is not None and before != where[:4]:
            rows.append(None)
        before, of = where[:4], observed(replicas)
        (mean, half), (low, high), count = of.mean, of.median_interval, int(of.happened.sum())
        ratio = options.get("lr_scale", 1)
        unfinished = any(r.status not in (DONE, FAILED) for r in replicas)
        texts = {
            "environment": task["env"],
            "estimator": variant(cell) + (" ‡" if unfinished else ""),
            "action taken": f"{task['frame_skip']} times" if task["frame_skip"] > 1 else "once",
            "rates": rates(cell.lr, ratio),
            "seeds": seeds,
            "solved": f"{count} of {of.n}",
            "mean episodes": ("" if of.complete else "≥ ") + f"{mean:.0f} ± {half:.0f}",
            "median (95%)": f"{_whole(of.median)} ({_whole(low)} to {_whole(high)})",
            "watched to": f"{of.followed:,.0f}",
        }
        rows.append([*texts.values()])
        records.append(
            {k: texts[k] for k in ("environment", "seeds")}
            | {"estimator": variant(cell), "frame_skip": task["frame_skip"], "lr": cell.lr, "lr_scale": ratio}
            | {"seeds that solve it": count, "of": of.n, "restricted mean": mean, "restricted mean ±": half}
            | {"median": of.median, "median from": low, "median to": high, "watched to": of.followed}
            | {"complete": of.complete, "status": cell.status, "runs": " ".join(run.label for run in cell.runs)}
        )
    return Table("solving_times", "Episodes until solved", [*texts], rows, _note(), records)


def _whole(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else EMPTY


def _note() -> str:
    printed = published()["rl"]["CartPole"]
    said = ", ".join(f"{name} {mean} ± {half}" for name, (mean, half) in printed.items())
    return (
        "Solved: the mean return of the last 100 episodes, of a full hundred, has reached the threshold; a replica "
        "stops there. Mean: product-limit estimate (Kaplan-Meier) with the replicas that had not solved it when they "
        "stopped or were looked at, ± 95% by Greenwood's variance; ≥: restricted to the episodes watched. "
        "Median with the 95% interval of Brookmeyer and Crowley; –: not reached. ‡: not run to the end. Rates: of the "
        f"policy, and of the critic or control variate where it is another. Printed in the paper for CartPole: {said}."
    )


def rates(lr: float, ratio: float, joint: str = ", ") -> str:
    """Write the policy's rate and, where it is another, the critic's or control variate's."""
    return f"{lr:g}" if ratio == 1 else f"{lr:g}{joint}{lr * ratio:.2g}"


def rates_in_words(lr: float, ratio: float) -> str:
    """Write `rates` as a sentence has them."""
    return f"rate{'s' * (ratio != 1)} {rates(lr, ratio, ' and ')}"


def figure(cells: list[Cell]) -> Figure | None:
    """Draw the share of replicas that have not solved their environment, over episodes.

    There is a panel for each environment, number of repetitions and pair of rates; for each environment and number of
    repetitions where every estimator has one pair of rates, and no two have the same.
    """
    from relax_exp.report.figures.axes import count_axis, letters, look, seeds
    from relax_exp.report.figures.axes import figure as canvas
    from relax_exp.report.figures.legend import below

    of: dict[tuple, dict[str, list[Replica]]] = {}
    names: dict[str, str] = {}
    found = list(groups(cells))
    if not found:
        return None
    curves = {(where[:4], cell.name, variant(cell)) for where, cell, *_ in found}
    alone = [{where for where, *_ in curves}, {(where[:2], name) for where, name, _ in curves}]
    together = all(len(each) == len(curves) for each in alone)
    for where, cell, _, replicas in found:
        label = variant(cell) + (f", {rates_in_words(-where[2], where[3])}" if together else "")
        of.setdefault(where[: 2 if together else 4], {}).setdefault(label, []).extend(replicas)
        names[label] = cell.name
    with look():
        columns = min(3, len(of))
        fig = canvas(3.1 * columns, 2.9 * -(-len(of) // columns) + 0.5)
        axes = fig.subplots(-(-len(of) // columns), columns, squeeze=False).flatten()
        for ax, (where, variants) in zip(axes, sorted(of.items(), key=lambda one: one[0]), strict=False):
            most = max(observed(replicas).followed for replicas in variants.values())
            for name, replicas in sorted(variants.items()):
                its, error = observed(replicas), "published" in name
                x = np.concatenate([[0.0], its.times, [its.followed]])
                share = np.concatenate([[1.0], its.share, its.share[-1:] if len(its.share) else [1.0]])
                color = style(names[name]).color
                ax.step(x, share, where="post", color=color, ls=(0, (4, 2)) if error else "-", label=titled(name))
            env, skip, *rest = where
            taken = f"each action {-skip} times" if skip < -1 else "each action once"
            ax.set(xlabel=f"episodes, {taken}", ylim=(-0.03, 1.03), xlim=(0, most * 1.02))
            ax.set_title(", ".join([env.split("-")[0], *([rates_in_words(-rest[0], rest[1])] if rest else [])]))
            count_axis(ax.xaxis, most)
        for ax in axes[::columns]:
            ax.set_ylabel("share not solved")
        for ax in axes[len(of) :]:
            ax.set_axis_off()
        letters(axes[: len(of)])
        handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        sizes = sorted({len(replicas) for variants in of.values() for replicas in variants.values()})
        count = seeds(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} seeds"
        notes = [f"product-limit estimate, {count} a curve"]
        if any(where[3] != 1 for where, *_ in found):
            notes.append("of two rates the first is the policy's, the second the critic's or control variate's")
        below(fig, handles.values(), notes)
        return fig
