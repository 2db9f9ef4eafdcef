"""Pure steps as CUDA graphs: one launch for all kernels of a step, or of many, whatever their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

WARM_UPS = 3  # calls before the capture, in which libraries and compiled code set themselves up

Capture = Callable[[Callable[[], None]], Callable[[], None]]


def capture(call: Callable[[], None]) -> Callable[[], None]:
    """Capture what ``call()`` does with memory that stays where it is; return the function that does it again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another thread may copy the noise of the next chunk meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay


class Graphed:
    """``step(state, *inputs) -> state`` on pytrees of tensors of fixed shapes, captured at the first call.

    The state lives in the graph's memory and is overwritten there: the memory of the state of the first call becomes
    the graph's, and the state that a call returns need not be copied when it is handed in again. What else is handed in
    is copied to where the graph reads it. ``capture`` is replaced in tests, which have no GPU.
    """

    def __init__(self, step: Callable[..., Any], capture: Capture = capture):
        self.step, self.capture = step, capture
        self.replay: Callable[[], None] | None = None

    def __call__(self, state: Any, *inputs: Any) -> Any:
        """Return the state after the step, in the graph's memory: the next call overwrites it."""
        if self.replay is None:
            self.replay = self._record(state, inputs)
        update(self.state, tree_leaves(state))
        update(self.inputs, tree_leaves(inputs))
        self.replay()
        return self.tree

    def _record(self, state: Any, inputs: Any) -> Callable[[], None]:
        self.tree, self.state = state, tree_leaves(state)
        leaves, spec = tree_flatten(inputs)
        self.inputs = [leaf.clone() for leaf in leaves]
        static = tree_unflatten(self.inputs, spec)
        kept = [leaf.clone() for leaf in self.state]
        memory = {leaf.untyped_storage().data_ptr() for leaf in self.state}

        def overwrite() -> None:
            new = tree_leaves(self.step(self.tree, *static))
            # What a step hands on of the old state, in another place, must be read before it is overwritten.
            handed = (
                n is not o and n.untyped_storage().data_ptr() in memory for o, n in zip(self.state, new, strict=True)
            )
            update(self.state, [n.clone() if keep else n for n, keep in zip(new, handed, strict=True)])

        replay = self.capture(overwrite)
        update(self.state, kept)  # the calls before the capture were steps, too
        return replay


def update(old: list[Tensor], new: list[Tensor]) -> None:
    """Overwrite tensors with others, but for those that are the same memory already."""
    pairs = [(o, n) for o, n in zip(old, new, strict=True) if o is not n]
    if pairs:
        # One launch for all of them, which has no public name.
        torch._foreach_copy_([o for o, _ in pairs], [n for _, n in pairs])  # pyright: ignore[reportPrivateImportUsage]
