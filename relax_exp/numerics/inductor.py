"""What to do where Inductor, the compiler of ``torch.compile``, fails on one of its optimisations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


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
