"""Programs for a GPU: fewer products with the same results, and fewer kernels as Inductor writes them."""

import gpu_kernels
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from relax_exp.numerics import gpu_programs
from relax_exp.numerics.random_streams import stream

aten = torch.ops.aten


def tensors(*shapes):
    generator = stream(0, "products")
    return [torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5 for shape in shapes]


def products(graph) -> int:
    return sum(node.target in gpu_programs.PRODUCTS for node in graph.graph.nodes)


def merged(function, inputs, less):
    """The graph of a function after `merge`, which computes the same with ``less`` products less."""
    graph = make_fx(function, tracing_mode="fake")(*inputs)
    before = products(graph)
    assert gpu_programs.merge(graph.graph) == less == before - products(graph)
    graph.graph.lint()
    graph.recompile()
    for got, wanted in zip(graph(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(got, wanted)


def test_two_products_with_one_weight_are_one():
    def decode(b, s, w, bias):
        hard = torch.addmm(bias, b, w.T)
        return hard.exp(), torch.addmm(bias, s * b, w.T).sigmoid()

    merged(decode, tensors((4, 3), (4, 3), (5, 3), (5,)), 1)


def test_of_all_replicas_and_of_different_numbers_of_rows():
    def decode(b, s, w):
        return torch.bmm(b, w.mT), torch.bmm(s, w.mT) * 2, torch.bmm(s * s, w.mT)

    merged(decode, tensors((2, 4, 3), (2, 6, 3), (2, 5, 3)), 2)


def test_a_product_that_needs_the_other_stays():
    merged(lambda x, w: (torch.mm(torch.mm(x, w.T), w.T),), tensors((4, 3), (3, 3)), 0)


def test_other_weights_and_other_biases_stay():
    def function(x, y, w, bias):
        return torch.addmm(bias, x, w.T), torch.addmm(bias * 2, y, w.T), torch.mm(x, w)

    merged(function, tensors((4, 3), (4, 3), (3, 3), (3,)), 0)


def test_a_product_with_one_row_or_column_is_a_sum():
    def function(row, x, column):
        return torch.bmm(row, x), torch.bmm(x, column), x[0] @ column[0], row[0] @ x[0], x[0].T @ x[0]

    merged(function, tensors((2, 1, 4), (2, 4, 3), (2, 3, 1)), 4)


def test_where_inductor_fails_it_does_without(monkeypatch, capsys):
    def broken():
        from torch._inductor.custom_graph_pass import CustomGraphPass

        class Breaks(CustomGraphPass):
            def __call__(self, graph):
                raise RuntimeError("no such kernel")

            def uuid(self):
                return "breaks"

        return {"post_grad_custom_post_pass": Breaks()}

    monkeypatch.setattr(gpu_programs, "options", broken)
    (x,) = tensors((3, 3))
    call = gpu_programs.compile(lambda x: (x @ x).sin())
    for _ in range(2):
        torch.testing.assert_close(call(x), (x @ x).sin())
    said = capsys.readouterr().err
    assert said.count("compiling anew") == 1 and "no such kernel" in said


def test_a_step_of_rebar_has_few_kernels():
    command = "task=vae estimator=rebar task.dataset=digits"
    matrix, others = gpu_kernels.kernels(command, 5)
    assert 6 <= matrix <= 8 and matrix + others <= gpu_kernels.LIMITS["task=vae estimator=rebar"]
    assert sum(gpu_kernels.kernels(command, 5, fewer=False)) > matrix + others


@pytest.mark.slow
def test_a_step_of_relax_has_few_kernels():
    kernels = gpu_kernels.kernels("task=vae estimator=relax task.dataset=digits", 5)
    assert sum(kernels) <= gpu_kernels.LIMITS["task=vae estimator=relax"]
