"""What the score term of the direct gradient costs: the variance of every estimator with it and without it.

    python scripts/score_term.py                              # MNIST -> results/score_term/variance.json
    python scripts/score_term.py --models linear1 --steps 0   # some of them; what the file has already is not repeated
    python scripts/score_term.py --render                     # table and figure from the file

REBAR trains a VAE. At each of the ``steps`` its parameters stay fixed while every estimator takes ``updates``
updates of its own tuning parameters and running means, at a rate of 1e-2; then the variance of the encoder's gradient
is measured as ``grad/log_variance`` is, twice with the same noise: ``task.score_term=kept`` and ``dropped``. The tuning
losses are the same in both.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from tabulate import tabulate

from relax_exp import estimators
from relax_exp.config.resolve import resolve
from relax_exp.config.yaml_files import CONFIGS
from relax_exp.runs.atomic_write import write_atomically
from relax_exp.runs.build import build_task
from relax_exp.training.replicas import Replicas

OUT = Path(__file__).parents[1] / "results" / "score_term"
DATASETS, MODELS = ("digits", "mnist"), ("linear1", "linear2", "nonlinear")
KEYS = ("dataset", "model", "step", "estimator")
STEPS = (0, 1000, 20_000)
UPDATES, DRAWS = 100, 50
LEFT_OUT = ("exact", "a2c")  # 2^200 states; a baseline for episodes, which nvil is here
FIRST = ("rebar", "relax", "disarm", "rloo", "double_cv", "rodeo", "arms", "local_expectation")
SEED, LR, TUNING_LR = 0, 1e-3, 1e-2


def names() -> list[str]:
    """The estimators whose gradient has a score term that can be left out."""
    offered = sorted(estimators.names("bernoulli"), key=lambda name: name not in FIRST)
    return [name for name in offered if estimators.lookup(name).target == "mean" and name not in LEFT_OUT]


def task_of(name: str, model: str, dataset: str):
    """The VAE task as ``relax-exp task=vae`` builds it, on the CPU."""
    overrides = ["task=vae", f"estimator={name}", f"task.model={model}", "task.score_term=kept"]
    overrides += [f"task.dataset={dataset}", f"task.variance_draws={DRAWS}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return build_task(resolve(compose("config", overrides), overrides), "cpu")


def tuned(name: str, model: str, dataset: str, params, updates: int) -> tuple:
    """Task and model of an estimator after ``updates`` updates of what is its own, at fixed parameters."""
    task = task_of(name, model, dataset)
    replicas = Replicas(task, [SEED], [TUNING_LR])
    start = replicas.state._replace(model=replicas.state.model._replace(params=params))
    replicas.state = start
    needed = any(it.state_dict() for it in task.hierarchy.estimators)
    for _ in range(updates if needed else 0):
        for _ in replicas.advance(1):
            pass
        moved = replicas.state
        kept = moved.model._replace(params=params)
        replicas.state = moved._replace(model=kept, moments=start.moments)
    return task, replicas.state.model


def measure(dataset: str, models, steps, updates: int, path: Path) -> None:
    """Append what is missing to the file, one estimator after the other."""
    rows = json.loads(path.read_text()) if path.exists() else []
    for model in models:
        trained = Replicas(task_of("rebar", model, dataset), [SEED], [LR], compiled=max(steps) > 2000)
        for step in sorted(steps):
            for _ in trained.advance(step - int(trained.state.t[0])):
                pass
            params = {k: v.clone() for k, v in trained.state.model.params.items()}
            for name in names():
                if any([row[k] for k in KEYS] == [dataset, model, step, name] for row in rows):
                    continue
                begun = time.monotonic()
                task, own = tuned(name, model, dataset, params, updates)
                row = {
                    "dataset": dataset,
                    "model": model,
                    "step": step,
                    "estimator": name,
                    "evaluations": task.evaluations,
                }
                for kind in ("kept", "dropped"):
                    task.hierarchy.drops_score = kind == "dropped"
                    row[kind] = task.variance(own, [SEED], step)[0]["grad/log_variance"]
                row |= {
                    "ratio": math.exp(row["kept"] - row["dropped"]),
                    "updates": updates,
                    "tuning_lr": TUNING_LR,
                    "seed": SEED,
                }
                rows.append(row)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(rows, indent=1) + "\n")
                seconds = time.monotonic() - begun
                print(
                    f"{dataset} {model} {step} {name}: ratio {row['ratio']:.3f} ({seconds:.0f} s)",
                    file=sys.stderr,
                    flush=True,
                )


def cells(rows: list[dict]) -> list[tuple[str, str, int]]:
    """Data set, model and step of every column."""
    return [
        (d, m, s)
        for d in DATASETS
        for m in MODELS
        for s in sorted({r["step"] for r in rows if (r["dataset"], r["model"]) == (d, m)})
    ]


def table(rows: list[dict]) -> str:
    """Ratios of the variance kept over dropped, an estimator a line, the largest first."""
    columns, cell = cells(rows), {tuple(r[k] for k in KEYS): r["ratio"] for r in rows}
    order = sorted({r["estimator"] for r in rows}, key=lambda n: -max(r["ratio"] for r in rows if r["estimator"] == n))
    lines = [[f"`{n}`", *(f"{cell[*c, n]:.2f}" if (*c, n) in cell else "" for c in columns)] for n in order]
    return tabulate(lines, ["estimator", *(f"{d} {m}, {s:,}" for d, m, s in columns)], "pipe", disable_numparse=True)


def draw(rows: list[dict], path: Path) -> None:
    """Log-variance of every estimator with and without the term, in every column of the table; PNG and SVG."""
    from matplotlib.lines import Line2D

    from relax_exp.report.figures.axes import figure, letters, look, save, seeds
    from relax_exp.report.figures.legend import below
    from relax_exp.report.style import titled, words

    columns = cells(rows)
    ways = {"kept": ("#D55E00", "s"), "dropped": ("#0072B2", "o")}
    with look():
        counts = Counter(column[:2] for column in columns).values()  # a row for each data set and model
        fig = figure(3.9 * max(counts), 4.6 * len(counts))
        grid = fig.subplots(len(counts), max(counts), squeeze=False)
        panels = []
        for axes, count in zip(grid, counts, strict=True):
            panels += list(axes[:count])
            for unused in axes[count:]:
                unused.set_axis_off()
        letters(panels)
        for axes, column in zip(panels, columns, strict=True):
            chosen = sorted((r for r in rows if tuple(r[k] for k in KEYS[:3]) == column), key=lambda r: -r["dropped"])
            for y, row in enumerate(chosen):
                axes.plot([row["dropped"], row["kept"]], [y, y], color="0.7", zorder=1)
            for way, (color, marker) in ways.items():
                axes.scatter([r[way] for r in chosen], range(len(chosen)), color=color, marker=marker, s=22, zorder=2)
            axes.set_yticks(range(len(chosen)), [titled(r["estimator"]) for r in chosen], fontsize=8)
            dataset, model, step = column
            axes.set_title(f"{words(f'{dataset} {model}')},\n{f'after {step:,} steps' if step else 'at the start'}")
            axes.set_xlabel("log-variance of the encoder's gradient")
        handles = [
            Line2D([], [], color=color, ls="", marker=marker, label=f"score term {way}")
            for way, (color, marker) in ways.items()
        ]
        below(fig, handles, [seeds(len({row["seed"] for row in rows}))])
        save(fig, path.with_suffix(""))


def main() -> int:
    """Measure, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default="mnist")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.out / "variance.json"
    if not args.render:
        measure(args.dataset, args.models, args.steps, args.updates, path)
    rows = json.loads(path.read_text())
    write_atomically(args.out / "variance.md", table(rows) + "\n")
    draw(rows, args.out / "variance.png")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
