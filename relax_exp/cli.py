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
from relax_exp import config, manual, provenance
from relax_exp.data import DataError
from relax_exp.folder import RunError, is_disk_full
from relax_exp.schema import ConfigError

OmegaConf.register_new_resolver("relax_exp_help", manual.text, replace=True)  # the help template in configs/config.yaml

_codes: list[int] = []  # exit codes of the jobs of this process, since Hydra returns nothing


def main() -> int:
    """Run the command in sys.argv. Returns 0, 1 (a run failed), 2 (a bad configuration) or 130 (Ctrl-C)."""
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"relax-exp {relax_exp.__version__}")
        return 0
    if {"-m", "--multirun"} & set(arguments):
        sys.argv[1:] = map(_postponed, arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's exceptions come to us
    Plugins.instance()  # now, as it executes the modules of plugins anew
    basic_sweeper.BasicSweeper.sweep = sweep
    _codes.clear()
    provenance.command = None
    try:
        hydra.main(version_base="1.3", config_path=str(config.CONFIGS), config_name="config")(job)()
    except KeyboardInterrupt:
        return 130
    except ValueError as error:  # Hydra's, about what was typed; those of a run do not leave `job`
        return _report(HydraException(*error.args))
    except Exception as error:
        return _report(error)
    return max(_codes, default=0)


def job(cfg: DictConfig) -> int:
    """One run. Returns its exit code, and reports its errors on the spot so that the other jobs of a sweep go on."""
    this = HydraConfig.get()
    overrides = OmegaConf.to_container(this.overrides.task)  # as typed: nothing in them is resolved here
    try:
        if this.mode == RunMode.MULTIRUN:
            print(f"job {this.job.num}: {shlex.join(overrides)}", flush=True)
            provenance.command = shlex.join(["relax-exp", *overrides])
        resolved = config.resolve(cfg, overrides)
        runner = importlib.import_module(f"relax_exp.{config.TASKS[resolved['task']['name']].runner}")
        code = runner.execute(resolved)
    except Exception as error:
        code = _report(error)
    _codes.append(code)
    return code


def sweep(self: basic_sweeper.BasicSweeper, arguments: list[str]) -> list:
    """Run all combinations of the arguments, after every one of them was checked, and list those that failed.

    In the place of Hydra's method, which finds a wrong value when its job comes, shows one failure only and leaves a
    file behind. Raises ConfigError before any job runs.
    """
    loader = self.hydra_context.config_loader
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
    batches = self.split_arguments(parsed, self.max_batch_size)
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
    results: list = []
    for batch in batches:
        results += self.launcher.launch(batch, initial_job_idx=len(results))
    codes = [result.return_value for result in results]
    _codes.extend(codes)
    if failed := [shlex.join(result.overrides) for result, code in zip(results, codes, strict=True) if code]:
        print(f"relax-exp: {len(failed)} of {len(codes)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
    return results


def _postponed(argument: str) -> str:
    """A plain ``estimator.key=value`` as a sweep over that one value.

    Hydra applies what is not swept to a configuration that lacks whatever task or estimator is swept, and would not
    find the key there.
    """
    plain = re.fullmatch(r"((?:task|estimator)\.[\w.]+)=((?!\w+\().+)", argument)
    return f"{plain[1]}=choice({plain[2]})" if plain else argument


def _report(error: Exception) -> int:
    """Print one message where the user can mend it, a traceback where we must. Returns the exit code."""
    composing = (ConfigError, HydraException, OmegaConfBaseException)
    if isinstance(error, composing) and not isinstance(error, InstantiationException):
        message, code = manual.explain(error), 2
    elif isinstance(error, (RunError, DataError)):
        message, code = str(error), 1
    elif isinstance(error, BrokenPipeError):
        # Whoever read our output has left; nothing must be written to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    elif is_disk_full(error):
        message, code = f"the disk is full ({error}): free some space, then type the same command to go on", 1
    else:
        traceback.print_exception(error)
        return 1
    print(f"relax-exp: error: {message}", file=sys.stderr, flush=True)
    return code
