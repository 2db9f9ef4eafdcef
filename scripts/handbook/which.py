"""The comparison table of all estimators, from the verification, the benchmark and the estimators' pages."""

from __future__ import annotations

import csv
import json
import re

import docs
from handbook.links import ROOT
from relax_exp import estimators

BEGIN, END = "<!-- table -->", "<!-- end -->"
PROBLEMS = {
    "bernoulli 3 smooth": "three bits",
    "categorical 2x3 smooth": "two of three classes",
    "gaussian 1 smooth": "a Gaussian",
}
TIMED = {"rloo4": "rloo"}  # names in the benchmark that are not the estimators'
WHAT = {"value": "values only", "gradient": "slope at hard samples", "relaxed": "soft values and slope"}


def milliseconds() -> dict[str, str]:
    """A compiled step of the linear VAE, of the fastest variant of each estimator that was timed."""
    steps = json.loads((ROOT / "results" / "bench" / "cpu.json").read_text())["steps"]
    found: dict[str, float] = {}
    for row in steps:
        name = row["estimator"].split()[0]
        if row["model"] == "linear1":
            name = TIMED.get(name, name)
            found[name] = min(found.get(name, float("inf")), row["compiled"]["median"])
    return {name: f"{value:.2f}" for name, value in found.items()}


def variances() -> dict[str, dict[str, float]]:
    """By estimator and problem, the lowest variance relative to REINFORCE over its variants."""
    found: dict[str, dict[str, float]] = {}
    with open(ROOT / "results" / "verify" / "table.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["problem"] in PROBLEMS:
                of = found.setdefault(row["estimator"].split()[0], {})
                of[row["problem"]] = min(of.get(row["problem"], float("inf")), float(row["relative"]))
    return found


def use_when(name: str) -> str:
    """The first line of the page's advice."""
    found = re.search(r"^## When to use it\n\n- (.+)$", docs.by_hand(docs.PAGES / f"{name}.md"), re.M)
    if not found:
        return "–"
    said = re.sub(r"\]\(\.\./", "](", found[1])
    return said.removeprefix("Use it ").split(": ")[0].rstrip(".")


def table() -> str:
    """All estimators: bias, cost, variance, needs, advice."""
    times, spread = milliseconds(), variances()
    heads = ["estimator", "unbiased", "evaluations of f", "needs of f", "ms a step"]
    heads += [*(f"variance, {said}" for said in PROBLEMS.values()), "use it"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in estimators.names():
        entry = estimators.lookup(name)
        facts = dict(docs.facts(name, entry))
        numbers = [_short(spread.get(name, {}).get(problem)) for problem in PROBLEMS]
        cells = [f"[{name}](estimators/{name}.md)", facts["unbiased"], facts["evaluations of f for a gradient"]]
        cells += [WHAT[entry.needs], times.get(name, "–"), *numbers, use_when(name)]
        lines.append("| " + " | ".join(cells).replace("`", "") + " |")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "–" if value is None else "0" if value < 1e-9 else f"{value:.2g}"


NOTE = """\
**Unbiased**: decided by enumeration ([results](results/verify/README.md)). **Evaluations of f**: for one gradient.
**ms a step**: of the VAE with one linear layer, batch 24, compiled, one core ([benchmark](results/bench/README.md)); –:
not timed. **Variance**: relative to REINFORCE on the same problem, the best of the variants that are verified, not
multiplied by the evaluations; 0: every draw is the same."""


def filled(text: str) -> str:
    """The page with its table in place of the marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}## All estimators\n\n{NOTE}\n\n{table()}\n{rest.partition(END)[2]}"
