"""Pure functions of tensors as the flat list of operators that they call: the same numbers in half of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx.experimental.proxy_tensor import make_fx

PAYS_FROM = 200  # calls; to trace a step takes as long as a hundred of them


class Traced:
    """``call(*trees)`` on pytrees of tensors of fixed shapes, which from the first call on is a trace of its operators.

    The function has to be pure: what it does besides, such as printing, is done once.

    What functorch and Python do between the operators of a small step takes longer than they do. Nothing is fused, so
    numbers stay what they are, bit for bit; operators that no result depends on are left out. A function that cannot be
    traced, such as one that looks at the value of a tensor, is called as it is.
    """

    def __init__(self, call: Callable[..., Any]):
        self.call = call
        self.program: Callable[..., Any] | None = None

    def __call__(self, *trees: Any) -> Any:
        """Return what the function does."""
        if self.program is None:
            try:
                traced = make_fx(self.call)(*trees)
            except Exception:
                self.program = self.call
            else:
                traced.graph.eliminate_dead_code()
                traced.recompile()
                self.program = traced
        return self.program(*trees)
