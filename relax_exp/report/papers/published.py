"""What the papers print, and which of our cells stands beside it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from relax_exp import estimators
from relax_exp.config.identity import flatten
from relax_exp.config.resolve import estimator_options
from relax_exp.report import kinds
from relax_exp.report.cells import Cell
from relax_exp.report.groups import RATES, choose, longest, text
from relax_exp.report.style import natural, order

TUCKER = "rebar (granularity=parameter)"
COLUMNS = {"concrete": "Concrete", "nvil": "NVIL", "muprop": "MuProp", TUCKER: "REBAR (Tucker)", "rebar": "REBAR",
           "relax": "RELAX"}  # fmt: skip


@cache
def published() -> dict[str, Any]:
    """Read what the papers print."""
    return yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))


def settings(cells: Iterable[Cell]) -> dict[int, str]:
    """Return a label for each cell's estimator, by the cell's id: its name and the settings that tell it apart.

    These are the settings in which cells of its name differ, on any task, and in which it has not the default of its
    task: an estimator as it is by default has its bare name, which is that of its column. Rates are no such setting.
    REBAR's granularity counts wherever it is not the default.
    """
    flat = {}
    for c in cells:
        own = kinds.of(c.kind).rows
        config = flatten(c.runs[0].config)
        flat[id(c)] = {k: v for k, v in config.items() if k.startswith("estimator.") or k in own}
    labels = {}
    for cell in cells:
        same = [flat[id(other)] for other in cells if other.name == cell.name]
        keys = dict.fromkeys(key for options in same for key in options)
        ignored = ("estimator.granularity", *RATES)
        differing = [key for key in keys if len({str(options.get(key)) for options in same}) > 1]
        default = defaults(cell.name, cell.runs[0].config["task"]["name"])
        told = [k for k in differing if k not in ignored and text(flat[id(cell)].get(k)) != text(default.get(k))]
        parts = {key.split(".", 1)[1]: flat[id(cell)].get(key) for key in told}
        if flat[id(cell)].get("estimator.granularity") == "parameter":
            parts["granularity"] = "parameter"
        shown = ", ".join(f"{key}={text(value)}" for key, value in parts.items() if value is not None)
        labels[id(cell)] = f"{cell.name} ({shown})" if shown else cell.name
    return labels


@cache
def defaults(name: str, task: str) -> dict[str, Any]:
    """Return the options of a registered estimator by default, with dots; of another one nothing is known."""
    return flatten({"estimator": estimator_options(name, task)}) if name in estimators.REGISTRY else {}


class Chosen(NamedTuple):
    """The cell that speaks for an estimator on a task, among those that were tried at other rates."""

    cell: Cell
    tried: list[float]
    rule: str | None

    @property
    def how(self) -> str:
        """Say how its learning rate was chosen."""
        if len(self.tried) == 1:
            return "the only rate run"
        rates = ", ".join(f"{lr:g}" for lr in self.tried)
        return f"best {self.rule} of {rates}" if self.rule else f"the only rate that finished of {rates}"


def chosen(cells: list[Cell], kind: str) -> dict[str, dict[str, Chosen]]:
    """Choose among cells of one kind, by task and by estimator (as `settings` labels it), the cell at the best rate.

    Where runs of different lengths are there, `longest` says which count.
    """
    cells = [cell for cell in cells if cell.kind == kind]
    labels = settings(cells)
    groups: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        groups.setdefault(cell.task, {}).setdefault(labels[id(cell)], []).append(cell)
    out: dict[str, dict[str, Chosen]] = {}
    for task, of in groups.items():
        out[task] = {}
        for label in sorted(of, key=column_order):
            tried = longest(of[label])
            cell, rule = choose(tried)
            out[task][label] = Chosen(cell, sorted({c.lr for c in tried}), rule)
    return out


def column_order(label: str) -> tuple:
    """Return a sort key: the papers' columns first, in their order; then the order of figures."""
    known = list(COLUMNS)
    return (known.index(label), "") if label in known else (len(known), order(label.split(" (")[0]), natural(label))


def short(steps: int) -> str:
    """Write a number of steps shortly: 20k, 2M."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if steps >= size and steps % (size // 10) == 0:
            return f"{steps / size:g}{unit}"
    return f"{steps:,}"
