"""What a configuration may say: types and checks in Python, values and documentation in configs/*.yaml.

`resolve` turns what Hydra composed into a plain nested dictionary or raises ConfigError with a message for the user.
torch is never imported here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from relax_exp import estimators
from relax_exp.config import compatibility, yaml_files
from relax_exp.errors import ConfigError
from relax_exp.estimators import options, user_file
from relax_exp.schema import (
    DISTINCT,
    NOT_EMPTY,
    Check,
    Count,
    Positive,
    Seed,
    Size,
    Text,
    Threads,
    check,
    checked,
    hints,
    one_of,
)
from relax_exp.tasks.registry import TASKS

DEVICES = ("auto", "cpu", "cuda")
Device = Annotated[
    str,
    Check("that is auto, cpu, cuda or cuda:N", lambda name: name in DEVICES or bool(re.fullmatch(r"cuda:\d+", name))),
]

if TYPE_CHECKING:
    EstimatorName = str
else:  # what a type checker cannot know
    EstimatorName = Literal[*estimators.names()]


class RunOptions(TypedDict):
    """The top-level keys of a configuration."""

    steps: Count
    lr: Positive
    lrs: Annotated[list[Positive], NOT_EMPTY, DISTINCT] | None
    seed: Seed
    seeds: Annotated[list[Seed], NOT_EMPTY, DISTINCT] | None
    batch_size: Size
    eval_every: Count
    track: Annotated[list[EstimatorName], DISTINCT]
    device: Device
    threads: Threads
    compile: Literal["auto", True, False]
    allow_tf32: bool
    deterministic: bool
    dtype: Literal["float32", "float64"]
    data_root: Text | None
    out: Text | None


def task_options(name: str, **changes: Any) -> Any:
    """Return the options of a task as its file has them, but for ``changes``: an instance of its dataclass.

    Raises:
        ConfigError: A change is unknown or wrong.
    """
    values = {**yaml_files.of_task(name)["task"], **changes}
    values = {key: value for key, value in values.items() if key not in ("name", "estimator_defaults")}
    return TASKS[name].options(**check(values, hints(TASKS[name].options), "task."))


def estimator_options(name: str, task: str) -> dict:
    """Return name and options of an estimator as its file has them, with the defaults of a task."""
    defaults = yaml_files.of_task(task)["task"]["estimator_defaults"]
    return _estimator(_file(name, defaults), defaults)


def resolve(cfg: DictConfig, overrides: list[str]) -> dict:
    """Check a composed configuration and return it as a plain dictionary.

    It is ``{"task": {"name", ...}, "estimator": {"name", ...}, "steps", ...}``, in which ``seeds`` and ``lrs`` are
    always lists (``seed`` and ``lr`` are gone), ``track`` maps names to options, ``compile`` is "auto", True or False.
    ``overrides`` is what was typed.

    Raises:
        ConfigError: Something in it is wrong.
    """
    groups = {"task": TASKS, "estimator": estimators.names()}
    if missing := [f"{group}=NAME, {one_of(names)}" for group, names in groups.items() if group not in cfg]:
        raise ConfigError(f"choose {'; and '.join(missing)} (relax-exp --help explains them)")
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error}".splitlines()[0]) from error

    task, estimator = values.pop("task"), values.pop("estimator")
    defaults = task.pop("estimator_defaults", {})
    name = checked("task.name", task.pop("name", None), Literal[*TASKS])
    task = {"name": name, **check(task, hints(TASKS[name].options), "task.")}
    estimator = _estimator(estimator, defaults)
    config = check(values, hints(RunOptions))
    config["track"] = {name: _estimator(_file(name, defaults), defaults) for name in config["track"]}

    typed = {override.lstrip("+").split("=")[0] for override in overrides}
    for one, many in (("lr", "lrs"), ("seed", "seeds")):
        if {one, many} <= typed:
            raise ConfigError(f"{one} and {many} exclude each other: type {one}=VALUE or '{many}=[VALUE,VALUE]'")
        value = config.pop(one)
        if config[many] is None or one in typed:
            config[many] = [value]

    for each in (estimator, *config["track"].values()):
        compatibility.check_fit(task, each, defaults)
    if "score_term" in task and all(_target(each) != "mean" for each in (estimator, *config["track"].values())):
        task["score_term"] = "kept"  # it has no effect there
    if "decoder_hidden" in task:
        task["decoder_hidden"] = compatibility.decoder_hidden(task)
    compatibility.check_size(task, config)
    experience = TASKS[name].experience
    if experience != "data":
        compatibility.check_episodes(task, config)
    if experience == "segments":
        compatibility.check_segments(task, config)
    return {"task": task, "estimator": estimator, **config}


def _file(name: str, defaults: dict) -> dict:
    """Return the estimator's YAML file with a task's defaults filled in."""
    if name == "all":
        return {"name": "all", "path": None}
    section = OmegaConf.load(yaml_files.CONFIGS / "estimator" / f"{name}.yaml")
    cfg = OmegaConf.create({"task": {"estimator_defaults": defaults}, "estimator": section})
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return values["estimator"]


def _estimator(section: dict, defaults: dict) -> dict:
    """Return the options of an estimator, checked against the catalogue and against its own file.

    Raises:
        ConfigError: One of them is wrong.
    """
    path = {"path": checked("estimator.path", section.pop("path"), Text | None)} if "path" in section else {}
    if path.get("path") is not None:
        return _own(section, path["path"])
    if path and section["name"] == "all":
        return {"name": "all", **path}
    if not section.get("name"):
        raise ConfigError("an estimator is chosen by its group, not by estimator.name: type estimator=NAME")
    name = checked("estimator.name", section.get("name"), EstimatorName)
    return {**check(section, options.types(_file(name, defaults)), "estimator."), **path}


def _own(section: dict, path: str) -> dict:
    """Return the same for an estimator in a user's file; ``digest`` tells one text of the file from another."""
    if (name := section.pop("name", "all")) != "all":
        raise ConfigError(f"estimator={name} and estimator.path={path} exclude each other: leave one of them out")
    values = user_file.defaults(user_file.load(path))
    section = check(values | section, options.types(values), "estimator.")
    path = os.path.normpath(path)  # ./FILE is the same run
    return {"name": Path(path).stem, "path": path, "digest": user_file.digest(path), **section}


def _target(estimator: dict) -> str:
    if estimator.get("path"):
        return user_file.load(estimator["path"]).target
    return estimators.lookup(estimator["name"]).target
