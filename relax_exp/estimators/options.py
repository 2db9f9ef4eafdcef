"""What the options of estimators may be: one declaration for the command line, `build` and the constructors.

torch is not imported here, since configuration checks read it.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, TypedDict

from relax_exp.errors import ConfigError, OptionError
from relax_exp.schema import (
    BelowOne,
    Count,
    Draws,
    NotNegative,
    NotNegativeCount,
    Positive,
    checked,
    convert,
    hints,
    one_of,
)

POSITION = ("self", "family", "event_shape", "context_shape")  # what a constructor takes beside options
OF_TRAINING = ("lr_scale", "warmup")  # keys of an estimator in a configuration that its constructor does not take


class EstimatorOptions(TypedDict, total=False):
    """The catalogue of the options of all estimators, with their types.

    An estimator takes those of its YAML file, or of its constructor from Python. A key that is not here keeps the type
    that its default has there.
    """

    surrogate: Literal["network", "relaxed"]
    noise: Literal["tied", "independent"]
    advantage: Literal["correct", "published_error"]
    sampler: Literal["correct", "published_error"]
    activation: Literal["relu", "tanh", "elu"]
    objective: Literal["mse", "variance"]
    mean: Literal["geometric", "arithmetic"]
    samples: Count
    depth: NotNegativeCount  # 0: a linear map
    width: Count
    temperature: Positive
    eta: float
    granularity: Literal["layer", "parameter"]
    tensors: Count
    relaxation: Literal["concrete", "muprop"]
    bounded_eta: bool
    baseline: Literal["none", "input"]
    inputs: Count | None
    shared: bool
    decay: BelowOne
    normalize: bool
    threshold: NotNegative
    schedule: Literal["fixed", "annealed", "learned"]
    minimum: Positive
    rate: NotNegative
    anneal_every: Count
    growth: NotNegative
    draws: Count
    copies: Draws
    pairs: Count
    order: Literal["index", "descending", "ascending"]
    form: Literal["integrated", "importance"]
    scales: Literal["fixed", "learned"]
    operator: Literal["gibbs", "mpf", "difference"]
    forward: Positive
    gap: NotNegative
    lr_scale: NotNegative
    weight_decay: NotNegative
    warmup: NotNegativeCount


def types(defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the type of every option: the catalogue's where the default is of it, else that of the default itself.

    Where the default is None, that may be given beside what is of the catalogue's type.
    """
    catalogue = hints(EstimatorOptions)
    found: dict[str, Any] = {}
    for key, default in defaults.items():
        hint = catalogue.get(key)
        if hint is not None and default is None:
            hint = hint | None
        found[key] = hint if _is(default, hint) else _of(default)
    return found


def accepted(cls: type) -> dict[str, Any]:
    """Return the options of an estimator's constructor with their defaults, those of its base classes included."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        for each in parameters:
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and each.name not in POSITION:
                found.setdefault(each.name, each.default)
        if not any(each.kind == each.VAR_KEYWORD for each in parameters):
            break
    return found


def check_options(cls: type, given: dict[str, Any]) -> None:
    """Check whether an estimator may be built with these keywords, before it is.

    Both messages name the option, what is allowed, and the nearest of that.

    Raises:
        TypeError: The estimator has no such option.
        OptionError: The option may not have this value; it is a ValueError.
    """
    defaults = accepted(cls)
    known = types(defaults)
    for key, value in given.items():
        if key in POSITION:
            continue
        if key not in known:
            raise TypeError(f"{cls.__name__} has no option {key}: must be {one_of(known, key)}")
        plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
        if known[key] is None or (plain is None and defaults[key] is None):
            continue
        try:
            checked(key, plain, known[key])
        except ConfigError as error:
            raise OptionError(f"{cls.__name__}: {error}") from None


def _is(default: Any, hint: Any) -> bool:
    """Tell whether a default is of a catalogue's type; without a default (a required option) any is."""
    if hint is None or default is inspect.Parameter.empty:
        return hint is not None
    try:
        convert(default, hint)
    except (TypeError, ValueError):
        return False
    return True


def _of(default: Any) -> Any:
    """Return the type of a default, or None, which allows anything, where the default does not say."""
    return next((kind for kind in (bool, int, float, str) if type(default) is kind), None)
