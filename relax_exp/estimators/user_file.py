"""Estimators of the user's own, from a Python file that is not part of the package: ``estimator.path=FILE``.

torch is imported with the file, not with this module. Whatever goes wrong in the file is shown as the file's: its line
and message, without the frames of this package.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relax_exp.errors import ConfigError
from relax_exp.estimators import options

if TYPE_CHECKING:
    from relax_exp.estimators.base import Estimator

_files: set[str] = set()  # that were loaded
ROWS, CONTEXT = 3, 5  # of the trial


def load(path: str) -> type[Estimator]:
    """Load the one `Estimator` subclass that a Python file defines.

    Raises:
        ConfigError: There is no such file, it defines none or several, or it cannot be executed.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"estimator.path={path}: there is no such file")
    return _load(path, str(file.resolve()), digest(path))


@cache
def _load(path: str, file: str, digest: str) -> type[Estimator]:
    from relax_exp.estimators.base import Estimator

    name = f"relax_exp_own_{Path(file).stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"estimator.path={path}: not a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _files.add(file)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(blame(error) or f"estimator.path={path}: {error}") from error
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass)]
    found = [cls for cls in classes if issubclass(cls, Estimator) and cls.__module__ == name]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise ConfigError(
            f"estimator.path={path}: expected one subclass of relax_exp.estimators.base.Estimator, found {names}"
        )
    return found[0]


def digest(path: str) -> str:
    """Return ten hexadecimal digits of what is in the file: another text is another estimator, and so another run."""
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:10]


def families(cls: type[Estimator]) -> tuple[str, ...]:
    """Return the families of variables that the class is for: its attribute ``families``, or Bernoulli."""
    return tuple(getattr(cls, "families", ("bernoulli",)))


def defaults(cls: type[Estimator]) -> dict[str, Any]:
    """Return the options of the class with their defaults, for a configuration.

    Raises:
        ConfigError: An option has no default.
    """
    found = options.accepted(cls)
    for key, value in found.items():
        if value is inspect.Parameter.empty:
            raise ConfigError(f"{cls.__name__}: option {key} has no default; give it one in its constructor")
    return found | {"lr_scale": 1.0, "warmup": 0}


def blame(error: BaseException) -> str | None:
    """Say what a user's file did wrong: "FILE, line N, in NAME: ValueError: message".

    Returns None where the file took no part in the error.
    """
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename in _files:
        return f"{error.filename}, line {error.lineno}: {kind}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _files]
    if not frames:
        return None
    last = frames[-1]
    said = " ".join(str(error).split())
    return f"{last.filename}, line {last.lineno}, in {last.name}: {kind}: {said}\n    {last.line}"


def build(
    path: str,
    family: str,
    event_shape: int | tuple[int, ...],
    context_shape: int | tuple[int, ...] | None,
    **given: Any,
) -> Estimator:
    """Build the estimator of a file and try it once before it is used.

    Raises:
        ConfigError: It breaks the contract: its constructor takes other arguments, a method is missing, what it returns
            has a wrong type or shape, or its gradient is not finite.
    """
    cls = load(path)
    try:
        estimator = cls(family, event_shape, context_shape, **given)
    except TypeError as error:
        if blame(error) is not None:  # in its body
            raise
        raise ConfigError(
            f"{path}: {error}; a constructor of its own takes (*args, OPTION=DEFAULT, **kwargs) and passes args and "
            "kwargs on to super().__init__"
        ) from error
    trial(path, estimator)
    return estimator


def trial(path: str, estimator: Estimator) -> None:
    """Call the estimator once on a smooth loss in double precision.

    Raises:
        ConfigError: The call fails or returns something wrong. The message names the file and the class.
    """
    import copy

    import torch

    from relax_exp.estimators.base import Output, shape_or_type

    def wrong(what: str) -> ConfigError:
        return ConfigError(f"{path}: {type(estimator).__name__} {what}")

    generator = torch.Generator().manual_seed(0)
    tried, family = copy.deepcopy(estimator).double(), estimator.family
    shape = (ROWS, *family.parameter_shape(estimator.event_shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    context = None
    if estimator.context_shape is not None:
        context = torch.randn((ROWS, *estimator.context_shape), generator=generator, dtype=torch.float64)
    dims = tuple(range(-family.event_dims, 0))

    def smooth(b: torch.Tensor) -> torch.Tensor:
        return (b - 0.3).square().sum(dims)

    try:
        with torch.enable_grad():
            out = tried(logits, smooth, generator=generator, context=context)
            if not isinstance(out, Output):
                raise wrong(f"returned {type(out).__name__} from estimate; it must return relax_exp's Output")
            tuning = tried.tuning_loss(out)
    except (TypeError, ValueError, NotImplementedError) as error:
        if blame(error) is None:  # our own check of what the file returned
            raise ConfigError(f"{path}: {error}") from error
        raise
    for name, value, expected in (("grad", out.grad, shape), ("loss", out.loss, (ROWS,)), ("tuning_loss", tuning, ())):
        if (got := shape_or_type(value)) != tuple(expected):
            raise wrong(f"returned {name} of shape {got} for {ROWS} rows; it must be {tuple(expected)}")
        if not value.isfinite().all():
            raise wrong(f"returned a {name} that is not finite (NaN or infinite) for ordinary logits")
    buffers = dict(tried.named_buffers())
    if unknown := [key for key in out.buffers if key not in buffers]:
        raise wrong(f"returned a new value of {unknown[0]}, which is not a registered buffer of it")
