"""What was typed, before Hydra reads it: quoted where it has to be, and refused in words where a habit is at work."""

from __future__ import annotations

import re
from collections.abc import Sequence

from relax_exp.config import plans
from relax_exp.config.identity import PATH_KEYS
from relax_exp.errors import ConfigError
from relax_exp.schema import one_of

DRY = "--dry-run"
FLAGS = ("--help", "--version", DRY, "--multirun", "--cfg", "--resolve", "--info")  # for the user
# Hydra's own, and the short ones.
OTHER_FLAGS = (
    *("-h", "-m", "-c", "-i", "-p", "-r", "-sc", "-cp", "-cn", "-cd", "--package", "--run", "--shell-completion"),
    *("--hydra-help", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
)


def readable(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with paths quoted that Hydra could not read.

    Raises:
        ConfigError: Something is typed as in other programs.
    """
    for argument in arguments:
        if dashed := re.fullmatch(r"--?((?:(?:task|estimator)\.)?[a-z_]+)=(.*)", argument):
            key, value = dashed.groups()
            if key not in ("package", "cfg", "info"):
                raise ConfigError(f"{argument}: keys are typed without dashes: type {key}={value}")
        elif re.match(r"--?[a-z]", argument) and argument.partition("=")[0] not in (*FLAGS, *OTHER_FLAGS):
            known = ", ".join((*FLAGS, "-m"))
            raise ConfigError(f"{argument}: there is no such flag; there are {known}, and keys as key=value")
    _check_preset(arguments)
    return [_quoted(argument) for argument in arguments]


def mark_new_keys(arguments: Sequence[str]) -> list[str]:
    """Mark the keys of an estimator as new where it is ``estimator.path=FILE``, since no file in configs/ has them.

    `relax_exp.runs.provenance.as_typed` takes the marks away again.
    """
    own = any(re.match(r"\+*estimator\.path=", argument) for argument in arguments)
    return [f"++{a}" if own and re.match(r"estimator\.\w+=", a) else a for a in arguments]


def _quoted(argument: str) -> str:
    """Put a path with letters beyond ASCII, or blanks, into quotes."""
    key, _, value = argument.partition("=")
    if key.lstrip("+") in PATH_KEYS and re.search(r"[^\x00-\x7f]| ", value) and value[0] not in "'\"":
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{key}="{escaped}"'
    return argument


def _check_preset(arguments: Sequence[str]) -> None:
    """Check whether the experiment exists, and whether a preset of one task is asked for with another."""
    said = dict(a.split("=", 1) for a in arguments if a.startswith(("experiment=", "task=")))
    name = said.get("experiment", "")
    if not name or "," in name or name in plans.names():
        return
    path = plans.path(name)
    if not path.is_file():
        there = [file.stem for file in plans.files()]
        raise ConfigError(f"unknown experiment {name}: must be {one_of(there, name)}")
    own = re.search(r"override /task: (\w+)", path.read_text())
    if own and "task" in said and said["task"] != own[1]:
        raise ConfigError(f"experiment={name} is a preset of task={own[1]}: leave task={said['task']} out")
