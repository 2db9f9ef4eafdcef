"""Many runs of one command: checked together, run one after the other, and those that failed listed."""

from __future__ import annotations

import re
import shlex
import sys
import traceback
from typing import NamedTuple

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from relax_exp.cli import help
from relax_exp.cli.typed import DRY
from relax_exp.config import identity, messages, plans, resolve
from relax_exp.errors import ConfigError
from relax_exp.runs.folder import status

_codes: list[int] = []  # exit codes of the jobs of this process, since Hydra returns nothing
dry_run = False  # whether to say what would run, and run nothing
_plan: list[list[str]] | None = None  # the jobs of the experiment that was typed, if it is one of many runs


class Outcome(NamedTuple):
    """What a job returns, perhaps from another machine: its exit code, and what went wrong in one line."""

    code: int
    error: str = ""


def sweep(self: basic_sweeper.BasicSweeper, arguments: list[str]) -> list:
    """Run all combinations of the arguments, after every one of them was checked, and list those that failed.

    In the place of Hydra's method, which finds a wrong value when its job comes, shows one failure only and leaves a
    file behind. Raises ConfigError before any job runs.
    """
    assert self.hydra_context and self.config and self.launcher  # Hydra's set-up is over
    loader = self.hydra_context.config_loader
    if _plan is None:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(parsed, self.max_batch_size)
    else:
        batches = list(self.split_overrides_to_chunks(_plan, self.max_batch_size))
    folders: dict = {}
    for overrides in [job for batch in batches for job in batch]:
        try:
            cfg = loader.load_sweep_config(self.config, list(overrides))
            resolved = resolve.resolve(
                OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), overrides
            )
        except (ConfigError, HydraException) as error:
            raise ConfigError(f"{messages.explain(error)} (in the job {shlex.join(overrides)})") from error
        other = folders.setdefault(identity.run_path(resolved), overrides)
        if other is not overrides:
            raise ConfigError(f"two jobs write to one folder: {shlex.join(other)} and {shlex.join(overrides)}")
    if dry_run:
        _list(folders)
        return []
    results, outcomes = [], []
    for batch in batches:
        try:
            launched = self.launcher.launch(batch, initial_job_idx=len(outcomes))
            outcomes += [(result.overrides, result.return_value) for result in launched]
            results += launched
        except Exception as error:  # a worker was killed, or a cluster's job ended without an answer
            traceback.print_exception(error)
            done = {tuple(overrides) for path, overrides in folders.items() if status(path) == "done"}
            lost = Outcome(1, "ended without an answer; the same command goes on")
            outcomes += [(overrides, Outcome(0) if tuple(overrides) in done else lost) for overrides in batch]
    _compare(list(folders))
    _codes.extend(outcome.code for _, outcome in outcomes)
    if failed := [f"  {shlex.join(overrides)}: {outcome.error}" for overrides, outcome in outcomes if outcome.code]:
        print(f"relax-exp: {len(failed)} of {len(outcomes)} jobs failed:", *failed, sep="\n", file=sys.stderr)
    return results


def _list(folders: dict) -> None:
    """Print what a sweep would run: a line for each job, with its folder and how far that is."""
    for path, overrides in folders.items():
        print(f"{shlex.join(overrides)} -> {path} ({status(path).replace('missing', 'new')})")
    print(f"{len(folders)} runs; nothing was run", file=sys.stderr)


def _compare(paths: list) -> None:
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


def _take_plan(arguments: list[str]) -> bool:
    """Put into sys.argv what Hydra is to see, and the jobs of an experiment of many runs into ``_plan``.

    Returns:
        False if its help was asked for, which is printed here.

    Raises:
        ConfigError: Something does not go together.
    """
    global _plan, dry_run
    _plan, dry_run = None, DRY in arguments
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
        _plan = plans.jobs(name, budget, [argument for argument in rest if argument not in flags])
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
