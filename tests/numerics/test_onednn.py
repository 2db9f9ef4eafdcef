"""oneDNN's matrix products in compiled programs: the same numbers, and only where they pay."""

import pytest
import torch

from relax_exp.numerics import cpu_programs, onednn
from relax_exp.numerics.random_streams import stream

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


def tensors(*shapes):
    generator = stream(0, "products")
    return [torch.rand(shape, generator=generator) - 0.5 for shape in shapes]


@pytest.fixture(scope="module")
def used():
    """The replacement as on the processors where it is useful; how many products it made."""
    patch, made = pytest.MonkeyPatch(), []
    replace = onednn.replace

    def counting(graph):
        replace(graph)
        made.append(sum(node.target is torch.ops.relax_exp.product.default for node in graph.nodes))

    patch.setattr(onednn, "useful", lambda: True)
    patch.setattr(onednn, "replace", counting)
    cpu_programs.options.cache_clear()
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield made
    patch.undo()
    cpu_programs.options.cache_clear()


def test_a_single_product(monkeypatch):
    """As those of PyTorch; where a gradient is asked for, PyTorch's own."""
    monkeypatch.setattr(onednn, "useful", lambda: True)
    x, weight, bias = tensors((8, 800), (300, 800), (300,))
    assert onednn.large(x, weight.T)
    expected = torch.nn.functional.linear(x, weight, bias)
    with torch.no_grad():
        assert torch.allclose(onednn.linear_relu(x, weight, bias), expected.relu(), atol=1e-5)
        assert torch.allclose(onednn.mm(x, weight.T), expected - bias, atol=1e-5)
    weight.requires_grad_()
    onednn.linear_relu(x, weight, bias).sum().backward()
    assert torch.allclose(weight.grad, (expected > 0).float().T @ x, atol=1e-5)


def program(x, w, v, bias):
    hidden = torch.tanh(torch.addmm(bias, x, w.T))  # large, with a bias
    tiny = hidden[:, :3] @ v[:3, :5]  # too small to gain
    return hidden.T @ x + w, tiny, (hidden @ v).sum(0)  # large: added to a matrix; of a transposed matrix; plain


def test_compiled_products_are_those_of_eager_pytorch(used):
    inputs = tensors((48, 784), (200, 784), (200, 200), (200,))
    for got, wanted in zip(cpu_programs.compile(program)(*inputs), program(*inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        assert got.is_contiguous() == wanted.is_contiguous()
    assert used[-1] == 3


def test_other_precisions_are_left_alone(used):
    inputs = [x.double() for x in tensors((48, 784), (200, 784), (200, 200), (200,))]
    for got, wanted in zip(cpu_programs.compile(program)(*inputs), program(*inputs), strict=True):
        torch.testing.assert_close(got, wanted)
    assert used[-1] == 0


def test_single_product():
    a, b, bias = tensors((40, 300), (300, 200), (200,))
    torch.testing.assert_close(onednn.product(a, b, bias), a @ b + bias, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.ops.relax_exp.product(b.T, a.T, None), (a @ b).T, rtol=1e-5, atol=1e-5)
    torch.library.opcheck(torch.ops.relax_exp.product.default, (a, b, bias), test_utils="test_faketensor")
