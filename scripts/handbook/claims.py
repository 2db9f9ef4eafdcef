"""The claims page: sentences of the papers (docs/claims.yaml), each held against the committed runs.

The verdict is computed, not written: a difference holds where its 95% t interval over paired seeds lies on the claimed
side of zero and the runs are as long as the published ones, it does not hold where the interval lies on the other side,
and everything else is undecided. Later results change the page without a word being touched.
"""

from __future__ import annotations

import csv
import math
import operator
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from handbook.links import ROOT
from relax_exp.config.identity import flatten
from relax_exp.report import archive
from relax_exp.report.statistics import interval

FILE = ROOT / "docs" / "claims.yaml"
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
CLASSES = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided"}
COMPARE = {"<": operator.lt, ">": operator.gt}


class Found(NamedTuple):
    """What the committed runs say: a verdict, our value in words, and how far they went."""

    verdict: str
    ours: str
    extent: str = ""


class Curve(NamedTuple):
    """One replica: its configuration with dotted keys, its seed and rate, and its evaluations."""

    config: dict[str, Any]
    seed: int
    lr: float
    rows: list[dict[str, float]]

    def last(self, metric: str) -> float:
        """The metric at the last evaluation that has it; NaN where none does."""
        return next((row[metric] for row in reversed(self.rows) if metric in row), math.nan)

    def mean(self, metric: str) -> float:
        """The metric's mean over the evaluations."""
        values = [row[metric] for row in self.rows if metric in row]
        return sum(values) / len(values) if values else math.nan

    def at(self, metric: str, step: int) -> float:
        """The metric at a step."""
        return next((row[metric] for row in self.rows if row["step"] == step and metric in row), math.nan)


@cache
def curves(folder: str) -> tuple[Curve, ...]:
    """The replicas of a folder of results."""
    _, runs = archive.read(ROOT / "results" / folder)
    return tuple(
        Curve(flatten(run.config), replica.seed, replica.lr, [replica.rows[step] for step in sorted(replica.rows)])
        for run in runs
        for replica in run.replicas()
        if replica.rows
    )


def selected(folder: str, where: dict[str, Any]) -> list[Curve]:
    """The replicas whose configuration has these values; ``lr`` is one of them."""
    return [
        curve
        for curve in curves(folder)
        if all((curve.lr if key == "lr" else curve.config.get(key)) == value for key, value in where.items())
    ]


def difference(
    folder, metric, a, b, claim=">", where=None, over="last", published_steps=None, digits=2, never=None
) -> Found:
    """``a`` minus ``b``, paired by seed, at the last step that both reached.

    ``over``: "mean" for means over the run, "end" for the last value of each, where runs do not end by steps.
    ``never``, with "end": the metric that stands in where a replica has no value at its end, as its episodes do where
    it never solved its environment, since it would have needed more. Where these do not tell the order of a pair,
    because the other one needed more than they are or never got there either, the pair is left out.

    Raises:
        ValueError: There are two runs of one length and seed to choose from, or ``never`` without "end".
    """
    if never and over != "end":
        raise ValueError("never= stands in for values at the end: over must be end")
    length = lambda c: c.rows[-1]["step"] if c.rows else 0  # noqa: E731
    # Of runs that differ in something else, the longest of a seed counts.
    found = [sorted(selected(folder, {**(where or {}), **of}), key=length) for of in (a, b)]
    for each in found:
        if len({(c.seed, length(c)) for c in each}) < len(each):
            raise ValueError(f"{folder}: {a}, {b} are several runs of one length and seed: name what they differ in")
    ones, others = ({c.seed: c for c in each} for each in found)
    shared = sorted(ones.keys() & others.keys())
    if not shared:
        return Found(UNDECIDED, "not run")
    reached = lambda c: max((int(row["step"]) for row in c.rows if metric in row), default=0)  # noqa: E731
    steps = [reached(c) for seed in shared for c in (ones[seed], others[seed])]
    step = min(filter(None, steps), default=0)  # who has no value at all is left out below
    value = {"mean": lambda c: c.mean(metric), "end": lambda c: c.last(metric), "last": lambda c: c.at(metric, step)}[
        over
    ]
    pairs, missing = [], 0
    for one, other in ((ones[seed], others[seed]) for seed in shared):
        x, y = value(one), value(other)
        if never and math.isfinite(y) and not math.isfinite(x) and one.last(never) > y:
            x, missing = one.last(never), missing + 1
        elif never and math.isfinite(x) and not math.isfinite(y) and other.last(never) > x:
            y, missing = other.last(never), missing + 1
        if math.isfinite(x) and math.isfinite(y):
            pairs.append((x, y))
    if not pairs:
        return Found(UNDECIDED, "not measured")
    mean, half = interval(np.array([x - y for x, y in pairs]))
    left, right = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
    ours = f"{left:.{digits}f} against {right:.{digits}f}: {mean:+.{digits}f}"
    ours += f" ± {half:.{digits}f}" if half is not None else " (no interval)"
    extent = f"{step:,} steps" + (f" of {published_steps:,}" if published_steps else "")
    extent += f", {len(pairs)} paired seed{'s' * (len(pairs) > 1)}"
    if missing:
        extent += f"; {missing} of the replicas never got there and count{'s' * (missing == 1)} as long as watched"
    return Found(_verdict(mean, half, claim, bool(published_steps) and step < published_steps), ours, extent)


def _verdict(mean: float, half: float | None, claim: str, short: bool) -> str:
    if short or half is None or abs(mean) <= half:
        return UNDECIDED
    return HOLDS if COMPARE[claim](mean, 0) else FAILS


def count(folder, metric, claim, bound, where, against) -> Found:
    """How many seeds of two estimators end on the claimed side of ``bound``, decided by Fisher's exact test at 5%."""
    from scipy.stats import fisher_exact

    good, total = [], []
    for of in (where, against):
        values = [curve.last(metric) for curve in selected(folder, of)]
        if not values:
            return Found(UNDECIDED, "not run")
        good.append(sum(COMPARE[claim](value, bound) for value in values))
        total.append(len(values))
    p = fisher_exact([good, [n - k for n, k in zip(total, good, strict=True)]]).pvalue
    more = good[0] / total[0] > good[1] / total[1]
    words = " against ".join(f"{k} of {n} seeds" for k, n in zip(good, total, strict=True))
    steps = int(max(row["step"] for curve in selected(folder, where) for row in curve.rows))
    verdict = UNDECIDED if p > 0.05 else HOLDS if more else FAILS
    return Found(verdict, f"{words} (p = {p:.2g})", f"{steps:,} steps")


def trend(estimator: str, column: str, claim: str) -> Found:
    """Decide whether a column of the temperature study rises (">") or falls ("<") with the temperature.

    It has to do so on every problem. What decides is its rank correlation, where the bias is resolved.
    """
    from scipy.stats import spearmanr

    with open(ROOT / "results" / "temperature" / "table.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "gradient" and row["estimator"] == estimator]
    ranks = {}
    for problem in sorted({row["problem"] for row in rows}):
        points = [row for row in rows if row["problem"] == problem and float(row["bias"]) > 0]
        pairs = [(float(row["temperature"]), float(row[column])) for row in points]
        ranks[problem] = float(spearmanr(pairs).statistic)
    good = [COMPARE[claim](rank, 0) and abs(rank) > 0.9 for rank in ranks.values()]
    words = ", ".join(f"{rank:+.2f} ({problem})" for problem, rank in ranks.items())
    verdict = HOLDS if all(good) else FAILS if not any(good) else UNDECIDED
    return Found(verdict, f"rank correlation with the temperature {words}", "one point of each problem")


@cache
def verified() -> list[dict[str, str]]:
    """The lines of the verification's table that hold a verdict; those of variances after tuning hold none."""
    with open(ROOT / "results" / "verify" / "table.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["verdict"]]


def enumerated(unbiased: str) -> Found:
    """Whether every cell of estimators that say so is unbiased (or found biased)."""
    verdicts: dict[str, set[str]] = {}
    for row in verified():
        verdicts.setdefault(row["estimator"].split()[0], set()).add(row["verdict"])
    names = [name for name, said in verdicts.items() if (said == {"unbiased"}) == (unbiased == "yes")]
    cells = [row for row in verified() if row["estimator"].split()[0] in names]
    if unbiased == "yes":
        wrong = [row for row in verified() if row["verdict"].startswith("FAILS")]
        largest = max(float(row[key]) for row in cells for key in ("z", "rows"))
        words = f"{len(names)} estimators, {len(cells)} cells, largest |z| {largest:.2f}"
        words += f" (limit {float(cells[0]['bound']):.2f})"
        return Found(FAILS if wrong else HOLDS, words, f"{float(cells[0]['draws']):,.0f} draws a cell")
    seen = [name for name in names if "biased" in verdicts[name]]
    return Found(HOLDS if seen == names else UNDECIDED, f"{len(seen)} of {len(names)} are found biased")


def compared(a: str, b: str, column: str, claim: str = "<", problems: str = "", tolerance: float = 0.0) -> Found:
    """Compare a column of the verification's table between two estimators, problem by problem.

    Differences below ``tolerance`` (relative) are none, and so is a bias below its own noise.
    """
    values: dict[str, dict[str, float]] = {}
    for row in verified():
        if row["estimator"] in (a, b) and row["problem"].startswith(problems):
            values.setdefault(row["problem"], {})[row["estimator"]] = float(row[column])
    both = {name: (pair[a], pair[b]) for name, pair in values.items() if len(pair) == 2}
    if not both:
        return Found(UNDECIDED, "not measured")
    good = [COMPARE[claim](x, y) or abs(x - y) <= tolerance * abs(y) for x, y in both.values()]
    ratios = sorted(x / y for x, y in both.values() if y > 0)
    words = f"on {sum(good)} of {len(good)} problems; ratio {ratios[0]:.2g} to {ratios[-1]:.2g}" if ratios else ""
    verdict = HOLDS if all(good) else FAILS if not any(good) else UNDECIDED
    return Found(verdict, words, f"{float(verified()[0]['draws']):,.0f} draws a cell")


def written(verdict: str, ours: str, extent: str = "") -> Found:
    """What no rule decides: said by hand, in the file."""
    return Found(verdict, ours, extent)


MEASURES: dict[str, Callable[..., Found]] = {
    "difference": difference,
    "count": count,
    "enumerated": enumerated,
    "compared": compared,
    "trend": trend,
    "written": written,
}


def page(file: Path = FILE) -> str:
    """All claims, a table for each paper."""
    papers = yaml.safe_load(file.read_text())
    lines, tally = [], dict.fromkeys(CLASSES, 0)
    for paper in papers:
        lines += [f"## {paper['paper']}", ""]
        if "about" in paper:
            lines += [paper["about"].strip(), ""]
        lines += ["| claim | verdict | published | ours | how far | data |", "|---|---|---|---|---|---|"]
        for claim in paper["claims"]:
            found = MEASURES[claim["measure"]](**claim.get("of", {}))
            tally[found.verdict] += 1
            data = f"[{claim['data']}](results/{claim['data']}/README.md)"
            verdict = f'<span class="{CLASSES[found.verdict]}">{found.verdict}</span>'
            said = [claim["claim"], verdict, claim.get("published", "–"), found.ours, found.extent or "–", data]
            lines.append("| " + " | ".join(str(text).strip().replace("|", "\\|") for text in said) + " |")
        lines.append("")
        lines += [f"- {note.strip()}" for note in paper.get("notes", [])] + [""]
    head = [
        "# Claims",
        "",
        f"What the papers say, held against the committed runs: {tally[HOLDS]} claims hold, {tally[FAILS]} do not, "
        f"{tally[UNDECIDED]} are undecided. The verdicts are computed when this page is built, by one rule: a "
        "difference *holds* where its 95% t interval over paired seeds lies on the claimed side of zero and our runs "
        "are as long as the published ones; it *does not hold* where the interval lies on the other side; everything "
        "else is *undecided*. Shares of seeds are compared by Fisher's exact test at 5%, expectations and variances at "
        "a point by enumeration.",
        "",
        "What the runs say beyond the papers' sentences: [results](results/README.md).",
        "",
    ]
    return "\n".join([*head, *lines])
