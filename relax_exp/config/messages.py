"""Errors of Hydra and OmegaConf in plain words."""

from __future__ import annotations

import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from relax_exp import estimators
from relax_exp.errors import ConfigError
from relax_exp.schema import one_of, unknown_key
from relax_exp.tasks.registry import TASKS

SYNONYMS = {  # what other programs call a key
    "learning_rate": "lr",
    "learning_rates": "lrs",
    "epochs": "steps",
    "iterations": "steps",
    "batch": "batch_size",
    "output": "out",
    "output_dir": "out",
    "log_every": "eval_every",
    "random_seed": "seed",
    "gpu": "device",
    "num_threads": "threads",
    "data": "data_root",
    "data_dir": "data_root",
}


def explain(error: Exception) -> str:
    """Say what an error means: a ConfigError as it is, one of Hydra or OmegaConf in one line that says what to type."""
    first, cause = str(error).split("\n")[0], error.__cause__
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {first}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"unknown {group} {name}: must be {one_of(error.options, name)}"
    if isinstance(error, OverrideParseException):
        hint = "type key=value, with quotes around lists and around values that hold = or ~ or commas"
        return f"cannot read {error.override}: {hint}: 'seeds=[0,1]', 'out=\"a=b\"'"
    if several := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '((.+?)=.*)'", first):
        key = {"lr": "lrs", "seed": "seeds"}.get(several[2], several[2])
        together = f", or '{key}=[A,B]' for a list" if key in ("lrs", "seeds", "track") else ""
        return f"{several[1]} is several values: type -m to run one after the other{together}"
    if (missing := re.match("Could not override '(.+)'", first)) and isinstance(cause, OmegaConfBaseException):
        return _unknown(missing[1], cause)
    if first.startswith("Config group override must be"):
        return "task, estimator and experiment take a name: type task=toy"
    return f"{first or 'the configuration is not valid'}: {cause}".split("\n")[0] if cause else first


def _unknown(key: str, error: OmegaConfBaseException) -> str:
    """Make the message for a key that is not in the configuration, which ``error`` knows."""
    parent = error.parent_node
    if not parent:
        return f"unknown key {key}: {key.rpartition('.')[0]} is a value and has no keys"
    if error.full_key in ("task", "estimator"):
        names = TASKS if error.full_key == "task" else estimators.names()
        return f"{key} needs a choice first: type {error.full_key}=NAME, {one_of(names)}"
    if key in SYNONYMS:
        return f"unknown key {key}; did you mean {SYNONYMS[key]}?"
    if "hydra" not in parent:
        return str(unknown_key(key, [name for name in parent if name not in ("name", "estimator_defaults")]))
    if inner := [f"{group}.{key}" for group in ("task", "estimator") if key in parent.get(group, {})]:
        return f"unknown key {key}; did you mean {' or '.join(inner)}?"
    known = ["task", "estimator", *(name for name in parent if name not in ("hydra", "task", "estimator"))]
    return str(unknown_key(key, known))
