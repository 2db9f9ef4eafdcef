"""The help of the command, taken from the comments in configs/*.yaml."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from relax_exp import estimators
from relax_exp.config import plans as experiments
from relax_exp.config.files import CONFIGS
from relax_exp.schema import show
from relax_exp.tasks.registry import TASKS

HELP = """\
relax-exp: train gradient estimators for discrete and black-box variables, and compare them.

  relax-exp task=NAME estimator=NAME [key=value ...]

{choices}

Keys, their values, and what they mean{hint}:
{keys}

Examples:
  relax-exp task=toy estimator=relax 'seeds=[0,1,2]'     three seeds, trained together
  relax-exp task=vae estimator=rebar 'lrs=[1e-3,3e-4]'   two learning rates, trained together
  relax-exp -m task=toy estimator=relax,rebar,reinforce  one run after the other
  tensorboard --logdir runs

A run is written to runs/TASK/ESTIMATOR-HASH or to out=DIR. The same command continues what was interrupted, and does
nothing if it is finished.

Flags:
  -m                  run every combination of values separated by commas
  --cfg job           print the configuration instead of running it (--resolve: with all values filled in)
  -sc install=bash    tab completion: eval "$(relax-exp -sc install=bash)" (also zsh, fish)
  --version           print the version
  --hydra-help        what Hydra offers beyond this

Exit codes: 0 done, 1 a run failed, 2 bad configuration, 130 interrupted."""

PAGE = """\
relax-exp experiment={name} budget=NAME [key=value ...]

{head}

{budgets}

Finished runs are not run again. key=value selects runs, where runs of the experiment have the key, and is added to
every run where none has. What there is so far: relax-exp-report --status --experiment {name} --budget NAME"""

HINT = " (relax-exp task=vae estimator=relax --help: theirs too)"


def text(_root_: DictConfig) -> str:
    """Return the help for the configuration composed so far, with the keys of its task and estimator."""
    files, plans = sorted((CONFIGS / "experiment").glob("*.yaml")), experiments.names()
    choices = {
        "Tasks": [(name, _summary(CONFIGS / "task" / f"{name}.yaml")) for name in TASKS],
        "Estimators": [(name, estimators.lookup(name).summary) for name in estimators.names()],
        "Presets of a run: experiment=NAME": [(path.stem, _summary(path)) for path in files if path.stem not in plans],
        "Experiments of many runs: experiment=NAME budget=smoke|cpu|published|paper (--help: more)": [
            (path.stem, _summary(path)) for path in files if path.stem in plans
        ],
    }
    keys, hint = _keys(_root_, CONFIGS / "config.yaml", ""), ""
    for group in ("task", "estimator"):
        path = CONFIGS / group / f"{OmegaConf.select(_root_, f'{group}.name')}.yaml"
        if path.is_file():
            keys += _keys(_root_, path, f"{group}.")
        else:
            hint = HINT
    sections = "\n\n".join(f"{title}:\n{_table(rows)}" for title, rows in choices.items() if rows)
    return HELP.format(choices=sections, keys=_table(keys), hint=hint).replace("$", "$$")  # Hydra takes a template


def page(experiment: str) -> str:
    """Return the help on an experiment: what its file says at its head, and how many runs each budget has."""
    head = itertools.takewhile(lambda line: line.startswith("#"), experiments.path(experiment).read_text().splitlines())
    return PAGE.format(
        name=experiment,
        head="\n".join(line.removeprefix("#").strip() for line in head),
        budgets=_table([(f"budget={b}", f"{len(experiments.read(experiment, b))} runs") for b in experiments.BUDGETS]),
    )


def _keys(root: DictConfig, path: Path, prefix: str) -> list[tuple[str, str, str]]:
    """Return every commented key of a YAML file, with its value in ``root`` and the comment."""
    rows = []
    for key, comment in re.findall(r"^ *(\w+): .*?# (.+)$", path.read_text(), re.MULTILINE):
        try:
            value = OmegaConf.select(root, prefix + key, throw_on_missing=True)
            value = show(list(value) if OmegaConf.is_list(value) else value)
        except OmegaConfBaseException:
            value = "(task's)"
        rows.append((prefix + key, value, comment))
    return rows


def _summary(path: Path) -> str:
    """Return the sentence at the head of a YAML file."""
    lines = path.read_text().splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line), "")


def _table(rows: list[tuple[str, ...]]) -> str:
    """Write rows in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line.rstrip()}" for line in lines)
