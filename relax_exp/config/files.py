"""Where the YAML files of the configuration are, and what those of tasks say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_PACKAGE = Path(__file__).parents[1]
# In a wheel, and in the source tree.
CONFIGS = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir())


def of_task(name: str) -> dict[str, Any]:
    """Return the values in a task's file: its own keys under ``task``, and the top-level ones that it sets."""
    values: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
    return values
