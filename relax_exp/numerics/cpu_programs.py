"""Programs for CPUs: ``torch.compile`` and what Inductor leaves undone there.

Of a product and a summand (``addmm``: the bias of an affine map, the weight decay beside the gradient of a weight)
PyTorch first copies the summand into the result and then adds the product to it: one more pass over memory. Here
product and sum are separate, and Inductor fuses the sum into the kernel that reads it. Where oneDNN is the faster,
large products are oneDNN's (`onednn`). Both change last bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph

from relax_exp.numerics import onednn
from relax_exp.numerics.inductor import either, where_offered

aten = torch.ops.aten


def compile(
    function: Callable[..., Any], backend: str = "inductor", often: bool = False, **more: Any
) -> Callable[..., Any]:
    """Call ``torch.compile(function)`` for fixed shapes, with the options ``more``.

    A program that is called ``often`` has what the host does between its kernels written in C++ too. That takes a
    twentieth of a small training step away, and adds some seconds to the first compilation. Where Inductor fails, as it
    does on some of the loops that it would put into one, it says so, leaves them apart and does without the rest.
    """
    if backend != "inductor":
        return torch.compile(function, backend=backend, dynamic=False, options=more or None)
    usual: dict[str, Any] = {**options(), "cpp_wrapper": often, **more}
    careful = {**usual, "cpp_wrapper": False, "cpp.max_horizontal_fusion_size": 0}
    first, second = (torch.compile(function, dynamic=False, options=chosen) for chosen in (usual, careful))
    return either(first, second, "fewer loops in one and none of the host's work in C++")


@functools.cache
@where_offered
def options() -> dict[str, Any]:
    """Return what ``torch.compile`` is told for every program."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    quick = onednn.useful()
    if quick:
        onednn.lower()

    class Rewrite(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            if quick:
                onednn.replace(graph)
            add_apart(graph)

        def uuid(self) -> Any:
            return quick, get_hash_for_files((__file__, onednn.__file__))

    return {"post_grad_custom_post_pass": Rewrite()}


def add_apart(graph: Graph) -> None:
    """Turn products to which something is added into a product and a sum, which Inductor makes part of what reads it.

    Those with factors of the two (``addmm``'s keywords) stay.
    """
    for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
        if node.kwargs:
            continue
        added, a, b = node.args
        with graph.inserting_before(node):
            product = graph.call_function(aten.mm.default, (a, b))
            total = graph.call_function(aten.add.Tensor, (product, added))
        product.meta["val"] = total.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(total)
        graph.erase_node(node)
