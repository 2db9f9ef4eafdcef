"""docs/tasks/: the keys of every task and the estimators that can do it, below what is written by hand in its page."""

from __future__ import annotations

import re
from pathlib import Path

from handbook.links import ROOT
from relax_exp.cli.help import UNUSED

PAGES = ROOT / "docs" / "tasks"
CONFIGS = ROOT / "configs"
BEGIN = "<!-- made by `make docs` from configs/task/ and the registry: write above this mark -->"


def names() -> list[str]:
    """All tasks, by their files."""
    return sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))


def pages() -> dict[Path, str]:
    """Every page with its generated part made anew, and the list of all."""
    made = {PAGES / f"{name}.md": page(name) for name in names()}
    rows = [f"| [{name}]({name}.md) | {summary(name)} |" for name in names()]
    about = "A task is an objective with its data, models and metrics: `relax-exp task=NAME estimator=NAME`."
    index = ["# Tasks", "", "<!-- made by `make docs` -->", "", about, "", "| task | what |", "|---|---|", *rows]
    return {PAGES / "README.md": "\n".join(index) + "\n", **made}


def page(name: str) -> str:
    """The page of one task."""
    path = PAGES / f"{name}.md"
    text = path.read_text() if path.is_file() else f"# {name}\n\n{summary(name)}\n\n"
    return f"{text.partition(BEGIN)[0].rstrip()}\n\n{BEGIN}\n\n{made(name)}"


def made(name: str) -> str:
    """Keys with their defaults, and the estimators."""
    text = (CONFIGS / "task" / f"{name}.yaml").read_text()
    inside = re.search(r"^task:\n((?:[ #].*\n|\n)*)", text, re.M)[1]
    own = re.findall(r"^  (\w+): +(.*?) *# (.+)$", inside, re.M)
    outside = re.findall(r"^(steps|lr|seeds|batch_size|eval_every): +([^#\n]*?) *(?:# (.+))?$", text, re.M)
    lines = ["## Keys", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `task.{key}` | `{value}` | {cell(comment)} |" for key, value, comment in own]
    used = [line for line in outside if line[0] not in UNUSED.get(name, ())]
    lines += [f"| `{key}` | `{value}` | {cell(comment or COMMON[key])} |" for key, value, comment in used]
    able = fitting(name)
    if name in TOGETHER:
        lines += ["", f"Keys that every run has: `relax-exp task={name} --help`.", "", "## Estimators", ""]
        lines += ["They are set beside each other, and none is chosen:", ""]
    else:
        typed = f"relax-exp task={name} estimator={able[0]} --help"
        lines += ["", f"Keys that every run has, and those of an estimator: `{typed}`.", "", "## Estimators", ""]
    lines.append(", ".join(f"[{other}](../estimators/{other}.md)" for other in able) + ".")
    return "\n".join(lines) + "\n"


TOGETHER = ("histograms", "simplex")  # studies that set the same estimators beside each other each time

COMMON = {
    "steps": "updates of the parameters",
    "lr": "learning rate",
    "seeds": "trained together",
    "batch_size": "rows of one update",
    "eval_every": "updates between evaluations",
}


def fitting(name: str) -> list[str]:
    """The estimators that can do the task, with one of its kinds of variables."""
    from relax_exp import estimators
    from relax_exp.tasks.registry import TASKS

    entry = TASKS[name]
    offered = {name: None for family in entry.families or (None,) for name in estimators.names(family)}
    return list(entry.estimators or offered)


def summary(name: str) -> str:
    """The sentence at the head of its file."""
    lines = (CONFIGS / "task" / f"{name}.yaml").read_text().splitlines()
    return cell(next(line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line))


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|")
