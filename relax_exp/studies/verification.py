"""``task=verify``: the table of all estimators on all problems, as text, Markdown, JSON and a figure of variances."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch

from relax_exp import estimators, testing
from relax_exp.config.identity import run_path
from relax_exp.enumeration import checks, mdp
from relax_exp.enumeration import problems as verify
from relax_exp.enumeration.tuning import STEPS, moves, tuned_variance
from relax_exp.errors import SettingError
from relax_exp.estimators import own
from relax_exp.estimators.base import Estimator
from relax_exp.estimators.options import OF_TRAINING
from relax_exp.report.studies.verification import SHOWN
from relax_exp.runs.files import write_atomically
from relax_exp.runs.folder import RunFolder, shown
from relax_exp.studies import study
from relax_exp.studies.measured import PACKAGES, Measured, fingerprint

TRAINING_ONLY = ("name", "path", "digest", *OF_TRAINING)  # keys of an estimator that its constructor does not take
MEASURED, TUNED = "measured.jsonl", "tuned.json"
PLAYED = (*PACKAGES, "relax_exp.tasks", "relax_exp.envs")  # whose code the cells of `mdp` run
TESTS = 130  # coordinates and pairs of coordinates of one cell, at most


def cells(estimator: dict) -> Iterator[tuple[str, verify.Problem, Estimator]]:
    """Go through everything that the configuration asks to verify, as (label, problem, estimator)."""
    problems = verify.problems()
    options = {k: v for k, v in estimator.items() if k not in TRAINING_ONLY}
    if path := estimator.get("path"):
        cls, changed = own.load(path), own.defaults(own.load(path))
        label = " ".join([cls.__name__, *(f"{k}={v}" for k, v in options.items() if v != changed[k])])
        for problem in problems:
            if problem.family in own.families(cls) and (problem.smooth or cls.needs == "value"):
                shapes = problem.family, problem.event_shape, (verify.CONTEXT,)
                yield label, problem, estimators.build(cls.__name__, *shapes, path=path, **options).double()
        return
    names = estimators.names() if estimator["name"] == "all" else [estimator["name"]]
    for name in names:
        for variant in estimators.lookup(name).variants if estimator["name"] == "all" else [options]:
            label = " ".join(
                [name, *(f"{k}={v}" for k, v in variant.items() if k not in ("width", "depth", "activation"))]
            )
            for problem in problems:
                if checks.applies(name, variant, problem):
                    yield label, problem, checks.build(name, variant, problem)


def episodes(estimator: dict) -> list[str]:
    """Return the labels of `mdp.VERIFIED` that the configuration asks to verify, each with options of its own."""
    if estimator.get("path"):
        return []
    if estimator["name"] == "all":
        return [*mdp.VERIFIED]
    right = "published_error" not in estimator.values()
    return [k for k, (name, _, _) in mdp.VERIFIED.items() if name == estimator["name"] and mdp.unbiased(k) == right]


def judge(verdict: checks.Verdict, unbiased: bool, bound: float) -> str:
    """Put the verdict into words; "FAILS" where an estimator is not what it says it is."""
    if math.isnan(verdict.variance):
        return "FAILS: not finite (NaN or infinite gradients)"
    if verdict.row_z > bound:
        return "FAILS: rows correlated"
    if unbiased:
        return "unbiased" if verdict.largest_z <= bound else "FAILS: biased"
    return "biased" if verdict.largest_z > bound else "bias not resolved"


def table(
    todo: list[tuple[str, verify.Problem, Estimator]], played: list[str], draws: int, measured: Measured
) -> list[dict[str, Any]]:
    """Verify each of `cells` and of `episodes` that is not ``measured`` yet, and print a line for each as it is known.

    Returns:
        One row for each, in the units of `relax_exp.report.studies.verification.HEADERS`.
    """
    bound = testing.threshold(TESTS * (len(todo) + len(played)))
    references: dict[Any, float] = {}
    rows = []

    def add(label: str, problem: str, verdict: checks.Verdict, unbiased: bool, needs: str, evaluations: int, relative):
        rows.append(
            {
                "estimator": label,
                "problem": problem,
                "verdict": judge(verdict, unbiased, bound),
                "z": verdict.largest_z,
                "rows": verdict.row_z,
                "variance": verdict.variance,
                "relative": relative,
                "per_evaluation": relative * evaluations,
                "bias": verdict.bias,
                "cosine": verdict.cosine,
                "microseconds": 1e6 * verdict.seconds_per_draw,
                "evaluations": evaluations,
                "needs": needs,
                "bound": bound,
                "family_wise": testing.FAMILY_WISE,
                "draws": draws,
            }
        )
        row = rows[-1]
        print(f"{label:45s} {problem:24s} |z| {row['z']:8.2f}  {row['verdict']}", file=sys.stderr, flush=True)

    for label, problem, candidate in todo:
        if problem.name not in references:
            families = estimators.lookup("reinforce").families
            if problem.family in families:
                reference = checks.build("reinforce", {}, problem)
                of = "reference", problem.name, fingerprint(type(reference), checks)
                few = min(draws, 200_000)
                references[problem.name] = measured(of, checks.check, reference, problem, few).variance
        of = label, problem.name, fingerprint(type(candidate), checks)
        verdict = measured(of, checks.check, candidate, problem, draws)
        relative = verdict.variance / references.get(problem.name, math.nan)
        exact = candidate.unbiased or (problem.quadratic and candidate.second_order)
        add(label, problem.name, verdict, exact, candidate.needs, candidate.evaluations, relative)
    for label in played:
        name, options, settings = mdp.VERIFIED[label]
        task = mdp.build(name, options, settings)[0]
        code = fingerprint(type(task), type(task.row.of), mdp, checks, packages=PLAYED)
        plain = tuple(sorted((k, v) for k, v in settings.items() if k in ("gamma", "discount_weight", "actions")))
        if plain not in references:
            of, few = ("reference", str(plain), code), min(draws, 200_000)
            references[plain] = measured(of, mdp.check, "reinforce", {}, dict(plain), few).variance
        of = label, "mdp", code
        verdict = measured(of, mdp.check, name, options, settings, draws)
        claim = mdp.unbiased(label)
        label, _, rest = label.partition(", ")
        problem = f"mdp, {rest}" if rest else "mdp"
        add(label, problem, verdict, claim, "value", task.evaluations, verdict.variance / references[plain])
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong: cells that fail, and estimators that claim a bias which no problem shows."""
    wrong = [f"{row['estimator']} on {row['problem']}: {row['verdict']}" for row in rows if "FAILS" in row["verdict"]]
    for label in dict.fromkeys(row["estimator"] for row in rows):
        if {row["verdict"] for row in rows if row["estimator"] == label} == {"bias not resolved"}:
            wrong.append(f"{label}: said to be biased, but no problem shows it")
    return wrong


def execute(config: dict) -> int:
    """Verify, write the folder, print the table. Returns 1 if something fails, else 0."""
    path = run_path(config)
    if (code := shown(path, config, study.said)) is not None:
        return code
    torch.set_num_threads(config["threads"])
    todo = list(cells(config["estimator"]))
    if not todo:
        raise SettingError("no problem fits this estimator: look at its families and needs")
    with RunFolder(path, config) as folder:
        rows = table(todo, episodes(config["estimator"]), config["task"]["draws"], Measured(path / MEASURED))
        wrong = failures(rows)
        write_atomically(path / "table.json", json.dumps(rows, indent=1))
        if config["estimator"]["name"] in ("all", "reinforce"):
            law = m_sample_law(config["task"]["draws"] // 10)
            write_atomically(path / "m_sample_law.json", json.dumps(law))
        tuned = after_tuning(todo)
        write_atomically(path / TUNED, json.dumps(tuned, indent=1))
        text = study.leave(path)
        folder.update_meta(status="failed" if wrong else "done", failures=wrong)
    print(text)
    for line in wrong:
        print(f"FAILS {line}", file=sys.stderr)
    print(f"{len(rows)} cells, {len(wrong)} failures; table and figure are in {path}", file=sys.stderr)
    return int(bool(wrong))


def after_tuning(todo: list[tuple[str, verify.Problem, Estimator]]) -> list[dict[str, Any]]:
    """Return the variances after tuning, relative to REINFORCE's, of those of `cells` that the figure shows."""
    references: dict[str, float] = {}
    rows = []
    for label, problem, candidate in todo:
        if problem.name not in SHOWN or not moves(candidate):
            continue
        if problem.name not in references:
            plain = checks.build("reinforce", {}, problem)
            references[problem.name] = tuned_variance(plain, problem, "tuned reinforce")
        relative = tuned_variance(candidate, problem, f"tuned {label}") / references[problem.name]
        rows.append({"estimator": label, "problem": problem.name, "tuned": relative, "tuning_steps": STEPS})
    return rows


def m_sample_law(draws: int, most: int = 64) -> dict[int, float]:
    """Measure the variance of ``reinforce samples=M`` for M = 1, 2, 4, ..: it must fall as 1/M."""
    problem = next(p for p in verify.problems() if p.name == "bernoulli 3 smooth")
    counts = [2**i for i in range(most.bit_length())]
    return {
        m: checks.check(checks.build("reinforce", {"samples": m}, problem), problem, draws).variance for m in counts
    }
