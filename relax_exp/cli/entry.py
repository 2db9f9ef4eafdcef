"""What the installed commands start: they say so where the extra with their packages is missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys

NEEDED = [
    "hydra",
    "omegaconf",
    "tensorboard",
    "gymnasium",
    "scipy",
    "sklearn",
    "matplotlib",
    "tabulate",
    "tqdm",
    "pooch",
]


def run() -> int:
    """Start `relax-exp`, and return its exit code; 2 where packages are missing."""
    return _start("relax_exp.cli.main")


def report() -> int:
    """Start `relax-exp-report`, and return its exit code; 2 where packages are missing."""
    return _start("relax_exp.cli.report")


def _start(module: str) -> int:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(
            f"This command needs packages that the library alone does not ({', '.join(missing)}). "
            "Install them with: pip install 'relax-exp[run]'",
            file=sys.stderr,
        )
        return 2
    try:
        return importlib.import_module(module).main()
    except KeyboardInterrupt:  # while modules are imported: the commands themselves see to the rest
        print("\nstopped", file=sys.stderr)
        return 130
