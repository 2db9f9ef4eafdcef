"""The command `relax-exp`: compose the configuration, check it, hand it over; say shortly what is wrong.

Everything that knows Hydra is here. torch comes with `relax_exp.run`, which is imported once a configuration is valid.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
import traceback
from typing import NamedTuple

import hydra
from hydra._internal.core_plugins import basic_sweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import relax_exp
from relax_exp import config, experiments, manual, provenance
from relax_exp.data import DataError
from relax_exp.estimators import own
from relax_exp.folder import ERROR, RunError, is_disk_full, status, write_error
from relax_exp.schema import ConfigError

OmegaConf.register_new_resolver("relax_exp_help", manual.text, replace=True)  # the help template in configs/config.yaml

_codes: list[int] = []  # exit codes of the jobs of this process, since Hydra returns nothing
_plan: list[list[str]] | None = None  # the jobs of the experiment that was typed, if it is one of many runs


class Outcome(NamedTuple):
    """What a job returns, perhaps from another machine: its exit code, and what went wrong in one line."""

    code: int
    error: str = ""


def main() -> int:
    """Run the command in sys.argv. Returns 0, 1 (a run failed), 2 (a bad configuration) or 130 (Ctrl-C)."""
    arguments = sys.argv[1:] = added(sys.argv[1:])
    if "--version" in arguments:
        print(f"relax-exp {relax_exp.__version__}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's exceptions come to us
    Plugins.instance()  # now, as it executes the modules of plugins anew
    basic_sweeper.BasicSweeper.sweep = sweep
    _codes.clear()
    provenance.command = None
    try:
        if not _take_plan(arguments):
            return 0
        hydra.main(version_base="1.3", config_path=str(config.CONFIGS), config_name="config")(job)()
    except KeyboardInterrupt:
        return 130
    except ValueError as error:  # Hydra's, about what was typed; those of a run do not leave `job`
        return _report(HydraException(*error.args))
    except Exception as error:
        return _report(error)
    return max(_codes, default=0)


def added(arguments: list[str]) -> list[str]:
    """With ``estimator.path=FILE`` the estimator's keys are added to the configuration, which has no file of theirs."""
    own = any(re.match(r"\+*estimator\.path=", argument) for argument in arguments)
    return [f"++{a}" if own and re.match(r"estimator\.\w+=", a) else a for a in arguments]


def job(cfg: DictConfig) -> Outcome:
    """One run. Reports its errors on the spot so that the other jobs of a sweep go on; there a bug's traceback is kept
    in the run's folder too, since whatever another process prints may be lost."""
    this = HydraConfig.get()
    overrides = OmegaConf.to_container(this.overrides.task)  # as typed: nothing in them is resolved here
    sweeping, resolved, said = this.mode == RunMode.MULTIRUN, None, ""
    try:
        if sweeping:
            print(f"job {this.job.num}: {shlex.join(overrides)}", flush=True)
            provenance.command = shlex.join(["relax-exp", *overrides])
        resolved = config.resolve(cfg, overrides)
        runner = importlib.import_module(f"relax_exp.{config.TASKS[resolved['task']['name']].runner}")
        code = runner.execute(resolved)
    except Exception as error:
        code, said = _report(error), _in_one_line(error)
        if sweeping and resolved and _message(error) is None:
            path = config.run_path(resolved)
            write_error(path, f"{provenance.command_line()}\n\n{traceback.format_exc()}")
            said += f" (traceback in {path / ERROR})"
    else:
        said = "a replica failed" if code else ""
    _codes.append(code)
    return Outcome(code, said)


def sweep(self: basic_sweeper.BasicSweeper, arguments: list[str]) -> list:
    """Run all combinations of the arguments, after every one of them was checked, and list those that failed.

    In the place of Hydra's method, which finds a wrong value when its job comes, shows one failure only and leaves a
    file behind. Raises ConfigError before any job runs.
    """
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
            resolved = config.resolve(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), overrides)
        except (ConfigError, HydraException) as error:
            raise ConfigError(f"{manual.explain(error)} (in the job {shlex.join(overrides)})") from error
        other = folders.setdefault(config.run_path(resolved), overrides)
        if other is not overrides:
            raise ConfigError(f"two jobs write to one folder: {shlex.join(other)} and {shlex.join(overrides)}")
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
    _codes.extend(outcome.code for _, outcome in outcomes)
    if failed := [f"  {shlex.join(overrides)}: {outcome.error}" for overrides, outcome in outcomes if outcome.code]:
        print(f"relax-exp: {len(failed)} of {len(outcomes)} jobs failed:", *failed, sep="\n", file=sys.stderr)
    return results


def _take_plan(arguments: list[str]) -> bool:
    """Put into sys.argv what Hydra is to see, and the jobs of an experiment of many runs into ``_plan``.

    False if its help was asked for, which is printed here. ConfigError for what does not go together.
    """
    global _plan
    _plan = None
    if "-sc" in arguments or "--shell-completion" in arguments:
        return True
    if {"--help", "-h"} & {*arguments} and (name := experiments.mentioned(arguments)):
        print(manual.page(name))
        return False
    if chosen := experiments.chosen(arguments):
        name, budget, rest = chosen
        flags = [argument for argument in rest if argument.startswith(("-", "hydra.", "hydra/"))]
        if others := [flag for flag in flags if flag.startswith("-") and flag not in ("-m", "--multirun")]:
            raise ConfigError(f"{others[0]} is for one run, and experiment={name} has many")
        _plan = experiments.jobs(name, budget, [argument for argument in rest if argument not in flags])
        sys.argv[1:] = ["-m", *(flag for flag in flags if not flag.startswith("-"))]
    elif {"-m", "--multirun"} & {*arguments}:
        sys.argv[1:] = map(_postponed, arguments)
    return True


def _postponed(argument: str) -> str:
    """A plain ``estimator.key=value`` as a sweep over that one value.

    Hydra applies what is not swept to a configuration that lacks whatever task or estimator is swept, and would not
    find the key there.
    """
    plain = re.fullmatch(r"(\+*(?:task|estimator)\.[\w.]+)=((?!\w+\().+)", argument)
    return f"{plain[1]}=choice({plain[2]})" if plain else argument


def _message(error: Exception) -> tuple[str, int] | None:
    """What to print and the exit code, for an error that a user can mend; None for a bug."""
    composing = (ConfigError, HydraException, OmegaConfBaseException)
    if isinstance(error, composing) and not isinstance(error, InstantiationException):
        return manual.explain(error), 2
    if isinstance(error, (RunError, DataError)):
        return str(error), 1
    if said := own.blame(error):
        return said, 2
    if is_disk_full(error):
        return f"the disk is full ({error}): free some space, then type the same command to go on", 1
    if isinstance(error, BrokenPipeError):
        return "whoever read the output has left", 1
    return None


def _in_one_line(error: Exception) -> str:
    message, _ = _message(error) or ("".join(traceback.format_exception_only(error)), 1)
    return " ".join(message.split())


def _report(error: Exception) -> int:
    """Print one message where the user can mend it, a traceback where we must. Returns the exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left; nothing must be written to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if (mendable := _message(error)) is None:
        traceback.print_exception(error)
        return 1
    message, code = mendable
    print(f"relax-exp: error: {message}", file=sys.stderr, flush=True)
    return code
