"""Validation bounds of the binary VAE, and what it takes to reach one: epochs, wall time, evaluations of f."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.papers.published import Chosen, chosen, published
from relax_exp.report.papers.table1 import models
from relax_exp.report.runs import Run
from relax_exp.report.statistics import duration, interval, show

VALIDATION_BOUND = "valid/elbo"  # one sample, on the first 1,000 validation images, at every evaluation
WHOLE, WHOLE100 = "valid/elbo_full", "valid/bound100_full"  # on all of them, where it was measured
TEST = ("test/elbo_best", "test/bound100_best", "test/elbo", "test/bound100")
NEVER = "never"
TARGET = "rebar"  # whose best validation bound the paper measures the others against
TURNED = 0.9  # REBAR has a best bound if it lies within this part of its run, so that the bound fell again afterwards
OF_A_LAYER = {"reinforce": 1, "nvil": 1, "muprop": 2, "disarm": 2}  # evaluations of f


def evaluations(run: Run) -> int | None:
    """Return the evaluations of f for one gradient.

    The run says it; those of the VAE that are older are known by name.
    """
    options, task = run.config["estimator"], run.config["task"]
    if "evaluations" in run.meta or task["name"] != "vae":
        return run.meta.get("evaluations")
    if options["name"] in ("rloo", "vimco"):
        return options["samples"]
    if options["name"] == "concrete":
        return 2  # the relaxed pass and the hard one for the bound, each through all layers
    each = OF_A_LAYER.get(options["name"])
    if options["name"] in ("rebar", "relax"):
        each = 1 if options.get("surrogate") == "network" else 2 if options["noise"] == "tied" else 3
    return None if each is None else 1 + (2 if task["model"] == "linear2" else 1) * (each - 1)


def measured(cells: Iterable[Cell]) -> str:
    """Return the one-sample bound that their evaluations share: on all validation images, if each of them has it."""
    each = (cell.series(WHOLE)[1] for cell in cells)
    return WHOLE if all(np.isfinite(values).all() for values in each) else VALIDATION_BOUND


def reached(cell: Cell, bound: float | None, metric: str) -> dict[str, float] | None:
    """Return what it took until the metric's mean over seeds was first at least ``bound``; None where it never is.

    Returns:
        ``step``, ``epoch``, ``seconds`` of wall time for one replica, ``evaluations`` of f for one image of the
        minibatch.
    """
    steps, values = cell.series(metric)
    at = np.flatnonzero(values.mean(1) >= (np.inf if bound is None else bound))
    if not len(at):
        return None
    step, run = int(steps[at[0]]), cell.counted[0].run
    seconds = [r.value("time/elapsed", step) / r.run.trained_at_once for r in cell.counted]
    each = evaluations(run)
    return {
        "step": step,
        "epoch": step / _epoch(cell),
        "seconds": float(np.mean(seconds)),
        "evaluations": float("nan") if each is None else step * each,
    }


def _epoch(cell: Cell) -> int:
    """Return the steps of an epoch; the last images, fewer than a batch, are left out."""
    config = cell.runs[0].config
    return published()["vae"]["images"][config["task"]["dataset"]] // config["batch_size"]


def best_bound(cell: Cell, metric: str) -> tuple[float, int]:
    """Return the highest mean over seeds of the metric over the evaluations that measured it, and its step.

    Where none measured it, it is (NaN, 0).
    """
    steps, values = cell.series(metric)
    means = values.mean(1)
    if not np.isfinite(means).any():
        return float("nan"), 0
    at = int(np.nanargmax(means))
    return float(means[at]), int(steps[at])


def target_of(cells: dict[str, Chosen], metric: str) -> float | None:
    """Return REBAR's best bound in the metric; None where its run was too short to have one, still rising."""
    if TARGET not in cells:
        return None
    cell = cells[TARGET].cell
    value, step = best_bound(cell, metric)
    return value if step and step <= TURNED * cell.steps else None


def _lines(cells: list[Cell], line) -> list[tuple[str, list[list[str]], list[dict[str, Any]]]]:
    """Return each trained model's task, and ``line(data, model, label, chosen, all)`` of its estimators."""
    ours = chosen(cells, "vae")
    found = []
    for data, model, tasks in models(cells):
        for task in tasks:
            of = {
                label: it for label, it in ours[task].items() if np.isfinite(best_bound(it.cell, VALIDATION_BOUND)[0])
            }
            made = [line(data, model, label, it, of) for label, it in of.items()]
            rows = [[task, label, f"{it.cell.lr:g}", f"{it.cell.steps:,}", *texts]
                    for (label, it), (texts, _) in zip(of.items(), made, strict=True)]  # fmt: skip
            heads = [{"task": task, "estimator": label, "lr": it.cell.lr, "steps": it.cell.steps,
                      "seeds": " ".join(str(r.seed) for r in it.cell.counted), "status": it.cell.status}
                     for label, it in of.items()]  # fmt: skip
            tails = [{"runs": " ".join(run.label for run in it.cell.runs)} for it in of.values()]
            records = [h | record | t for h, (_, record), t in zip(heads, made, tails, strict=True)]
            if rows:
                found.append((task, rows, records))
    return found


def _table(name: str, title: str, headers: list[str], cells: list[Cell], line, note: str) -> Table | None:
    found = _lines(cells, line)
    if not found:
        return None
    rows: list[list[str] | None] = [row for _, of_task, _ in found for row in [None, *of_task]]
    records = [record for *_, of_task in found for record in of_task]
    return Table(name, title, ["task", "estimator", "lr", "steps", *headers], rows[1:], note, records)


def _printed(kind: str, data: str, model: str, label: str) -> Any:
    return published()["vae"][kind][data][model].get(label)


def bounds(cells: list[Cell]) -> Table | None:
    """Make the table of validation and test bounds of the models of Table 1, a line an estimator.

    None where none was trained.
    """

    def line(data, model, label, it: Chosen, of):
        cell, printed = it.cell, _printed("validation", data, model, label)
        best, at = best_bound(cell, WHOLE)
        steps, values = cell.series(WHOLE)
        there = values[list(steps).index(at)] if at else np.full(len(cell.counted), np.nan)
        deep = cell.series(WHOLE100)[1][list(steps).index(at)] if at else there
        texts = [_interval(there), EMPTY if printed is None else f"{printed:.2f}", f"{at:,}" if at else EMPTY]
        texts += [_interval(deep), *(_interval(cell.last(metric)) for metric in TEST)]
        record: dict[str, Any] = {"best valid ELBO": best, "at step": at or None, "published": printed}
        for metric, numbers in ((WHOLE, there), (WHOLE100, deep), *((m, cell.last(m)) for m in TEST)):
            record[metric], record[f"{metric} ±"] = interval(numbers)
        return texts, record

    headers = ["best valid ELBO", "published", "at step", "100-sample bound there", "test ELBO",
               "test 100-sample bound", "last test ELBO", "last test 100-sample bound"]  # fmt: skip
    return _table("bounds", "Validation and test bounds", headers, cells, line, BOUNDS_NOTE)


def reach(cells: list[Cell]) -> Table | None:
    """Show what it took to reach REBAR's best bound and one that all reached, a line an estimator; None without any."""

    def line(data, model, label, it: Chosen, of):
        cell, metric = it.cell, measured(other.cell for other in of.values())
        target, own = target_of(of, metric), best_bound(it.cell, metric)[0]
        common = min(best_bound(other.cell, metric)[0] for other in of.values())
        printed = _printed("epochs", data, model, label)
        first, then = reached(cell, target, metric), reached(cell, common, metric)
        assert then is not None  # it is the least of their best bounds
        epochs = f"{first['epoch']:.1f}" if first else f"not in {cell.steps / _epoch(cell):.1f}"
        images = "all" if metric == WHOLE else "first 1,000"
        texts = [f"{own:.2f}", images, EMPTY if target is None else epochs]
        texts += [EMPTY if printed is None else str(printed), f"{common:.2f}", f"{then['step']:,}"]
        texts += [duration(then["seconds"]), EMPTY if np.isnan(then["evaluations"]) else f"{then['evaluations']:,.0f}"]
        record: dict[str, Any] = {"best bound": own, "metric": metric, "REBAR's best": target}
        record |= {"epochs to REBAR's best": None if target is None else first["epoch"] if first else NEVER}
        record |= {"published epochs": printed, "common bound": common}
        return texts, record | {f"{k} to it": v for k, v in then.items()}

    headers = ["best valid ELBO", "on images", "epochs to REBAR's best", "published", "common bound", "step",
               "wall time", "evaluations"]  # fmt: skip
    return _table("reach", "The way to a validation bound", headers, cells, line, REACH_NOTE)


def _interval(values: np.ndarray) -> str:
    return show(values) if np.isfinite(values).all() else EMPTY


BOUNDS_NOTE = (
    "Nats per image, higher is better; mean over seeds ± 95% t interval. Best valid ELBO: the one-sample bound on all "
    "validation images at the evaluation where its mean over seeds is highest, of those that measured it (runs without "
    "task.bound_every measure it at the end only); behind it the published one, which is a one-sample bound too, of a "
    "single run of 2,000,000 steps. Test bounds: of the parameters that each seed kept from its evaluation with the "
    "highest validation bound, and of its last parameters. –: not printed, or not measured (runs from before test "
    "bounds were)."
)
REACH_NOTE = (
    "One-sample validation bound in nats, mean over seeds, on all validation images where every evaluation of the "
    "model's runs has measured it, else on the first 1,000 of them, where it is higher by .4 (MNIST) and .7 nats "
    "(Omniglot) on average. Evaluations are apart, so a bound may have been reached up to one of them before. REBAR's "
    "best counts where its bound fell again in the last tenth of its run or before; – where it was still rising. "
    "Published: epochs of single runs of 2,000,000 steps. Common bound: the highest that every estimator of the model "
    "reached; behind it the step at which it was, the wall time of the run up to there, divided by the number of "
    "replicas it trained side by side (other programs shared the machine), and the evaluations of f for each image of "
    "the minibatches."
)
