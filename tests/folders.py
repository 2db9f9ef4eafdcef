"""Synthetic run folders, as the runner leaves them, with numbers that can be worked out by hand."""

import csv
import json

import numpy as np
import yaml

from relax_exp.cli.report import gathered
from relax_exp.report import formats
from relax_exp.report.groups import make_cells
from relax_exp.report.papers.published import published
from relax_exp.report.report import Report
from relax_exp.report.tables import row

BEST_LOSS = 0.499**2
REINMAX_TASK = {"name": "categorical_vae", "dataset": "mnist", "layers": 1, "categories": 8, "variables": 4,
        "hidden": [512, 256], "activation": "relu", "initial_weights": "torch", "optimizer": "adam", "binarize": "none",
        "train_images": "all", "relaxed": "kl", "centred": False, "learned_prior": False, "pinned": False}  # fmt: skip


def write_run(path, config, rows, state="done", replicas=None, **meta):
    """A run folder as the runner leaves it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    grid = [{"seed": s, "lr": lr, "status": state, "reason": None} for s in config["seeds"] for lr in config["lrs"]]
    meta = {"status": state, "replicas": replicas or grid, "command": f"relax-exp out={path.name}", **meta}
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def configuration(task, estimator, seeds, lrs=(0.01,), steps=100, **more):
    return {
        "task": task,
        "estimator": {"name": estimator} if isinstance(estimator, str) else estimator,
        "steps": steps,
        "seeds": list(seeds),
        "lrs": list(lrs),
        "batch_size": 1,
        "eval_every": 10,
        "out": None,
        **more,
    }


def toy_run(path, estimator="relax", seeds=(0, 1, 2), t=0.499, excess=lambda s: 1e-4 * (s + 1), upto=None, **more):
    """A toy run whose replica s ends at `excess(s)`, with curves.json where the estimator has a relaxation."""
    meta = {key: more.pop(key) for key in ("state", "replicas", "git") if key in more}
    task = {"name": "toy", "t": t, "latents": 1, "freeze": more.pop("freeze", False)}
    config = configuration(task, estimator, seeds, **more)
    last = upto or config["steps"]
    rows = [
        {
            "step": step,
            "seed": seed,
            "lr": lr,
            "loss": BEST_LOSS + excess(seed) * last / step,
            "excess": excess(seed) * last / step,
            "theta": [0.02 * (seed + 1)] if seed < 2 else 0.3,
            "grad/log_variance": -4.0 - seed - step / 100,
            "time/elapsed": 3.0 * step,
        }
        for step in range(10, last + 1, 10)
        for seed in seeds
        for lr in config["lrs"]
    ]
    write_run(path, config, rows, **meta)
    name = config["estimator"]["name"]
    u = np.linspace(0.01, 0.99, 201)
    c = {f"seed-{s}_lr-{lr:g}": ((u - t) ** 2 + 0.001 * s).tolist() for s in seeds for lr in config["lrs"]}
    relaxation = c if name in ("relax", "rebar") else {}
    content = {"u": u.tolist(), "theta": 0.5, "f": [t**2, (1 - t) ** 2], "relaxation": relaxation}
    (path / "curves.json").write_text(json.dumps(content))
    return path


def vae_run(path, estimator="relax", seeds=(0, 1), lrs=(1e-3,), level=-110.0, full=True, points=30, **more):
    """A VAE run; the train ELBO of replica s at rate lr ends at level + s - 1000 |lr - 1e-3|."""
    meta = {key: more.pop(key) for key in ("state", "replicas") if key in more}
    task = {"name": "vae", "dataset": "digits", "model": "linear1", "latents": 200}
    config = configuration(task, estimator, seeds, lrs, steps=10 * points, **more)
    rows = []
    for step in range(10, 10 * points + 1, 10):
        for seed in seeds:
            for lr in lrs:
                elbo = level + seed - 1000 * abs(lr - 1e-3) - 100 * (10 * points / step - 1)
                last = full and step == 10 * points
                values = {"train/elbo": elbo, "valid/elbo": elbo - 2, "valid/bound100": elbo + 3}
                values |= {"valid/elbo_full": elbo - 1, "valid/bound100_full": elbo + 4} if last else {}
                values |= {"grad/log_variance": -6.0 if step > 20 else None, "time/elapsed": 1.0 * step}
                rows.append({"step": step, "seed": seed, "lr": lr, **values})
    return write_run(path, config, rows, **meta)


def cartpole_run(path, name, log_variance):
    """A CartPole run of three seeds with log-variances of (step, seed)."""
    task = {"name": "cartpole", "env": "CartPole-v0", "entropy": 0.0, "frames": None}
    rows = [
        {"step": s, "seed": seed, "lr": 0.1, "episodes": s, "frames": s * 50 * (seed + 1), "return100": 100.0 + seed}
        | {"grad/log_variance": log_variance(s, seed)}
        for seed in range(3)
        for s in (50, 100, 150)
    ]
    write_run(path, configuration(task, name, [0, 1, 2], [0.1]), rows)


def reinmax_run(path, train, test, temperature=1.3, lr=5e-4, eval_every=600, **other):
    """A run of ReinMax's VAE whose seeds have these numbers above the published ones, at every epoch."""
    estimator = {"name": "reinmax", "temperature": temperature}
    config = configuration({**REINMAX_TASK, **other}, estimator, range(len(train)), (lr,), 1800)
    config |= {"batch_size": 100, "eval_every": eval_every}
    theirs = published()["reinmax_vae"]["cells"]["8x4"]["reinmax"]
    rows = []
    for epoch in (1, 2, 3):
        at = {part: values[min(epoch, 2) - 1] for part, values in theirs.items() if part in ("train", "test")}
        for seed, above in enumerate(zip(train, test, strict=True)):
            values = {"train/relaxed_kl": above[0] - at["train"], "test/elbo_full": above[1] - at["test"]}
            rows.append({"step": 600 * epoch, "seed": seed, "lr": lr, **values})
    return write_run(path, config, rows)


def runs_of(*paths):
    """All runs in the paths and below, of which none may be left out."""
    runs, left_out = gathered(paths)
    assert not left_out
    return runs


def cells_of(*paths, by=()):
    return make_cells(runs_of(*paths), by)


def tables(*paths, by=()):
    """The tables of a report, as Markdown."""
    return Report(runs_of(*paths), by).markdown()


def records(cells):
    """The lines of the table of cells, as the CSV file has them."""
    return list(csv.DictReader(formats.to_csv(row(cell)[1] for cell in cells).splitlines()))


def text_row(markdown, *labels):
    """The fields of the table row that has these labels, by header."""
    lines = [[field.strip() for field in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]
    header = next(line for line in lines if line[0] == "task")
    (row,) = [line for line in lines if set(labels) <= set(line)]
    return dict(zip(header, row, strict=True))
