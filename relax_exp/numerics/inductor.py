"""What to do where Inductor, the compiler of ``torch.compile``, fails on one of its optimisations."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


def where_offered(options: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return no options, and say so, where this version of torch lacks something private that ``options`` reaches for.

    Programs are right without; they take longer.
    """

    @functools.wraps(options)
    def found() -> dict[str, Any]:
        try:
            return options()
        except (ImportError, AttributeError) as error:
            print(f"compiling without our rewriting of products, which this torch lacks a part for: {error}",
                  file=sys.stderr)  # fmt: skip
            return {}

    return found


def either(first: Callable[..., Any], second: Callable[..., Any], instead: str) -> Callable[..., Any]:
    """Call ``first``, a compiled program; from then on ``second`` where Inductor fails to compile it.

    ``instead`` says what the second has, in a line for the user. Nothing has been computed when compiling fails, as the
    functions of this package are one graph each.
    """
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InductorError

    program = None

    def call(*inputs: Any) -> Any:
        nonlocal program
        if program:
            return program(*inputs)
        try:
            out = first(*inputs)
        except (BackendCompilerFailed, InductorError) as error:
            import torch

            reason = " ".join(str(error).split())[:200]
            print(f"compiling anew with {instead}, since Inductor failed: {reason}", file=sys.stderr)
            torch.compiler.reset()
            program = second
            return second(*inputs)
        program = first
        return out

    return call
