"""Programs of fewer kernels for GPUs, where a small training step waits for the launch of each kernel.

``torch.compile`` is told to put independent small kernels into one (combo kernels), and two changes are made to its
graph of ATen operators. Products that share their right factor become one product of the rows of both: the hard and the
soft decode of a variational autoencoder apply the same weight. A product with one row or one column becomes a weighted
sum, which needs no kernel of its own. Both change last bits; on a CPU neither gains, so its programs stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils._pytree import tree_map

from relax_exp.numerics.inductor import either, where_offered

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.addmm.default)
VIEWS = (
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.view.default,
    aten.expand.default,
    aten.unsqueeze.default,
)


def compile(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """Call ``torch.compile(function)`` for fixed shapes, with `options` and the options ``more``.

    Combo kernels are called experimental by PyTorch. Where Inductor fails with them, it says so and does without.
    """
    fewer = torch.compile(function, dynamic=False, options={**options(), **more})
    usual = torch.compile(function, dynamic=False, options=more or None)
    return either(fewer, usual, "more kernels")


@where_offered
def options() -> dict[str, Any]:
    """Return what ``torch.compile`` is told for a GPU."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Fewer(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            merge(graph)

        def uuid(self):
            return get_hash_for_files((__file__,))

    return {"combo_kernels": True, "post_grad_custom_post_pass": Fewer()}


def merge(graph: Graph) -> int:
    """Merge products that share a right factor, and turn products with one row or column into sums.

    Returns:
        How many products there are less.
    """
    from torch._inductor.pattern_matcher import stable_topological_sort

    before = sum(node.target in PRODUCTS for node in graph.nodes)
    for node in list(graph.nodes):
        if node.target in PRODUCTS[:2]:
            _as_sum(graph, node)
    while pair := next(_with_one_right_factor(graph), None):
        _as_one(graph, *pair)
        stable_topological_sort(graph)
    graph.eliminate_dead_code()
    return before - sum(node.target in PRODUCTS for node in graph.nodes)


def _as_sum(graph: Graph, node: Node) -> None:
    """Put a weighted sum in the place of a product that has one row or one column."""
    left, right = node.args
    dim = len(_shape(node))
    if _shape(node)[-2] == 1:
        turned, over = left, dim - 2
    elif _shape(node)[-1] == 1:
        turned, over = right, dim - 1
    else:
        return
    with graph.inserting_before(node):
        factor = _call(graph, aten.permute.default, turned, [*range(dim - 2), dim - 1, dim - 2])
        terms = _call(graph, aten.mul.Tensor, factor, right if turned is left else left)
        node.replace_all_uses_with(_call(graph, aten.sum.dim_IntList, terms, [over], True))
    graph.erase_node(node)


def _with_one_right_factor(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Yield pairs of products of one right factor (and bias), neither of which needs the other."""
    groups: dict[object, list[Node]] = {}
    for node in graph.nodes:
        if node.target in PRODUCTS and not node.kwargs:
            *bias, left, right = node.args
            key = node.target, *map(_source, bias), _source(right), _shape(left)[-1], left.meta["val"].dtype
            groups.setdefault(key, []).append(node)
    for found in groups.values():
        for first, second in itertools.combinations(found, 2):
            if not _needs(second, first):
                yield first, second


def _as_one(graph: Graph, first: Node, second: Node) -> None:
    """Put one product of the rows of both in the place of two products."""
    rows, dim = _shape(first)[-2], len(_shape(first)) - 2
    with graph.inserting_after(second):
        both = _call(graph, aten.cat.default, [first.args[-2], second.args[-2]], dim)
    with graph.inserting_after(both):
        product = _call(graph, first.target, *first.args[:-2], both, first.args[-1])
    at = product
    for node, start, end in ((first, 0, rows), (second, rows, rows + _shape(second)[-2])):
        with graph.inserting_after(at):
            at = _call(graph, aten.slice.Tensor, product, dim, start, end)
        node.replace_all_uses_with(at)
    for node in (second, first):
        graph.erase_node(node)


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """Add a call to the graph, with what is known of its result."""
    node = graph.call_function(target, args)
    values = tree_map(lambda it: it.meta["val"] if isinstance(it, Node) else it, args)
    node.meta["val"] = target(*values)
    return node


def _source(node: Any) -> object:
    """Return what a factor is a view of, and by which views: equal for equal factors."""
    if isinstance(node, Node) and node.target in VIEWS:
        return node.target, _source(node.args[0]), str(node.args[1:])
    return node


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _needs(node: Node, other: Node) -> bool:
    """Tell whether ``node`` is computed from ``other``."""
    seen, left = {node}, [node]
    while left:
        for source in left.pop().all_input_nodes:
            if source is other:
                return True
            if source not in seen:
                seen.add(source)
                left.append(source)
    return False
