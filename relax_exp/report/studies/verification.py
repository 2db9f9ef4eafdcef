"""Table and figures of ``task=verify`` from its rows: parts ``table``, and ``law`` for the law of M samples."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Collection
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relax_exp.report.figures.axes import figure, letters, look
from relax_exp.report.figures.legend import below
from relax_exp.report.formats import Table
from relax_exp.report.runs import Run
from relax_exp.report.style import style, titled, words

HEADERS = {
    "estimator": "estimator",
    "problem": "problem",
    "verdict": "verdict",
    "z": "largest |z|",
    "rows": "rows |z|",
    "variance": "variance",
    "relative": "relative to REINFORCE",
    "per_evaluation": "times evaluations of f",
    "bias": "bias",
    "cosine": "cosine",
    "microseconds": "µs per draw",
}
DIGITS = {"z": ".2f", "rows": ".2f", "cosine": ".4f", "microseconds": ".2f"}
SHOWN = ("bernoulli 3 smooth", "categorical 2x3 smooth")  # problems in the figure of variances
PROBLEMS = {
    "bernoulli 3 smooth": "3 bits",
    "categorical 2x3 smooth": "2 variables of 3 classes",
}
ROUNDING = 1e-9  # a relative variance below is none
LABEL = 44  # letters in a line of a figure's label


def tables(run: Run) -> list[Table]:
    """Make the table of all estimators on all problems."""
    rows = of_part(run, "table")
    first = rows[0]
    note = (
        f"Over {first['draws']:,.0f} draws in double precision, tuning parameters away from their initial values. |z|: "
        f"largest deviation of the mean gradient from the enumerated one over coordinates, in standard errors; rows: "
        f"the same for the correlation between rows. Limit for both: {first['bound']:.2f} (family-wise probability "
        f"{first['family_wise']:g} over the table). Variance: mean over coordinates of one draw. Bias: length of the "
        f"mean's deviation, which for an unbiased estimator is noise."
    )
    body = [[_text(key, row[key]) for key in HEADERS] for row in rows]
    body = [[named(name), *others] for name, *others in body]
    records = [{key: value for key, value in row.items() if key != "part"} for row in rows]
    checked = Table("verify", "Estimators against enumeration", list(HEADERS.values()), body, note, records, words=3)
    return [checked, *([after] if (after := tuned(run)) else [])]


def of_part(run: Run, part: str) -> list[dict[str, Any]]:
    """Return the rows of one part."""
    return [row for row in run.rows if row["part"] == part]


def tuned(run: Run) -> Table | None:
    """Make the table of the variances after tuning; None where none were measured."""
    before = {(row["estimator"], row["problem"]): row for row in of_part(run, "table")}
    body, records = [], []
    for row in of_part(run, "tuned"):
        first = before[row["estimator"], row["problem"]]
        costed = row["tuned"] * first["evaluations"]
        numbers = (first["relative"], row["tuned"], costed)
        body.append([named(row["estimator"]), row["problem"], *(f"{number:.3g}" for number in numbers)])
        known = {"estimator": row["estimator"], "problem": row["problem"], "before tuning": first["relative"]}
        records.append(known | {"after tuning": row["tuned"], "after tuning, times evaluations": costed})
    if not body:
        return None
    steps = of_part(run, "tuned")[0]["tuning_steps"]
    note = (
        "Variance of one draw relative to REINFORCE's, mean over coordinates: at the tuning parameters of the check, "
        f"which are away from their initial values, and after {steps:,.0f} steps of Adam on the estimator's own tuning "
        "loss at the same logits, its running averages carried along; last, times its evaluations of f."
    )
    headers = ["estimator", "problem", "before tuning", "after tuning", "times evaluations of f"]
    return Table("tuned", "Variance after tuning", headers, body, note, records)


def label(run: Run) -> str:
    """Return what tells the run from others of its kind."""
    return run.estimator


def _text(key: str, value: Any) -> str:
    return value if isinstance(value, str) else format(value, DIGITS.get(key, ".3g"))


def figures(run: Run) -> dict[str, Figure]:
    """Draw variances, and the law of M samples where it was measured, by file name."""
    law = {int(row["samples"]): row["variance"] for row in run.rows if row["part"] == "law"}
    after = {(row["estimator"], row["problem"]): row["tuned"] for row in of_part(run, "tuned")}
    rows = []
    for row in of_part(run, "table"):
        relative = after.get((row["estimator"], row["problem"]), row["relative"])
        rows.append(row | {"relative": relative, "per_evaluation": relative * row["evaluations"]})
    return {"variance": draw_variances(rows, bool(after))} | ({"m_sample_law": draw_law(law)} if law else {})


def draw_law(law: dict[int, float]) -> Figure:
    """Draw the measured variances over M, beside variance(1) / M."""
    with look():
        fig = figure(4.2, 3.2)
        axes = fig.subplots()
        axes.loglog(list(law), [law[1] / m for m in law], color="0.6", label="variance at M = 1, divided by M")
        it = style("reinforce")
        axes.loglog(
            list(law), list(law.values()), ls="", marker=it.marker, color=it.color, label="REINFORCE with M samples"
        )
        axes.set(xlabel="samples M", ylabel="variance of the gradient", title=f"{PROBLEMS[SHOWN[0]]}, smooth f")
        axes.set_xticks(list(law), [str(m) for m in law])
        axes.minorticks_off()
        axes.legend(fontsize=8)
        return fig


def named(label: str, shared: Collection[str] = ()) -> str:
    """Write ``relax noise=tied surrogate=network`` in words, without the options that are ``shared``."""
    parts = label.split()
    name = " ".join(part for part in parts if "=" not in part)
    options = [part for part in parts if "=" in part and part not in shared]
    return f"{name} ({', '.join(map(words, options))})" if options else name


def _shown(rows: list[dict[str, Any]], problem: str) -> list[dict[str, Any]]:
    """Return the rows of one problem that have a variance, the lowest first."""
    chosen = [row for row in rows if row["problem"] == problem and row["relative"] > ROUNDING]
    return sorted(chosen, key=lambda row: row["relative"])


def draw_variances(rows: list[dict[str, Any]], tuned: bool = False) -> Figure:
    """Draw the variance relative to REINFORCE, alone and times the evaluations of f, on the smooth problems."""
    present = {row["problem"] for row in rows}
    problems = [p for p in SHOWN if p in present] or [rows[0]["problem"]]
    most = max(sum(row["problem"] == p and row["relative"] > ROUNDING for row in rows) for p in problems)
    shared = set.intersection(*(set(row["estimator"].split()[1:]) for row in rows))
    lines = {row["estimator"]: len(textwrap.wrap(titled(named(row["estimator"], shared)), LABEL)) for row in rows}
    spacing = 1.0  # in lines of text: no label touches the next one
    for problem in problems:
        of = [lines[row["estimator"]] for row in _shown(rows, problem)]
        spacing = max([spacing, *((a + b) / 2 for a, b in itertools.pairwise(of))])
    with look():
        fig = figure(5.6 * len(problems), max(3.0, 1.5 + 0.17 * most * spacing))
        panels = fig.subplots(1, len(problems), squeeze=False)[0]
        letters(panels)
        for axes, problem in zip(panels, problems, strict=True):
            chosen = _shown(rows, problem)
            at = range(len(chosen))
            for y, row in zip(at, chosen, strict=True):
                axes.plot([row["relative"], row["per_evaluation"]], [y, y], color="0.75", lw=1)
            once, times = ([row[key] for row in chosen] for key in ("relative", "per_evaluation"))
            axes.plot(times, at, ls="", marker="D", ms=4, mfc="white", mec="#D55E00")
            axes.plot(once, at, ls="", marker="o", ms=4.5, color="#0072B2")
            marks = ["" if row["verdict"] == "unbiased" else " *" for row in chosen]
            names = [textwrap.fill(titled(named(row["estimator"], shared)), LABEL) for row in chosen]
            labels = [name + mark for name, mark in zip(names, marks, strict=True)]
            axes.set_yticks(at, labels, fontsize=8)
            axes.set_xscale("log")
            axes.axvline(1, color="black", linewidth=0.8)
            axes.set_ylim(-0.8, len(chosen) - 0.2)
            axes.set_title(PROBLEMS.get(problem, problem), loc="right")
            axes.set_xlabel("variance relative to REINFORCE", fontsize=9)
        fig.suptitle("Variance of the gradient on problems with a smooth f")
        handles = [
            Line2D([], [], ls="", marker="o", ms=4.5, color="#0072B2", label="of one draw"),
            Line2D([], [], ls="", marker="D", ms=4, mfc="white", mec="#D55E00", label="times its evaluations of f"),
        ]
        at_which = "after tuning on their own loss" if tuned else "at random parameters, away from their best"
        notes = ["*: biased", f"estimators with tuning parameters are shown {at_which}"]
        below(fig, handles, [*notes, "estimators without variance are left out"])
        return fig
