"""relax-exp: gradient estimators for discrete and black-box variables, verified and reproduced.

`Latent` puts one into a model, `Chain` several on top of each other, `score_function_loss` takes samples of any
distribution; `testing` tells whether anybody's estimator is biased; `GradientMonitor` watches variances during
training; `build` and `names` are the estimators behind all of it.
Names are looked up when they are used: torch is not imported before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relax_exp import distributions, estimators, testing
    from relax_exp.distributions import FAMILIES as families
    from relax_exp.estimators import build, names
    from relax_exp.estimators.base import Estimator, Objective, Output
    from relax_exp.latent import Chain, Latent, score_function_loss
    from relax_exp.monitor import GradientMonitor

__version__ = "0.1.0"

__all__ = [
    "Chain",
    "Estimator",
    "GradientMonitor",
    "Latent",
    "Objective",
    "Output",
    "build",
    "distributions",
    "estimators",
    "families",
    "names",
    "score_function_loss",
    "testing",
]

_HOMES = {
    "Chain": "latent",
    "Estimator": "estimators.base",
    "GradientMonitor": "monitor",
    "Latent": "latent",
    "Objective": "estimators.base",
    "Output": "estimators.base",
    "build": "estimators",
    "names": "estimators",
    "score_function_loss": "latent",
}


def __getattr__(name: str) -> Any:
    """Import a public name now that somebody asks for it (PEP 562)."""
    if name == "families":
        return importlib.import_module("relax_exp.distributions").FAMILIES
    if name in _HOMES:
        return getattr(importlib.import_module(f"relax_exp.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"relax_exp.{name}")
    raise AttributeError(f"module 'relax_exp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
