"""Validation bounds of the binary VAE, and what it takes to reach one: epochs, wall time, evaluations of f."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax_exp.report.formats import EMPTY, Table
from relax_exp.report.groups import Cell
from relax_exp.report.papers.published import Chosen, chosen, published
from relax_exp.report.papers.table1 import models
from relax_exp.report.runs import Run
from relax_exp.report.statistics import duration, interval, show

BOUND = "valid/bound100"  # on the first 1,000 validation images, at every evaluation
FULL = ("valid/elbo_full", "valid/bound100_full")
NEVER = "never"
TARGET = "rebar"  # whose best validation bound the paper measures the others against
OF_A_LAYER = {"reinforce": 1, "nvil": 1, "concrete": 1, "muprop": 2, "disarm": 2}  # evaluations of f


def evaluations(run: Run) -> int | None:
    """Evaluations of f for one gradient: as the run says, else by name (runs of the VAE from before they said it)."""
    options, task = run.config["estimator"], run.config["task"]
    if "evaluations" in run.meta or task["name"] != "vae":
        return run.meta.get("evaluations")
    if options["name"] in ("rloo", "vimco"):
        return options["samples"]
    each = OF_A_LAYER.get(options["name"])
    if options["name"] in ("rebar", "relax"):
        each = 1 if options.get("surrogate") == "network" else 2 if options["noise"] == "tied" else 3
    return None if each is None else 1 + (2 if task["model"] == "linear2" else 1) * (each - 1)


def reached(cell: Cell, bound: float | None) -> dict[str, float] | None:
    """At the first evaluation at which the mean over seeds is at least ``bound``: ``step``, ``epoch``, ``seconds`` of
    wall time for one replica, ``evaluations`` of f for one image of the minibatch. None where it never is.
    """
    steps, values = cell.series(BOUND)
    at = np.flatnonzero(values.mean(1) >= bound) if bound is not None else ()
    if not len(at):
        return None
    step, run = int(steps[at[0]]), cell.counted[0].run
    seconds = [r.value("time/elapsed", step) / len(r.run.replicas()) for r in cell.counted]
    each = evaluations(run)
    return {
        "step": step,
        "epoch": step / _epoch(cell),
        "seconds": float(np.mean(seconds)),
        "evaluations": float("nan") if each is None else step * each,
    }


def _epoch(cell: Cell) -> int:
    """Steps of an epoch; the last images, fewer than a batch, are left out."""
    config = cell.runs[0].config
    return published()["vae"]["images"][config["task"]["dataset"]] // config["batch_size"]


def best_bound(cell: Cell) -> float:
    """The highest mean over seeds of the validation bound, over the evaluations."""
    means = cell.series(BOUND)[1].mean(1)
    return float(np.nanmax(means)) if np.isfinite(means).any() else float("nan")


def reach(cells: list[Cell]) -> Table | None:
    """One line an estimator of every model of Table 1 that was trained; None where none was."""
    ours = chosen(cells, "vae")
    rows: list[list[str] | None] = []
    records: list[dict[str, Any]] = []
    for data, model, tasks in models(cells):
        for task in tasks:
            of = {label: it for label, it in ours[task].items() if np.isfinite(best_bound(it.cell))}
            if not of:
                continue
            target = best_bound(of[TARGET].cell) if TARGET in of else None
            common = min(best_bound(it.cell) for it in of.values())
            rows += [None] * bool(rows)
            for label, it in of.items():
                texts, record = _line(it, target, common)
                printed = {k: published()["vae"][k][data][model].get(label) for k in ("validation", "epochs")}
                bound = "" if printed["validation"] is None else f" ({printed['validation']:.2f})"
                epochs = "" if printed["epochs"] is None else f" ({printed['epochs']})"
                rows.append([task, label, f"{it.cell.lr:g}", f"{it.cell.steps:,}", *texts[:2], texts[2] + bound,
                             texts[3] + epochs, *texts[4:]])  # fmt: skip
                record = {"task": task, "estimator": label, "lr": it.cell.lr, "steps": it.cell.steps, **record}
                record |= {f"published {k}": v for k, v in printed.items()}
                records.append(record | {"runs": " ".join(run.label for run in it.cell.runs)})
    if not rows:
        return None
    headers = ["task", "estimator", "lr", "steps", "valid ELBO", "valid 100-sample bound", "best bound (published)",
               "epochs to REBAR's best (published)", "common bound", "step", "wall time", "evaluations"]  # fmt: skip
    return Table("reach", "Validation bounds, and the way there", headers, rows, NOTE, records)


def _line(it: Chosen, target: float | None, common: float) -> tuple[list[str], dict[str, Any]]:
    cell = it.cell
    full = {metric: cell.last(metric) for metric in FULL}
    texts = [show(values) if np.isfinite(values).all() else EMPTY for values in full.values()]
    first, then = reached(cell, target), reached(cell, common)
    epochs = f"{first['epoch']:.1f}" if first else f"not in {cell.steps / _epoch(cell):.1f}"
    texts += [f"{best_bound(cell):.2f}", EMPTY if target is None else epochs]
    texts += [f"{common:.2f}", f"{then['step']:,}", duration(then["seconds"])]
    texts += [EMPTY if np.isnan(then["evaluations"]) else f"{then['evaluations']:,.0f}"]
    record: dict[str, Any] = {"seeds": " ".join(str(r.seed) for r in cell.counted), "status": cell.status}
    for metric, values in full.items():
        record[metric], record[f"{metric} ±"] = interval(values)
    record |= {"best bound": best_bound(cell), "REBAR's best": target}
    record |= {"epochs to REBAR's best": None if target is None else first["epoch"] if first else NEVER}
    return texts, record | {"common bound": common, **{f"{k} to it": v for k, v in then.items()}}


NOTE = (
    "Nats per image. Valid: all validation images, at the last step, mean over seeds ± 95% t interval. Best bound and "
    "everything to its right: the 100-sample bound of the first 1,000 validation images, mean over seeds, at the "
    "evaluations of the run, so a bound may have been reached up to one evaluation before. Common bound: the highest "
    "that every estimator of the model reached; behind it the step at which it was, the wall time of the run up to "
    "there, divided by the number of replicas it trained side by side (other programs shared the machine), and the "
    "evaluations of f for each image of the minibatches. Published: single runs of 2,000,000 steps."
)
