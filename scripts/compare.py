"""One table of all estimators: bias, evaluations, time of a step, variance once tuned, and when to use each.

``make compare`` writes results/comparison/table.csv and table.md; the page "Which estimator?" of the documentation
takes its numbers from the former. Variances are those of one draw relative to REINFORCE's on the same problem, in
double precision, after 200 steps of Adam on the estimator's own tuning loss at fixed logits, with buffers carried
along; the first of the verified variants of each, not multiplied by its evaluations. Times are processor time of a
step of the VAE with one linear layer of 200 binary latents, batch 24, one thread, not compiled; of estimators for
categories only that of one linear layer of 20 x 10.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path

import torch
from bench import images
from handbook import estimators as pages
from handbook.which import use_when

from relax_exp import estimators
from relax_exp.enumeration import checks
from relax_exp.enumeration.problems import Problem, problems, smooth_loss
from relax_exp.enumeration.tuning import tuned_variance
from relax_exp.numerics.machine import hardware
from relax_exp.numerics.random_streams import stream
from relax_exp.report.style import words
from relax_exp.runs.build import make_task
from relax_exp.training.replicas import Replicas

OUT = Path(__file__).resolve().parents[1] / "results" / "comparison"
STEPS, WARM = 10, 3
ROUNDING = 1e-9
KEYS = ("estimator", "unbiased", "evaluations", "ms")


def references() -> list[Problem]:
    """Three bits and two variables of three classes, as verified, and twenty bits, too many to enumerate in a row."""
    known = {problem.name: problem for problem in problems()}
    generator = stream(0, "comparison")
    logits = 2 * torch.rand((2, 20), generator=generator, dtype=torch.float64) - 1
    twenty = Problem("bernoulli 20 smooth", "bernoulli", (20,), logits, smooth_loss((20,), 2, generator))
    return [known["bernoulli 3 smooth"], twenty, known["categorical 2x3 smooth"]]


def tuned(name: str, options: dict, problem: Problem) -> float:
    """The variance of one draw, mean over coordinates, after tuning."""
    return tuned_variance(checks.build(name, options, problem), problem, f"comparison {name}")


def milliseconds(name: str, options: dict) -> float:
    """Processor time of a training step of the VAE, the median of ten."""
    entry, given = estimators.lookup(name), {"variance_draws": 2, "batch_size": 24}
    settings = {"name": name, "lr_scale": 1.0, **options}
    if "bernoulli" in entry.families:
        task = make_task("vae", settings, images(), **given)
    else:
        task = make_task("categorical_vae", settings, images(), hidden=[], **given)
    replicas, taken = Replicas(task, [0], [1e-3], torch.device("cpu"), False), []
    begun = time.process_time()
    for _ in itertools.islice(replicas.advance(STEPS + WARM), STEPS + WARM):
        taken.append(time.process_time() - begun)
        begun = time.process_time()
    return 1e3 * sorted(taken[WARM:])[STEPS // 2]


def row(name: str, plain: dict[str, float], of: list[Problem]) -> dict[str, object]:
    """The numbers of one estimator, with the options of its first variant."""
    entry = estimators.lookup(name)
    facts = dict(pages.facts(name, entry))
    found = {"estimator": name, "unbiased": facts["unbiased"], "evaluations": facts["evaluations of f for a gradient"]}
    timed = {**entry.variants[0], "width": 200} if name == "relax" else entry.variants[0]
    try:
        found["ms"] = f"{milliseconds(name, timed):.1f}" if {"bernoulli", "categorical"} & {*entry.families} else ""
    except (TypeError, ValueError) as error:  # too many states, one layer only
        print(f"{name}: not timed: {error}", file=sys.stderr)
        found["ms"] = ""
    for problem in of:
        options = entry.variants[0]
        fits = checks.applies(name, options, problem) and not too_large(name, problem)
        value = tuned(name, options, problem) / plain[problem.name] if fits else None
        found[problem.name] = "" if value is None else f"{value:.3g}" if value > ROUNDING else "0"
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found | {"use it": use_when(name)}


def too_large(name: str, problem: Problem) -> bool:
    """Whether the estimator would enumerate a million states in every draw."""
    return name == "exact" and problem.event_shape[0] > 16


def main() -> int:
    """Measure all, or those that are named, and write the table; rows of others stay."""
    parser = argparse.ArgumentParser(description="Compare all estimators: results/comparison.")
    parser.add_argument("names", nargs="*", help="estimators; all where none is named")
    chosen = parser.parse_args().names or estimators.names()
    torch.set_num_threads(1)
    of = references()
    heads = [*KEYS, *(problem.name for problem in of), "use it"]
    path = OUT / "table.csv"
    kept = {}
    if path.is_file():
        with open(path, newline="") as file:
            kept = {r["estimator"]: r for r in csv.DictReader(file)}
    plain = {problem.name: tuned("reinforce", {}, problem) for problem in of}
    for name in chosen:
        kept[name] = row(name, plain, of)
        write(heads, [kept[name] for name in estimators.names() if name in kept])
    return 0


def write(heads: list[str], rows: list[dict]) -> None:
    """Write both files, as far as they are known."""
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, heads, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (OUT / "table.md").write_text(markdown(heads, rows))


def markdown(heads: list[str], rows: list[dict]) -> str:
    """The table as a page, with what its numbers are."""
    lines = [f"# All estimators\n\n{' '.join(__doc__.split(chr(10) * 2)[1].split())}\n"]
    lines.append(f"Measured on {hardware()['cpu']}, shared with other runs.\n")
    lines.append("| " + " | ".join(map(words, heads)) + " |")
    lines.append("|---" * len(heads) + "|")
    lines += ["| " + " | ".join(str(r.get(head) or "–").replace("|", "\\|") for head in heads) + " |" for r in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
