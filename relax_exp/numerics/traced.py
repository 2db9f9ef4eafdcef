"""Pure functions of tensors as the flat list of operators that they call: the same numbers in a quarter of the time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

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
        self.trace: GraphModule | None = None
        self.program: Callable[..., Any] | None = None

    def __call__(self, *trees: Any) -> Any:
        """Return what the function does."""
        if self.program is None:
            try:
                self.trace = make_fx(self.call)(*trees)
            except Exception:
                self.program = self.call
            else:
                self.trace.graph.eliminate_dead_code()
                self.trace.recompile()
                self.program = torchscript(self.trace, *trees) or self.trace
        return self.program(*trees)


def torchscript(call: Callable[..., Any], *trees: Any) -> Callable[..., Any] | None:
    """Return ``call`` for TorchScript's interpreter, which asks nothing of Python between operators.

    It is None where torch, which advises against TorchScript, no longer has what this needs. TorchScript's optimiser
    would fuse operators, and that changes last bits: it stays off.
    """
    leaves, inputs = tree_flatten(trees)
    outputs: list[TreeSpec] = []

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        results, structure = tree_flatten(call(*tree_unflatten(leaves, inputs)))
        outputs.append(structure)
        return tuple(results)

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            # Clones, since one tensor given twice, as moments are at first, would become one input.
            script: Any = torch.jit.trace(flat, tuple(leaf.clone() for leaf in leaves), check_trace=False)
            optimized = torch.jit.optimized_execution  # pyright: ignore[reportPrivateImportUsage]
    except Exception:
        return None

    def program(*trees: Any) -> Any:
        with optimized(False), torch.no_grad():
            return tree_unflatten(script(*tree_leaves(trees)), outputs[0])

    return program
