"""A pure step as one CUDA graph: one launch a step, whatever the number of its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

WARM_UPS = 3  # calls before the capture, in which libraries and compiled code set themselves up


def capture(call: Callable) -> tuple[object, Callable[[], None]]:
    """Capture ``call()`` in a CUDA graph.

    Returns:
        The outputs, which live in the graph, and a function that recomputes them in place.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return outputs, graph.replay


class Graphed:
    """``step(*inputs) -> outputs``, pytrees of tensors of fixed shapes, captured at the first call.

    Inputs are copied into the graph's own memory and outputs out of it, so that to the caller the step stays a pure
    function. ``capture`` is replaced in tests, which have no GPU.
    """

    def __init__(self, step: Callable, capture: Callable = capture):
        self.step, self.capture, self.replay = step, capture, None

    def __call__(self, *inputs):
        """Return the outputs of the step at ``inputs``."""
        leaves, spec = tree_flatten(inputs)
        if self.replay is None:
            self.leaves = [leaf.clone() for leaf in leaves]
            static = tree_unflatten(self.leaves, spec)
            self.outputs, self.replay = self.capture(lambda: self.step(*static))
        torch._foreach_copy_(self.leaves, leaves)
        self.replay()
        return tree_map(torch.clone, self.outputs)
