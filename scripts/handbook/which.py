"""The comparison table of all estimators, from results/comparison and the estimators' pages."""

from __future__ import annotations

import csv
import re

from handbook import estimators as pages
from handbook.links import ROOT
from relax_exp import estimators

BEGIN, END = "<!-- table -->", "<!-- end -->"
PROBLEMS = {
    "bernoulli 3 smooth": "three bits",
    "bernoulli 20 smooth": "twenty bits",
    "categorical 2x3 smooth": "two of three classes",
}
WHAT = {"value": "values only", "gradient": "slope at hard samples", "relaxed": "soft values and slope"}


def compared() -> dict[str, dict[str, str]]:
    """The rows of `make compare`, by estimator."""
    with open(ROOT / "results" / "comparison" / "table.csv", newline="") as file:
        return {row["estimator"]: row for row in csv.DictReader(file)}


def use_when(name: str) -> str:
    """The first line of the page's advice."""
    found = re.search(r"^## When to use it\n\n- (.+)$", pages.by_hand(pages.PAGES / f"{name}.md"), re.M)
    if not found:
        return "–"
    said = re.sub(r"\]\(\.\./", "](", found[1])
    return said.removeprefix("Use it ").split(": ")[0].rstrip(".")


def table() -> str:
    """All estimators: bias, cost, variance, needs, advice."""
    measured = compared()
    heads = ["estimator", "unbiased", "evaluations of f", "needs of f", "ms a step"]
    heads += [*(f"variance, {said}" for said in PROBLEMS.values()), "use it"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in estimators.names():
        entry = estimators.lookup(name)
        facts = dict(pages.facts(name, entry))
        row = measured.get(name, {})
        numbers = [row.get(key) or "–" for key in ("ms", *PROBLEMS)]
        cells = [f"[{name}](estimators/{name}.md)", facts["unbiased"], facts["evaluations of f for a gradient"]]
        cells += [WHAT[entry.needs], *numbers, use_when(name)]
        lines.append("| " + " | ".join(cells).replace("`", "") + " |")
    return "\n".join(lines)


NOTE = """\
**Unbiased**: decided by enumeration ([results](results/verify/README.md)). **Evaluations of f**: for one gradient.
**ms a step**: processor time of the VAE with one linear layer, batch 24, not compiled, one core; of estimators for
categories only that of one linear layer of 20 x 10. **Variance**: of one draw after tuning, relative to REINFORCE on
the same problem, not multiplied by the evaluations; 0: every draw is the same. Numbers:
[results/comparison](results/comparison/table.md). –: does not apply, or was not measured."""


def filled(text: str) -> str:
    """The page with its table in place of the marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}## All estimators\n\n{NOTE}\n\n{table()}\n{rest.partition(END)[2]}"
