"""docs/tasks/: the keys of every task and the estimators that can do it, below what is written by hand in its page."""

from __future__ import annotations

from pathlib import Path

from handbook.estimators import cell
from handbook.links import ROOT
from relax_exp.config.yaml_files import CONFIGS, documented, of_task, summary
from relax_exp.schema import show
from relax_exp.tasks.registry import TASKS

PAGES = ROOT / "docs" / "tasks"
BEGIN = "<!-- made by `make docs` from configs/task/ and the registry: write above this mark -->"


def names() -> list[str]:
    """All tasks, by their files."""
    return sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))


def pages() -> dict[Path, str]:
    """Every page with its generated part made anew, and the list of all."""
    made = {PAGES / f"{name}.md": page(name) for name in names()}
    rows = [f"| [{name}]({name}.md) | {sentence(name)} |" for name in names()]
    about = "A task is an objective with its data, models and metrics: `relax-exp task=NAME estimator=NAME`."
    index = ["# Tasks", "", "<!-- made by `make docs` -->", "", about, "", "| task | what |", "|---|---|", *rows]
    return {PAGES / "README.md": "\n".join(index) + "\n", **made}


def page(name: str) -> str:
    """The page of one task."""
    path = PAGES / f"{name}.md"
    text = path.read_text() if path.is_file() else f"# {name}\n\n{sentence(name)}\n\n"
    return f"{text.partition(BEGIN)[0].rstrip()}\n\n{BEGIN}\n\n{made(name)}"


def made(name: str) -> str:
    """Keys with their defaults, and the estimators."""
    found = documented(CONFIGS / "task" / f"{name}.yaml")
    own = {key: said for key, said in found.items() if key.startswith("task.") and said[1]}
    shared = {key: found[key] for key in COMMON if key in found and key not in TASKS[name].unused}
    lines = ["## Keys", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | `{value}` | {cell(comment)} |" for key, (value, comment) in own.items()]
    lines += [f"| `{key}` | `{value}` | {cell(comment or COMMON[key])} |" for key, (value, comment) in shared.items()]
    able = fitting(name)
    if defaults := of_task(name)["task"].get("estimator_defaults"):
        lines += ["", "Options of estimators that are *by task*, unless they are typed: "]
        lines[-1] += ", ".join(f"`estimator.{key}={show(value)}`" for key, value in defaults.items()) + "."
    if TASKS[name].beside:
        lines += ["", f"Keys that every run has: `relax-exp task={name} --help`.", "", "## Estimators", ""]
        lines += ["They are set beside each other, and none is chosen:", ""]
    else:
        typed = f"relax-exp task={name} estimator={able[0]} --help"
        lines += ["", f"Keys that every run has, and those of an estimator: `{typed}`.", "", "## Estimators", ""]
    lines.append(", ".join(f"[{other}](../estimators/{other}.md)" for other in able) + ".")
    return "\n".join(lines) + "\n"


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

    entry = TASKS[name]
    offered = {name: None for family in entry.families or (None,) for name in estimators.names(family)}
    return list(entry.estimators or offered)


def sentence(name: str) -> str:
    """The sentence at the head of a task's file, for a cell of a table."""
    return cell(summary(CONFIGS / "task" / f"{name}.yaml"))
