"""The papers' experiments, ``configs/experiment/NAME.yaml``: for each budget, the grids of runs that belong to it.

A file of that folder with the key ``budgets`` is such a plan; the others are settings of a single run, which Hydra
composes. Nothing here runs anything; neither Hydra nor torch is imported with this module.

    budgets:
      smoke: [GRID, ...]    # a GRID maps keys, as they are typed, to a value or to a list of values to go through:
      cpu: ...              # {task: toy, estimator: [rebar, relax], 'seeds': [[0, 1, 2]]} is two runs of three seeds
      published: ...        # may be missing: then the runs of paper
      paper: ...
"""

from __future__ import annotations

import copy
import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from relax_exp.config import identity, resolve, yaml_files
from relax_exp.errors import ConfigError
from relax_exp.schema import one_of, show

# Seconds; what two cores do in some hours; the published number of steps on a CPU, in days; all of it, for a GPU.
BUDGETS = ("smoke", "cpu", "published", "paper")
OPTIONAL = {"published"}

Job = dict[str, Any]  # what one run's command says: values by key


class Planned(NamedTuple):
    """One run of a plan: what to type after ``relax-exp``, what that means, and the run's folder."""

    overrides: list[str]
    config: dict
    path: Path


def names() -> list[str]:
    """Return the names of the experiments that are plans."""
    return [file.stem for file in files() if _is_plan(file)]


def files() -> list[Path]:
    """Return the files of all experiments, plans and presets of a single run."""
    return sorted(path("*").parent.glob("*.yaml"))


def path(name: str) -> Path:
    """Return the file of an experiment."""
    return yaml_files.CONFIGS / "experiment" / f"{name}.yaml"


def chosen(arguments: Sequence[str]) -> tuple[str, str, list[str]] | None:
    """Return name, budget and all other arguments of a command line that asks for a plan; None if it asks for none.

    Raises:
        ConfigError: Experiment and budget do not go together.
    """
    typed = [argument.partition("=") for argument in arguments]
    said = {key: value for key, _, value in typed if key in ("experiment", "budget")}
    plans = sorted({*said.get("experiment", "").split(",")} & {*names()})
    rest = [argument for argument in arguments if argument.partition("=")[0] not in said]
    if plans and said["experiment"] != plans[0]:
        raise ConfigError(f"experiment={said['experiment']}: {plans[0]} is many runs, so type it alone")
    if plans and said.get("budget") not in BUDGETS:
        counts = ", ".join(f"budget={budget} ({len(read(plans[0], budget))} runs)" for budget in BUDGETS)
        given = f"budget={said['budget']}: " if "budget" in said else ""
        raise ConfigError(f"{given}experiment={plans[0]} needs one of {counts}")
    if "budget" in said and not plans:
        raise ConfigError(f"budget={said['budget']} goes with experiment=NAME, {one_of(names())}")
    return (plans[0], said["budget"], rest) if plans else None


def mentioned(arguments: Sequence[str]) -> str | None:
    """Return the plan that a command line names, if it does."""
    return next((name for name in names() if f"experiment={name}" in arguments), None)


def jobs(name: str, budget: str, typed: Iterable[str] = ()) -> list[list[str]]:
    """Return the runs of an experiment, each as what to type after ``relax-exp``.

    Args:
        name: The experiment.
        budget: "smoke", "cpu", "published" or "paper".
        typed: Further ``key=value``. A key that runs of the plan have keeps those that have (one of) its values, any
            other is added to every run.

    Raises:
        ConfigError: That leaves no run, or the file is wrong.
    """
    kept = read(name, budget)
    for key, values in map(_values, typed):
        if found := [job[key] for job in kept if key in job]:
            kept = [job for job in kept if key in job and job[key] in values]
            if not kept:
                there = ", ".join(dict.fromkeys(map(show, found)))
                wanted = ",".join(map(show, values))
                raise ConfigError(f"no run of experiment={name} budget={budget} has {key}={wanted}; there are {there}")
        else:
            kept = [{**job, key: value} for job in kept for value in values]
    return [[f"{key}={show(value)}" for key, value in job.items()] for job in kept]


def planned(name: str, budget: str, typed: Iterable[str] = ()) -> list[Planned]:
    """Return the runs of `jobs` with their checked configurations, each folder once.

    Raises:
        ConfigError: A run is wrong. The message names it.
    """
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    from relax_exp.config.messages import explain

    runs: dict[Path, Planned] = {}
    with initialize_config_dir(str(yaml_files.CONFIGS), version_base="1.3"):
        compose = _composer()
        for overrides in jobs(name, budget, typed):
            try:
                resolved = resolve.resolve(compose(overrides), overrides)
            except (ConfigError, HydraException) as error:
                said = f"experiment={name} budget={budget}, {' '.join(overrides)}: {explain(error)}"
                raise ConfigError(said) from error
            run = Planned(overrides, resolved, identity.run_path(resolved))
            if run.path in runs:
                raise ConfigError(f"experiment={name} budget={budget} has a run twice: {' '.join(overrides)}")
            runs[run.path] = run
    return list(runs.values())


def compared(name: str, budget: str, found: Iterable[str | None]) -> tuple[set[str], list[str]]:
    """Return the hashes of an experiment's runs, and the commands of those that are not among the hashes ``found``.

    Raises:
        ConfigError: There is no such experiment or budget, or none is given.
    """
    if not budget and name in names():
        raise ConfigError(f"--experiment {name} needs its --budget: {', '.join(BUDGETS)}")
    wanted = {identity.run_hash(run.config): shlex.join(["relax-exp", *run.overrides]) for run in planned(name, budget)}
    there = set(found)
    return {*wanted}, [command for its, command in wanted.items() if its not in there]


def _composer() -> Callable[[list[str]], DictConfig]:
    """Hydra's compose, called once for all jobs of one task, estimator and preset: it takes a tenth of a second."""
    from hydra import compose

    kept: dict[tuple[str, ...], DictConfig] = {}

    def composed(overrides: list[str]) -> DictConfig:
        groups = tuple(o for o in overrides if o.startswith(("task=", "estimator=", "experiment=")))
        if groups not in kept:
            kept[groups] = compose("config", list(groups))
        cfg = copy.deepcopy(kept[groups])
        try:
            for key, (value,) in (_values(o) for o in overrides if o not in groups):
                OmegaConf.update(cfg, key, value)
        except OmegaConfBaseException:
            return compose("config", overrides)  # which says what is wrong
        return cfg

    return composed


def read(name: str, budget: str) -> list[Job]:
    """Return the runs of an experiment as its file says.

    Raises:
        ConfigError: That makes no sense. The message names file and place.
    """
    if name not in names():
        raise ConfigError(f"unknown experiment {name}: must be {one_of(names(), name)}")
    if budget not in BUDGETS:
        raise ConfigError(f"budget={budget}: must be {one_of(BUDGETS, budget)}")
    file = path(name)
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or set(content) != {"budgets"} or not isinstance(content["budgets"], dict):
        raise ConfigError(f"{file}: must have one key, budgets, with the keys {', '.join(BUDGETS)}")
    budgets = content["budgets"]
    if set(budgets) | OPTIONAL != set(BUDGETS):
        raise ConfigError(f"{file}: budgets has the keys {', '.join(budgets)}: must be {', '.join(BUDGETS)}")
    grids = budgets.get(budget, budgets["paper"])
    if not isinstance(grids, list) or not grids:
        raise ConfigError(f"{file}: budgets.{budget} must be a list of grids, as [{{task: toy, estimator: relax}}]")
    return [job for number, grid in enumerate(grids) for job in _product(grid, f"{file}: budgets.{budget}[{number}]")]


def _product(grid: Any, where: str) -> Iterator[Job]:
    """Go through every combination of a grid's values.

    Raises:
        ConfigError: One could not be typed, or stands for none.
    """
    if not isinstance(grid, dict) or not grid:
        raise ConfigError(f"{where} must map keys to values, as {{task: toy, estimator: [rebar, relax]}}")
    choices = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
    for key, values in choices.items():
        if not values:
            raise ConfigError(f"{where}: {key} is an empty list")
        for value in values:
            if _values(f"{key}={show(value)}", where)[1] != [value]:
                raise ConfigError(f"{where}: {key}={show(value)} cannot be typed as one value")
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _values(typed: str, where: str = "") -> tuple[str, list]:
    """Return key and values of ``key=value`` or ``key=value,value``.

    Raises:
        ConfigError: It is anything else that Hydra would take.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from relax_exp.config.messages import explain

    try:
        (parsed,) = OverridesParser.create().parse_overrides([typed])
        if parsed.is_add() or parsed.is_delete() or (parsed.is_sweep_override() and not parsed.is_discrete_sweep()):
            raise HydraException("only key=value and key=value,value are possible with an experiment of many runs")
        if not parsed.is_sweep_override():
            return parsed.get_key_element(), [_plain(parsed.value())]
        return parsed.get_key_element(), [_values(f"x={one}")[1][0] for one in parsed.sweep_string_iterator()]
    except HydraException as error:
        raise ConfigError(f"{where or typed}: {explain(error)}") from error


def _plain(value: Any) -> Any:
    """Return a value of Hydra's parser without its wrappers: a quoted string is a string."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if isinstance(value, QuotedString) else value


def _is_plan(file: Path) -> bool:
    return re.search(r"^budgets:", file.read_text(), re.MULTILINE) is not None
