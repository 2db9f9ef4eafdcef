"""Matrix products by oneDNN where PyTorch's own choice leaves half of the processor idle.

On AMD processors MKL, the usual BLAS of PyTorch's CPU builds, multiplies with AVX2; oneDNN, which comes with them too,
uses AVX-512 where there is one: 1.3 to 2 times faster on products of more than a million multiplications. Float32 stays
float32. `replace` is for compiled programs (`cpu_programs`); the other functions are for products outside of them, and
for weights that are applied so often that they are worth packing: laying out as oneDNN reads them.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from relax_exp.numerics.machine import hardware

OPERATORS = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight", "_reorder_convolution_weight")
SMALLEST = 1_500_000  # multiplications of a product: below, oneDNN's overhead of 10 us a call outweighs its speed
aten = torch.ops.aten
library = torch.library.Library("relax_exp", "DEF")
library.define("product(Tensor a, Tensor b, Tensor? bias) -> Tensor")


@torch.library.impl(library, "product", "CPU")
def product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a b + bias for float32 tensors ``(m, k)``, ``(k, n)`` and ``(n,)``."""
    return torch.ops.mkldnn._linear_pointwise(a, b.T, bias, "none", [], None)


@torch.library.register_fake("relax_exp::product")
def _(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@functools.cache
def useful() -> bool:
    """Tell whether oneDNN is there, and faster here."""
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
    slow = torch.backends.mkl.is_available() and "AMD" in hardware()["cpu"]
    return there and slow and torch.backends.cpu.get_cpu_capability() == "AVX512"


def large(a: Tensor, b: Tensor) -> bool:
    """Tell whether the product a b gains: large, float32, on the CPU."""
    here = a.dtype == b.dtype == torch.float32 and a.device.type == "cpu"
    return here and a.dim() == b.dim() == 2 and a.shape[0] * a.shape[1] * b.shape[1] >= SMALLEST


def mm(a: Tensor, b: Tensor) -> Tensor:
    """Compute a b, outside of the CPU's compiled programs."""
    return product(a, b, None) if large(a, b) and useful() else a @ b


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute relu of ``F.linear``, outside of compiled programs; ``weight`` may be packed."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], None)
    if large(x, weight.T) and useful() and not torch.is_grad_enabled():
        return product(x, weight.T, bias).relu_()
    return functional.linear(x, weight, bias).relu_()


def convolution_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> Tensor:
    """Compute relu of ``F.conv2d``; ``weight`` may be packed."""
    if weight.is_mkldnn:
        options = [0, 0], stride, [1, 1], 1, "relu", [], None
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *options)
    return functional.conv2d(x, weight, bias, stride).relu_()


def packs(weight: Tensor) -> bool:
    """Tell whether it gains to lay a weight out as oneDNN reads it, where it is applied many times."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and useful()


def packed_linear(weight: Tensor, rows: int) -> Tensor:
    """Pack a weight for `linear_relu` and so many rows; only for weights for which `packs` is true."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def packed_convolution(weight: Tensor, stride: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
    """Pack a weight for `convolution_relu` and inputs of this shape; only for weights for which `packs` is true."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, [0, 0], stride, [1, 1], 1, shape)


def replace(graph: torch.fx.Graph) -> None:
    """Put `product` in the place of the large products of a graph of ATen operators."""
    for node in list(graph.nodes):
        if node.target is aten.mm.default:
            bias, (a, b) = None, node.args
        elif node.target is aten.addmm.default and not node.kwargs:
            bias, a, b = node.args
        else:
            continue
        if not large(a.meta["val"], b.meta["val"]):
            continue
        whole = bias is not None and bias.meta["val"].dim() != 1  # to be added to the product as it is
        with graph.inserting_before(node):
            new = graph.call_function(torch.ops.relax_exp.product.default, (a, b, None if whole else bias))
            new.meta["val"] = node.meta["val"]
            if whole:
                new = graph.call_function(aten.add.Tensor, (new, bias))
                new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def lower() -> None:
    """Tell Inductor how to call `product`."""
    from torch._inductor.lowering import fallback_handler, lowerings, permute

    call = fallback_handler(torch.ops.mkldnn._linear_pointwise.default, add_to_fallback_set=False)
    operator = torch.ops.relax_exp.product.default
    lowerings[operator] = lambda a, b, bias: call(a, permute(b, [1, 0]), bias, "none", [], None)
