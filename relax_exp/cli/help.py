"""The help of the command, taken from the comments in configs/*.yaml."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from relax_exp import estimators
from relax_exp.config import plans as experiments
from relax_exp.config.yaml_files import CONFIGS, documented, summary
from relax_exp.schema import show
from relax_exp.tasks.registry import TASKS

HEAD = """\
relax-exp: train gradient estimators for discrete and black-box variables, and
compare them.

  relax-exp {chosen} [key=value ...]"""

HELP = """\
{head}

{choices}Keys, their values, and what they mean{hint}:
{keys}

Examples:
  relax-exp task=toy estimator=relax 'seeds=[0,1,2]'
      three seeds, trained together
  relax-exp task=vae estimator=rebar 'lrs=[1e-3,3e-4]'
      two learning rates, trained together
  relax-exp -m task=toy estimator=relax,rebar,reinforce
      one run after the other
  tensorboard --logdir runs

A run is written to runs/TASK/ESTIMATOR-HASH or to out=DIR. The same command
continues what was interrupted, and does nothing if it is finished.

Flags:
  -m                  run every combination of values separated by commas
  --dry-run           say which runs a command stands for, and run none of them
  --cfg job           print the configuration instead of running it
                      (--resolve: with all values filled in)
  -sc install=bash    tab completion: eval "$(relax-exp -sc install=bash)"
                      (also fish; zsh after: autoload -U bashcompinit &&
                      bashcompinit)
  --version           print the version
  --hydra-help        what Hydra offers beyond this

Exit codes: 0 done, 1 a run failed, 2 bad configuration, 130 interrupted."""

PAGE = """\
relax-exp experiment={name} budget=NAME [key=value ...]

{head}

{budgets}

Finished runs are not run again. key=value selects runs, where runs of the
experiment have the key, and is added to every run where none has. What there
is so far: relax-exp-report --status --experiment {name} --budget NAME"""

HINT = "\n(relax-exp task=vae estimator=relax --help: theirs too)"
WIDTH = 80
HIDDEN = {"name", "estimator_defaults", "hydra", "task", "estimator"}  # not typed as keys


def text(_root_: DictConfig) -> str:
    """Write the help for the configuration composed so far, the keys of the chosen task and estimator first."""
    files, plans = experiments.files(), experiments.names()
    choices = {
        "Tasks": [(name, summary(CONFIGS / "task" / f"{name}.yaml")) for name in TASKS],
        "Estimators": [(name, estimators.lookup(name).summary) for name in estimators.names()],
        "Presets of a run: experiment=NAME": [(path.stem, summary(path)) for path in files if path.stem not in plans],
        f"Experiments of many runs: experiment=NAME budget={'|'.join(experiments.BUDGETS)}": [
            (path.stem, summary(path)) for path in files if path.stem in plans
        ],
    }
    groups = [(g, OmegaConf.select(_root_, f"{g}.name")) for g in ("task", "estimator")]
    chosen = {g: name for g, name in groups if g in _root_}
    hint = "" if len(chosen) == 2 else HINT
    keys = [row for g in chosen for row in _keys(_root_, g)] + _keys(_root_)
    shown = {} if len(chosen) == 2 else choices
    sections = "\n\n".join(f"{title}:\n{_table(rows)}" for title, rows in shown.items() if rows)
    head = HEAD.format(chosen=" ".join(f"{g}={chosen.get(g, 'NAME')}" for g in ("task", "estimator")))
    said = HELP.format(head=head, choices=f"{sections}\n\n" if sections else "", keys=_table(keys), hint=hint)
    return said.replace("$", "$$")  # Hydra takes a template


def page(experiment: str) -> str:
    """Return the help on an experiment: what its file says at its head, and how many runs each budget has."""
    head = itertools.takewhile(lambda line: line.startswith("#"), experiments.path(experiment).read_text().splitlines())
    return PAGE.format(
        name=experiment,
        head=textwrap.fill(" ".join(line.removeprefix("#").strip() for line in head), WIDTH),
        budgets=_table([(f"budget={b}", f"{len(experiments.read(experiment, b))} runs") for b in experiments.BUDGETS]),
    )


def _keys(root: DictConfig, group: str = "") -> list[tuple[str, str, str]]:
    """Return every key of a section of the composed configuration, with its value and its comment in the files."""
    task: Any = OmegaConf.select(root, "task.name") if "task" in root else None
    files = [CONFIGS / "config.yaml"]
    files += [CONFIGS / g / f"{OmegaConf.select(root, f'{g}.name')}.yaml" for g in ("task", "estimator") if g in root]
    comments: dict[str, str] = {}
    for path in (path for path in files if path.is_file()):
        comments |= {key: comment for key, (_, comment) in documented(path).items() if comment}
    rows = []
    for key in map(str, OmegaConf.select(root, group) if group else root):
        dotted = f"{group}.{key}" if group else key
        if key in HIDDEN or (not group and task and key in TASKS[task].unused):
            continue
        try:
            value = OmegaConf.select(root, dotted, throw_on_missing=True)
            value = show(list(value) if OmegaConf.is_list(value) else value)
        except OmegaConfBaseException:
            value = "(task's)"
        rows.append((dotted, value, comments.get(dotted, "")))
    return rows


def _table(rows: list[tuple[str, ...]]) -> str:
    """Return the rows in aligned columns, the last of which is wrapped at `WIDTH`."""
    widths = [min(30, max(map(len, column))) for column in zip(*rows, strict=True)][:-1]
    indent = " " * (2 + sum(widths) + 2 * len(widths))
    lines = []
    for *cells, said in rows:
        head = "  " + "".join(cell.ljust(width) + "  " for cell, width in zip(cells, widths, strict=True))
        wrapped = textwrap.wrap(said, max(20, WIDTH - len(indent))) or [""]
        if len(head) > len(indent):  # a long value: its comment begins on a line of its own
            lines += [head.rstrip(), *(indent + line for line in wrapped)]
        else:
            lines += [(head + wrapped[0]).rstrip(), *(indent + line for line in wrapped[1:])]
    return "\n".join(lines)
