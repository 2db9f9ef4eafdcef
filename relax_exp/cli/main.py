"""The command `relax-exp`: compose the configuration, check it, hand it over; say shortly what is wrong.

torch comes with `relax_exp.runs.run`, which is imported once a configuration
is valid.
"""

from __future__ import annotations

import gc
import importlib
import os
import shlex
import sys
import traceback
from types import ModuleType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import relax_exp
from relax_exp.cli import help, sweep, typed
from relax_exp.cli.sweep import Outcome
from relax_exp.config import identity, messages, resolve, yaml_files
from relax_exp.data import DataError
from relax_exp.errors import ConfigError, OptionError, RunError, SettingError
from relax_exp.estimators import user_file
from relax_exp.run_files import ERROR
from relax_exp.runs import out_of_memory, provenance
from relax_exp.runs.atomic_write import is_disk_full
from relax_exp.runs.folder import write_error
from relax_exp.tasks.registry import TASKS

OmegaConf.register_new_resolver("relax_exp_help", help.text, replace=True)  # the help template in configs/config.yaml


def main() -> int:
    """Run the command in sys.argv.

    Returns:
        The exit code: 0, 1 (a run failed), 2 (a bad configuration) or 130 (Ctrl-C).
    """
    arguments = sys.argv[1:] = typed.mark_new_keys(sys.argv[1:])
    if "--version" in arguments:
        print(f"relax-exp {relax_exp.__version__}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's exceptions come to us
    provenance.command = None
    try:
        arguments = sys.argv[1:] = typed.readable(arguments)
        if not arguments:
            raise ConfigError("choose a task and an estimator: relax-exp task=NAME estimator=NAME (--help lists them)")
        if not sweep.begin(arguments):
            return 0
        hydra.main(version_base="1.3", config_path=str(yaml_files.CONFIGS), config_name="config")(job)()
    except KeyboardInterrupt as stop:
        if not stop.args:  # a run has said so, on a line of its own; here the terminal has written ^C and no more
            print("\nstopped", file=sys.stderr)
        return 130
    except ValueError as error:
        return _report(HydraException(*error.args) if _of_hydra(error) else error)
    except Exception as error:
        return _report(error)
    return max(sweep.command.codes, default=0)


def _of_hydra(error: ValueError) -> bool:
    """Tell whether Hydra raised an error, which then is about what was typed, or our code did, which is a bug."""
    packages = [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    ours = [name for name in packages if name in ("relax_exp", "hydra_plugins", "hydra", "omegaconf")]
    return bool(ours) and ours[-1] in ("hydra", "omegaconf")


def job(cfg: DictConfig) -> Outcome:
    """Execute one run of the command, and report its errors on the spot so that the other jobs of a sweep go on.

    There a bug's traceback is kept in the run's folder too, since whatever another process prints may be lost.
    """
    this = HydraConfig.get()
    # As typed: nothing in them is resolved here.
    overrides: Any = OmegaConf.to_container(this.overrides.task)
    sweeping, resolved, said = this.mode == RunMode.MULTIRUN, None, ""
    try:
        if sweeping:
            print(f"job {this.job.num}: {shlex.join(provenance.as_typed(overrides))}", flush=True)
            provenance.command = shlex.join(["relax-exp", *provenance.as_typed(overrides)])
            if this.runtime.choices.get("hydra/launcher") == "joblib":  # whose jobs print at the same time
                os.environ["RELAX_EXP_JOB"] = str(this.job.num)
        resolved = resolve.resolve(cfg, overrides)
        if sweep.command.dry_run:
            print(sweep.planned(overrides, identity.run_path(resolved)))
            return Outcome(0)
        if sys.stderr.isatty():  # some seconds in which nothing else would be said
            print("starting: torch is loaded, the data are read, the task is built", file=sys.stderr, flush=True)
        runner = _runner(resolved["task"]["name"])
        later = sweep.command.later.get(identity.run_path(resolved))
        code = runner.execute(resolved, later) if later else runner.execute(resolved)
    except Exception as error:
        code, said = _report(error), _in_one_line(error)
        if sweeping and resolved and _message(error) is None:
            path = identity.run_path(resolved)
            write_error(path, f"{provenance.command_line()}\n\n{traceback.format_exc()}")
            said += f" (traceback in {path / ERROR})"
    else:
        said = "a replica failed" if code else ""
    sweep.command.codes.append(code)
    return Outcome(code, said)


def _runner(task: str) -> ModuleType:
    """Import what runs a task, and torch with it.

    Half a second goes by if Python looks for garbage in what modules make while they are imported, which all stays.
    """
    gc.disable()
    try:
        importlib.import_module("torch._dynamo")  # as torch does at the first gradient
        return importlib.import_module(f"relax_exp.{TASKS[task].runner}")
    finally:
        gc.freeze()
        gc.enable()


def _message(error: Exception) -> tuple[str, int] | None:
    """Return what to print and the exit code, for an error that a user can mend; None for a bug."""
    composing = (ConfigError, HydraException, OmegaConfBaseException)
    if isinstance(error, composing) and not isinstance(error, InstantiationException):
        return messages.explain(error), 2
    if isinstance(error, (SettingError, OptionError)):
        return str(error), 2
    if isinstance(error, (RunError, DataError)):
        return str(error), 1
    if said := out_of_memory.blame(error):
        return said, 1
    if said := user_file.blame(error):
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
