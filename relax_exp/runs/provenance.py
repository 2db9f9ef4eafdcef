"""Where numbers come from: the content of a run's meta.json."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from relax_exp.config import identity
from relax_exp.numerics.machine import hardware
from relax_exp.run_files import RUNNING

PACKAGES = ("relax-exp", "torch", "numpy", "hydra-core", "scipy", "scikit-learn", "torchvision", "gymnasium")
SOURCE = Path(__file__).parents[2]

command: str | None = None  # set by the command line, which knows what one job of a sweep was


def collect(config: dict, typed: str | None = None) -> dict:
    """Collect meta.json at the start of a run, when every replica is running; None: `command_line` was typed."""
    return {
        "status": RUNNING,
        "start": now(),
        "command": command_line() if typed is None else typed,
        "hash": identity.run_hash(config),
        "group": identity.group_key(config),
        "git": git_state(),
        "versions": {"python": platform.python_version(), **versions()},
        "hardware": hardware(),
        "threads": config["threads"],
        "replicas": [
            {"seed": seed, "lr": lr, "status": RUNNING, "reason": None} for seed, lr in identity.replicas(config)
        ],
    }


def now() -> str:
    """Return the time in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """Return the command that makes (and continues) this run, quoted for a shell."""
    if command is not None:
        return command
    program = "python -m relax_exp" if sys.argv[0].endswith("__main__.py") else Path(sys.argv[0]).name
    return f"{program} {shlex.join(as_typed(sys.argv[1:]))}"


def as_typed(arguments: Sequence[str]) -> list[str]:
    """Return arguments without the marks for new keys of an estimator, which the command line adds by itself."""
    return [re.sub(r"^\+\+(?=estimator\.)", "", argument) for argument in arguments]


def git_state() -> dict | None:
    """Return the commit and whether the source tree differs from it; None where there is none."""
    if not (SOURCE / ".git").exists():
        return None
    git = ["git", "-C", str(SOURCE)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout)}


def versions() -> dict[str, str]:
    """Return the installed versions; torch names its own build (2.13.0+cpu) once it is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "torch" in sys.modules:
        found["torch"] = str(sys.modules["torch"].__version__)
    return found
