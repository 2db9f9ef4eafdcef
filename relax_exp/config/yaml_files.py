"""Where the YAML files of the configuration are, and what they say: values, comments, the sentence at their head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_PACKAGE = Path(__file__).parents[1]
# In a wheel, and in the source tree.
CONFIGS = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir())


def summary(path: Path) -> str:
    """Return the sentence at the head of a YAML file."""
    lines = path.read_text().splitlines()
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line), "")


def documented(path: Path) -> dict[str, tuple[str, str]]:
    """Return the keys of a YAML file with dots, each with its value and its comment as they are written there.

    An estimator's file is about ``estimator.``; the comment is empty where there is none.
    """
    own = "estimator." if path.parent.name == "estimator" else ""
    section, found = "", {}
    for line in path.read_text().splitlines():
        if match := re.match(r"( *)(\w+):(?: +(.*?))?(?: *# (.+))?$", line):
            indent, key, value, comment = match.groups()
            section = section if indent else ("" if value else f"{key}.")
            if value or comment:
                found[own + (section if indent else "") + key] = (value or "").strip(), comment or ""
    return found


def of_task(name: str) -> dict[str, Any]:
    """Return the values in a task's file: its own keys under ``task``, and the top-level ones that it sets."""
    values: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
    return values
