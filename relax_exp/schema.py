"""Values checked against annotated types, with messages for the person who typed them. Knows no key by name."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from relax_exp.errors import ConfigError


class Check(NamedTuple):
    """A condition beyond the type, attached to it by ``Annotated``: in words, and as a function of the value."""

    wanted: str
    holds: Callable[[Any], bool]


NOT_EMPTY = Check("that is not empty", bool)
DISTINCT = Check("without repetition", lambda values: len(set(values)) == len(values))

Count = Annotated[int, Check("> 0", lambda value: value > 0)]
NotNegativeCount = Annotated[int, Check(">= 0", lambda value: value >= 0)]
Size = Annotated[int, Check("from 1 to 100,000,000", lambda value: 0 < value <= 10**8)]
Threads = Annotated[int, Check("from 1 to 512", lambda value: 0 < value <= 512)]
Draws = Annotated[int, Check("> 1", lambda value: value > 1)]
Categories = Annotated[int, Check("> 1", lambda value: value > 1)]
Seed = Annotated[int, Check("from 0 to 4294967295", lambda value: 0 <= value < 2**32)]
Positive = Annotated[float, Check("> 0", lambda value: value > 0)]
Fraction = Annotated[float, Check("from 0 to 1", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Check(">= 0 and < 1", lambda value: 0 <= value < 1)]
NotNegative = Annotated[float, Check(">= 0", lambda value: value >= 0)]
Text = Annotated[str, NOT_EMPTY]


def hints(schema: type) -> dict[str, Any]:
    """Return the annotated type of every key of a schema class."""
    return get_type_hints(schema, include_extras=True)


def check(values: dict, types: dict[str, Any], prefix: str = "") -> dict:
    """Return ``values`` in the order of ``types``, each of its type.

    Raises:
        ConfigError: A key is unknown, missing or wrong.
    """
    for key in values:
        if key not in types:
            raise unknown_key(prefix + str(key), types)
    for key in types:
        if key not in values:
            raise ConfigError(f"{prefix}{key} is missing: type {prefix}{key}=VALUE")
    return {key: checked(prefix + key, values[key], hint) for key, hint in types.items()}


def checked(key: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type ``hint``.

    Raises:
        ConfigError: It is not of the type. The message has what is wanted and, where it is plain, what was meant.
    """
    with contextlib.suppress(ValueError):
        return convert(value, hint)
    message = f"{key}={show(value)}: must be {words(hint)}"
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    for meant in (_nearest(value, hint), [_nearest(value, hint)], whole):
        with contextlib.suppress(ValueError):
            raise ConfigError(f"{message}; did you mean {key}={show(convert(meant, hint))}?")
    raise ConfigError(message)


def convert(value: Any, hint: Any) -> Any:
    """Return ``value`` as the type ``hint``; whole numbers count as floats, and nothing else is converted.

    Raises:
        ValueError: It is not of the type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = convert(value, args[0])
        if all(check.holds(value) for check in args[1:]):
            return value
    elif origin in (Union, UnionType):  # only ever X | None
        return None if value is None else convert(value, args[0])
    elif origin is Literal:
        # True == 1, hence the types
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
    elif origin is list:
        if isinstance(value, list):
            return [convert(item, args[0]) for item in value]
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    raise ValueError(value)


def words(hint: Any) -> str:
    """Describe a type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        wanted = ", ".join(check.wanted for check in args[1:])
        kind, *items = words(args[0]).split(", each item ")  # what holds for a list is said before its items
        return ", each item ".join([f"{kind} {wanted}", *items])
    if origin in (Union, UnionType):
        return f"{words(args[0])}, or null"
    if origin is Literal:
        return one_of(map(show, args))
    if origin is list:
        return f"a list, each item {words(args[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint) or getattr(hint, "__name__", str(hint))


def one_of(names: Iterable[str], given: str = "") -> str:
    """Write ``one of a, b, c``, and the nearest of them to ``given`` if one is near."""
    names = list(names) or ["(none)"]
    near = difflib.get_close_matches(given, names, n=1)
    return f"one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")


def unknown_key(key: str, known: Iterable[str]) -> ConfigError:
    """Make the error for ``a.key`` where only the keys ``known`` (without ``a.``) exist."""
    prefix, _, name = key.rpartition(".")
    message = f"unknown key {key}: must be {one_of(known, name)}"
    return ConfigError(message.replace("; did you mean ", f"; did you mean {prefix}.") if prefix else message)


def show(value: Any) -> str:
    """Write ``value`` as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _nearest(value: Any, hint: Any) -> Any:
    """Return ``value`` with misspelt choices replaced by the nearest."""
    if isinstance(value, list):
        return [_nearest(item, hint) for item in value]
    return next(iter(difflib.get_close_matches(str(value), _choices(hint), n=1)), value)


def _choices(hint: Any) -> list[str]:
    """Return every string that a Literal inside the type offers."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if isinstance(choice, str)]
    return [choice for part in get_args(hint) for choice in _choices(part)]
