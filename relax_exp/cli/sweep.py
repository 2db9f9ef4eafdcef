"""Many runs of one command: checked together, run one after the other, and those that failed listed."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from relax_exp.cli import help
from relax_exp.cli.typed import DRY
from relax_exp.config import identity, messages, plans, resolve
from relax_exp.data import PIXELS
from relax_exp.errors import ConfigError
from relax_exp.run_files import DONE
from relax_exp.runs.folder import status
from relax_exp.runs.provenance import as_typed

Other = tuple[dict, str]  # a run's configuration and its command


@dataclass
class Command:
    """One call of `relax-exp`, as far as Hydra does not hand it on between `main`, the sweep and its jobs.

    Attributes:
        dry_run: Whether to say what would run, and run nothing.
        plan: The jobs of the experiment that was typed, if it is one of many runs.
        later: By a job's folder, those to come that differ from it in the data set alone.
        codes: Exit codes of the jobs of this process.
    """

    dry_run: bool = False
    plan: list[list[str]] | None = None
    later: dict[Path, list[Other]] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)


command = Command()


class Outcome(NamedTuple):
    """What a job returns, perhaps from another machine: its exit code, and what went wrong in one line."""

    code: int
    error: str = ""


def sweep(
    arguments: list[str], config: DictConfig, loader: ConfigLoader, launcher: Launcher, at_once: int | None = None
) -> list[JobReturn]:
    """Run all combinations of the arguments, after every one of them was checked, and list those that failed.

    Hydra's own sweeper finds a wrong value when its job comes, shows one failure only and leaves a file behind.

    Args:
        arguments: What was typed, as ``key=value,value``; of no interest where an experiment of many runs was.
        config: What Hydra composed for all of them.
        loader: Composes the configuration of a job.
        launcher: Runs jobs, here or elsewhere.
        at_once: Jobs that are handed to it together; None: all.

    Raises:
        ConfigError: A job is wrong; none has run then.
    """
    jobs = combinations(arguments, loader) if command.plan is None else command.plan
    folders: dict[Path, list[str]] = {}
    runs: list[Other] = []
    for overrides in jobs:
        try:
            cfg = loader.load_sweep_config(config, list(overrides))
            keys = [str(key) for key in cfg if key != "hydra"]
            resolved = resolve.resolve(OmegaConf.masked_copy(cfg, keys), overrides)
        except (ConfigError, HydraException) as error:
            raise ConfigError(f"{messages.explain(error)} (in the job {shlex.join(overrides)})") from error
        other = folders.setdefault(identity.run_path(resolved), overrides)
        if other is not overrides:
            raise ConfigError(f"two jobs write to one folder: {shlex.join(other)} and {shlex.join(overrides)}")
        runs.append((resolved, shlex.join(["relax-exp", *as_typed(overrides)])))
    if command.dry_run:
        _list(folders)
        return []
    command.later.update(alike(runs))
    results, outcomes = [], []
    size = at_once or len(jobs)
    for batch in [jobs[start : start + size] for start in range(0, len(jobs), size)]:
        try:
            launched = launcher.launch(batch, initial_job_idx=len(outcomes))
            outcomes += [(result.overrides, result.return_value) for result in launched]
            results += launched
        except Exception as error:  # a worker was killed, or a cluster's job ended without an answer
            traceback.print_exception(error)
            done = {tuple(overrides) for path, overrides in folders.items() if status(path) == DONE}
            lost = Outcome(1, "ended without an answer; the same command goes on")
            outcomes += [(overrides, Outcome(0) if tuple(overrides) in done else lost) for overrides in batch]
    command.codes.extend(outcome.code for _, outcome in outcomes)
    try:
        _compare(list(folders))
    finally:  # so that a bug in the table hides no job that failed
        if failed := [f"  {shlex.join(overrides)}: {outcome.error}" for overrides, outcome in outcomes if outcome.code]:
            print(f"relax-exp: {len(failed)} of {len(outcomes)} jobs failed:", *failed, sep="\n", file=sys.stderr)
    return results


def alike(runs: list[Other]) -> dict[Path, list[Other]]:
    """Return, by the folder of each run, those behind it that differ from it in nothing but a data set of that size."""
    groups: dict[str, list[Other]] = {}
    for run in runs:
        config, task = run[0], dict(run[0]["task"])
        if "dataset" in task and not config["track"]:
            task["dataset"] = PIXELS[task["dataset"]]
            groups.setdefault(json.dumps({**config, "task": task}, sort_keys=True), []).append(run)
    return {identity.run_path(run[0]): group[k + 1 :] for group in groups.values() for k, run in enumerate(group)}


def combinations(arguments: list[str], loader: ConfigLoader) -> list[list[str]]:
    """Return the jobs that the arguments stand for: every choice of one value for each key.

    Raises:
        HydraException: An argument stands for a range of values and not for some of them.
    """
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(arguments):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise HydraException(f"{override.input_line}: type the values to go through, as {key}=VALUE,VALUE")
    return [list(job) for job in itertools.product(*choices.values())]


def planned(overrides: list[str], path: Path) -> str:
    """Say what a job is and where it would be written, and how far that is."""
    return f"{shlex.join(as_typed(overrides))} -> {path} ({status(path).replace('missing', 'new')})"


def _list(folders: dict[Path, list[str]]) -> None:
    """Print what a sweep would run: a line for each job, with its folder and how far that is."""
    for path, overrides in folders.items():
        print(planned(overrides, path))
    print(f"{len(folders)} runs; nothing was run", file=sys.stderr)


def _compare(paths: list[Path]) -> None:
    """Print one table of all runs of a sweep that are on this machine, and what makes their figures."""
    from relax_exp.errors import ReportError
    from relax_exp.report.archive import gather
    from relax_exp.report.formats import printed
    from relax_exp.report.report import Report

    there = [path for path in paths if path.is_dir()]
    if len(there) < 2:
        return
    try:
        made = Report(gather(there)[0])
        text = printed(made.lines, made.failures) if made.runs else ""
    except ReportError as error:
        text = f"no common table: {error}"
    print(f"\n{text}")
    print(f"figures of all {len(there)}: relax-exp-report {shlex.join(map(str, there))} -o report", file=sys.stderr)


def begin(arguments: list[str]) -> bool:
    """Begin a new `command`: put into sys.argv what Hydra is to see, and the jobs of an experiment into its plan.

    Returns:
        False if its help was asked for, which is printed here.

    Raises:
        ConfigError: Something does not go together.
    """
    global command
    command = Command(dry_run=DRY in arguments)
    if "--cfg" in arguments and ({"-m", "--multirun"} & {*arguments} or plans.chosen(arguments)):
        raise ConfigError("--cfg job is for one run; for many type --dry-run")
    arguments = sys.argv[1:] = [argument for argument in arguments if argument != DRY]
    if "-sc" in arguments or "--shell-completion" in arguments:
        return True
    if {"--help", "-h"} & {*arguments} and (name := plans.mentioned(arguments)):
        print(help.page(name))
        return False
    if chosen := plans.chosen(arguments):
        name, budget, rest = chosen
        flags = [argument for argument in rest if argument.startswith(("-", "hydra.", "hydra/"))]
        if others := [flag for flag in flags if flag.startswith("-") and flag not in ("-m", "--multirun")]:
            raise ConfigError(f"{others[0]} is for one run, and experiment={name} has many")
        command.plan = plans.jobs(name, budget, [argument for argument in rest if argument not in flags])
        sys.argv[1:] = ["-m", *(flag for flag in flags if not flag.startswith("-"))]
    elif {"-m", "--multirun"} & {*arguments}:
        sys.argv[1:] = map(_postponed, arguments)
    return True


def _postponed(argument: str) -> str:
    """Write a plain ``estimator.key=value`` as a sweep over that one value.

    Hydra applies what is not swept to a configuration that lacks whatever task or estimator is swept, and would not
    find the key there.
    """
    plain = re.fullmatch(r"(\+*(?:task|estimator)\.[\w.]+)=((?!\w+\().+)", argument)
    return f"{plain[1]}=choice({plain[2]})" if plain else argument
