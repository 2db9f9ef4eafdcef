"""``task=verify``: the table of all estimators on all problems, as text, Markdown, JSON and a figure of variances."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from relax_exp import estimators, testing
from relax_exp.config.identity import run_path
from relax_exp.enumeration import checks, mdp, problems
from relax_exp.enumeration.tuning import STEPS, moves, tuned_variance
from relax_exp.errors import SettingError
from relax_exp.estimators import user_file
from relax_exp.estimators.base import Estimator
from relax_exp.estimators.options import OF_TRAINING
from relax_exp.report.studies.verification import SHOWN
from relax_exp.run_files import DONE, FAILED, M_SAMPLE_LAW, TABLE, TUNED, VERDICTS
from relax_exp.runs.atomic_write import write_atomically
from relax_exp.runs.folder import RunFolder, shown
from relax_exp.studies import study
from relax_exp.studies.verdict_cache import PACKAGES, VerdictCache, fingerprint

TRAINING_ONLY = ("name", "path", "digest", *OF_TRAINING)  # keys of an estimator that its constructor does not take
PLAYED = (*PACKAGES, "relax_exp.tasks", "relax_exp.envs")  # whose code the cells of `mdp` run
REFERENCE_DRAWS = 200_000  # of REINFORCE at most, whose variance others are divided by
TESTS = 130  # coordinates and pairs of coordinates of one cell, at most


def cells(estimator: dict) -> Iterator[tuple[str, problems.Problem, Estimator]]:
    """Go through everything that the configuration asks to verify, as (label, problem, estimator)."""
    every = problems.problems()
    options = {k: v for k, v in estimator.items() if k not in TRAINING_ONLY}
    if path := estimator.get("path"):
        cls, changed = user_file.load(path), user_file.defaults(user_file.load(path))
        label = " ".join([cls.__name__, *(f"{k}={v}" for k, v in options.items() if v != changed[k])])
        for problem in every:
            if problem.family in user_file.families(cls) and (problem.smooth or cls.needs == "value"):
                shapes = problem.family, problem.event_shape, (problems.CONTEXT,)
                yield label, problem, estimators.build(cls.__name__, *shapes, path=path, **options).double()
        return
    names = estimators.names() if estimator["name"] == "all" else [estimator["name"]]
    for name in names:
        for variant in estimators.lookup(name).variants if estimator["name"] == "all" else [options]:
            label = " ".join(
                [name, *(f"{k}={v}" for k, v in variant.items() if k not in ("width", "depth", "activation"))]
            )
            for problem in every:
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
    todo: list[tuple[str, problems.Problem, Estimator]], played: list[str], draws: int, cache: VerdictCache
) -> list[dict[str, Any]]:
    """Verify each of `cells` and of `episodes` whose verdict is not in the ``cache``, and say each as it is known.

    Returns:
        One row for each, in the units of `relax_exp.report.studies.verification.HEADERS`.
    """
    bound = testing.threshold(TESTS * (len(todo) + len(played)))
    rows = []
    for cell in itertools.chain(
        (_cell(label, problem, candidate, draws, cache) for label, problem, candidate in todo),
        (_episodes_cell(label, draws, cache) for label in played),
    ):
        verdict = cell.verdict
        relative = verdict.variance / cell.reference
        row = {
            "estimator": cell.label,
            "problem": cell.problem,
            "verdict": judge(verdict, cell.unbiased, bound),
            "z": verdict.largest_z,
            "rows": verdict.row_z,
            "variance": verdict.variance,
            "relative": relative,
            "per_evaluation": relative * cell.evaluations,
            "bias": verdict.bias,
            "cosine": verdict.cosine,
            "microseconds": 1e6 * verdict.seconds_per_draw,
            "evaluations": cell.evaluations,
            "needs": cell.needs,
            "bound": bound,
            "family_wise": testing.FAMILY_WISE,
            "draws": draws,
        }
        print(f"{cell.label:45s} {cell.problem:24s} |z| {row['z']:8.2f}  {row['verdict']}", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


class Cell(NamedTuple):
    """An estimator on a problem: what it claims, its verdict, the variance of REINFORCE there or NaN."""

    label: str
    problem: str
    unbiased: bool
    needs: str
    evaluations: int
    verdict: checks.Verdict
    reference: float


def _cell(label: str, problem: problems.Problem, candidate: Estimator, draws: int, cache: VerdictCache) -> Cell:
    """Verify an estimator on an enumerated problem."""
    reference = math.nan
    if problem.family in estimators.lookup("reinforce").families:
        reinforce = checks.build("reinforce", {}, problem)
        of = "reference", problem.name, fingerprint(type(reinforce), checks)
        reference = cache(of, checks.check, reinforce, problem, min(draws, REFERENCE_DRAWS)).variance
    of = label, problem.name, fingerprint(type(candidate), checks)
    verdict = cache(of, checks.check, candidate, problem, draws)
    exact = candidate.unbiased or (problem.quadratic and candidate.second_order)
    return Cell(label, problem.name, exact, candidate.needs, candidate.evaluations, verdict, reference)


def _episodes_cell(label: str, draws: int, cache: VerdictCache) -> Cell:
    """Verify a policy gradient in the enumerated decision process."""
    name, options, settings = mdp.VERIFIED[label]
    task = mdp.build(name, options, settings)[0]
    code = fingerprint(type(task), type(task.row.of), mdp, checks, packages=PLAYED)
    plain = tuple(sorted((k, v) for k, v in settings.items() if k in ("gamma", "discount_weight", "actions")))
    of = "reference", str(plain), code
    reference = cache(of, mdp.check, "reinforce", {}, dict(plain), min(draws, REFERENCE_DRAWS)).variance
    verdict = cache((label, "mdp", code), mdp.check, name, options, settings, draws)
    estimator, _, rest = label.partition(", ")
    problem = f"mdp, {rest}" if rest else "mdp"
    return Cell(estimator, problem, mdp.unbiased(label), "value", task.evaluations, verdict, reference)


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
        rows = table(todo, episodes(config["estimator"]), config["task"]["draws"], VerdictCache(path / VERDICTS))
        wrong = failures(rows)
        write_atomically(path / TABLE, json.dumps(rows, indent=1))
        if config["estimator"]["name"] in ("all", "reinforce"):
            law = m_sample_law(config["task"]["draws"] // 10)
            write_atomically(path / M_SAMPLE_LAW, json.dumps(law))
        tuned = after_tuning(todo)
        write_atomically(path / TUNED, json.dumps(tuned, indent=1))
        text = study.leave(path)
        folder.update_meta(status=FAILED if wrong else DONE, failures=wrong)
    print(text)
    for line in wrong:
        print(f"FAILS {line}", file=sys.stderr)
    print(f"{len(rows)} cells, {len(wrong)} failures; table and figure are in {path}", file=sys.stderr)
    return int(bool(wrong))


def after_tuning(todo: list[tuple[str, problems.Problem, Estimator]]) -> list[dict[str, Any]]:
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
    problem = next(p for p in problems.problems() if p.name == "bernoulli 3 smooth")
    counts = [2**i for i in range(most.bit_length())]
    return {
        m: checks.check(checks.build("reinforce", {"samples": m}, problem), problem, draws).variance for m in counts
    }
