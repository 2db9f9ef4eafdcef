"""``task=verify``: the table of all estimators on all problems, as text, Markdown, JSON and a figure of variances."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from relax_exp import estimators, verify
from relax_exp.config import run_path
from relax_exp.estimators.base import Estimator
from relax_exp.folder import RunError, RunFolder, write_atomically
from relax_exp.streams import stream

TRAINING_ONLY = ("name", "path", "lr_scale", "warmup")  # keys of an estimator that its constructor does not take
TESTS = 130  # coordinates and pairs of coordinates of one cell, at most
HEADERS = {
    "estimator": "estimator",
    "problem": "problem",
    "verdict": "verdict",
    "z": "largest |z|",
    "rows": "rows |z|",
    "variance": "variance",
    "relative": "relative to REINFORCE",
    "per_evaluation": "x evaluations of f",
    "bias": "bias",
    "cosine": "cosine",
    "microseconds": "us per draw",
}


def load_estimator(path: str) -> type[Estimator]:
    """The one `Estimator` subclass defined in a Python file. RunError where there is none, several, or no such file."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise RunError(f"estimator.path={path}: there is no such file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None:
        raise RunError(f"estimator.path={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Estimator) and cls.__module__ == file.stem
    ]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise RunError(
            f"estimator.path={path}: expected one subclass of relax_exp.estimators.base.Estimator, found {names}"
        )
    return found[0]


def cells(estimator: dict) -> Iterator[tuple[str, verify.Problem, Estimator]]:
    """(label, problem, estimator) of everything that the configuration asks to verify."""
    problems = verify.problems()
    if estimator.get("path"):
        cls = load_estimator(estimator["path"])
        for problem in problems:
            if problem.family in getattr(cls, "families", ("bernoulli",)) and (problem.smooth or cls.needs == "value"):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(stream(0, "own").initial_seed())
                    yield cls.__name__, problem, cls(problem.family, problem.event_shape, (verify.CONTEXT,)).double()
        return
    options = {k: v for k, v in estimator.items() if k not in TRAINING_ONLY}
    names = estimators.names() if estimator["name"] == "all" else [estimator["name"]]
    for name in names:
        for variant in estimators.lookup(name).variants if estimator["name"] == "all" else [options]:
            label = " ".join(
                [name, *(f"{k}={v}" for k, v in variant.items() if k not in ("width", "depth", "activation"))]
            )
            for problem in problems:
                if verify.applies(name, variant, problem):
                    yield label, problem, verify.build(name, variant, problem)


def judge(verdict: verify.Verdict, unbiased: bool, bound: float) -> str:
    """The verdict in words; "FAILS" where an estimator is not what it says it is."""
    if verdict.row_z > bound:
        return "FAILS: rows correlated"
    if unbiased:
        return "unbiased" if verdict.largest_z <= bound else "FAILS: biased"
    return "biased" if verdict.largest_z > bound else "bias not resolved"


def table(estimator: dict, draws: int) -> list[dict[str, Any]]:
    """One row for each estimator and problem, in the units of `HEADERS`; prints a line for each as it is known."""
    todo = list(cells(estimator))
    bound = verify.threshold(TESTS * len(todo))
    references: dict[str, float] = {}
    rows = []
    for label, problem, candidate in todo:
        if problem.name not in references:
            families = estimators.lookup("reinforce").families
            if problem.family in families:
                reference = verify.check(verify.build("reinforce", {}, problem), problem, min(draws, 200_000))
                references[problem.name] = reference.variance
        verdict = verify.check(candidate, problem, draws)
        relative = verdict.variance / references.get(problem.name, math.nan)
        rows.append(
            {
                "estimator": label,
                "problem": problem.name,
                "verdict": judge(verdict, candidate.unbiased, bound),
                "z": verdict.largest_z,
                "rows": verdict.row_z,
                "variance": verdict.variance,
                "relative": relative,
                "per_evaluation": relative * candidate.evaluations,
                "bias": verdict.bias,
                "cosine": verdict.cosine,
                "microseconds": 1e6 * verdict.seconds_per_draw,
                "evaluations": candidate.evaluations,
                "needs": candidate.needs,
                "bound": bound,
                "draws": draws,
            }
        )
        row = rows[-1]
        print(f"{label:45s} {problem.name:24s} |z| {row['z']:8.2f}  {row['verdict']}", file=sys.stderr, flush=True)
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong: cells that fail, and estimators that claim a bias which no problem shows."""
    wrong = [f"{row['estimator']} on {row['problem']}: {row['verdict']}" for row in rows if "FAILS" in row["verdict"]]
    for label in dict.fromkeys(row["estimator"] for row in rows):
        if {row["verdict"] for row in rows if row["estimator"] == label} == {"bias not resolved"}:
            wrong.append(f"{label}: said to be biased, but no problem shows it")
    return wrong


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, with what its columns mean."""
    digits = {"z": ".2f", "rows": ".2f", "cosine": ".4f", "microseconds": ".2f"}

    def cell(key: str, value: Any) -> str:
        return value if isinstance(value, str) else format(value, digits.get(key, ".3g"))

    body = [[cell(key, row[key]) for key in HEADERS] for row in rows]
    text = tabulate(body, list(HEADERS.values()), tablefmt="github", disable_numparse=True)
    first = rows[0]
    return (
        f"{text}\n\nOver {first['draws']:,} draws in double precision, tuning parameters away from their initial "
        f"values. |z|: largest deviation of the mean gradient from the enumerated one over coordinates, in standard "
        f"errors; rows: the same for the correlation between rows. Limit for both: {first['bound']:.2f} (family-wise "
        f"probability {verify.FAMILY_WISE:g} over the table). Variance: mean over coordinates of one draw. Bias: "
        f"length of the mean's deviation, which for an unbiased estimator is noise.\n"
    )


def execute(config: dict) -> int:
    """Verify, write the folder, print the table. Returns 1 if something fails, else 0."""
    path = run_path(config)
    if RunFolder.finished(path, config):
        print((path / "table.md").read_text())
        print(f"{path} is finished already", file=sys.stderr)
        return int(json.loads((path / "meta.json").read_text())["status"] == "failed")
    torch.set_num_threads(config["threads"])
    with RunFolder(path, config) as folder:
        rows = table(config["estimator"], config["task"]["draws"])
        if not rows:
            raise RunError("no problem fits this estimator: look at its families and needs")
        text, wrong = markdown(rows), failures(rows)
        write_atomically(path / "table.md", text)
        write_atomically(path / "table.json", json.dumps(rows, indent=1))
        draw_variances(rows, path)
        if config["estimator"]["name"] in ("all", "reinforce"):
            law = m_sample_law(config["task"]["draws"] // 10)
            write_atomically(path / "m_sample_law.json", json.dumps(law))
            draw_law(law, path)
        folder.update_meta(status="failed" if wrong else "done", failures=wrong)
    print(text)
    for line in wrong:
        print(f"FAILS {line}", file=sys.stderr)
    print(f"{len(rows)} cells, {len(wrong)} failures; table and figure are in {path}", file=sys.stderr)
    return int(bool(wrong))


def m_sample_law(draws: int, most: int = 64) -> dict[int, float]:
    """Variance of ``reinforce samples=M`` for M = 1, 2, 4, ..: it must fall as 1/M."""
    problem = next(p for p in verify.problems() if p.name == "bernoulli 3 smooth")
    counts = [2**i for i in range(most.bit_length())]
    return {
        m: verify.check(verify.build("reinforce", {"samples": m}, problem), problem, draws).variance for m in counts
    }


def draw_law(law: dict[int, float], path: Path) -> None:
    """The measured variances over M, beside variance(1) / M."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(list(law), [law[1] / m for m in law], color="0.6", label="variance at M = 1, divided by M")
    axes.loglog(list(law), list(law.values()), "o", color="#2166ac", label="reinforce samples=M, measured")
    axes.set(xlabel="samples M", ylabel="variance of the gradient", title="bernoulli 3 smooth")
    axes.set_xticks(list(law), [str(m) for m in law])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    for ending in ("png", "pdf"):
        figure.savefig(path / f"m_sample_law.{ending}", dpi=150)


def draw_variances(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the variance relative to REINFORCE, alone and times the evaluations of f, on the smooth problems."""
    from matplotlib.figure import Figure

    present = {row["problem"] for row in rows}
    problems = [p for p in ("bernoulli 3 smooth", "categorical 2x3 smooth") if p in present] or [rows[0]["problem"]]
    most = max(sum(row["problem"] == p for row in rows) for p in problems)
    figure = Figure(figsize=(6.2 * len(problems), 1.4 + 0.2 * most), layout="constrained")
    for axes, problem in zip(figure.subplots(1, len(problems), squeeze=False)[0], problems, strict=True):
        chosen = sorted((r for r in rows if r["problem"] == problem and r["relative"] > 0), key=lambda r: r["relative"])
        at = range(len(chosen))
        axes.barh(at, [row["per_evaluation"] for row in chosen], color="0.8", label="times evaluations of f")
        axes.barh(at, [row["relative"] for row in chosen], color="#2166ac", height=0.45, label="of one draw")
        marks = ["" if row["verdict"] == "unbiased" else " *" for row in chosen]
        axes.set_yticks(at, [row["estimator"] + mark for row, mark in zip(chosen, marks, strict=True)], fontsize=8)
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.margins(y=0.01)
        axes.set_title(problem, fontsize=10)
        axes.set_xlabel("variance relative to REINFORCE", fontsize=9)
    figure.axes[0].legend(fontsize=8, loc="lower right")
    figure.supxlabel("*: biased. Tuned estimators stand at random tuning parameters, not at tuned ones.", fontsize=8)
    for ending in ("png", "pdf"):
        figure.savefig(path / f"variance.{ending}", dpi=150)
