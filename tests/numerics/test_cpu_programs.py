"""What is changed in compiled programs for CPUs: the same numbers, and where what is added to a product goes."""

import pytest
import torch

from relax_exp.numerics import cpu_programs
from relax_exp.numerics.random_streams import stream


def program(x, w, bias, below):
    hidden = torch.addmm(bias, x, w).relu()
    return hidden, torch.addmm(below, hidden, w.T), torch.addmm(bias, x, w, beta=2)


@pytest.mark.parametrize("often", [False, True])
def test_what_is_added_to_a_product_is_added_apart(monkeypatch, often):
    made, rewrite = [], cpu_programs.add_apart

    def counting(graph):
        before = len(graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default))
        rewrite(graph)
        made.append((before, len(graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default))))

    monkeypatch.setattr(cpu_programs, "add_apart", counting)
    generator = stream(0, "bias")
    inputs = [torch.rand(shape, generator=generator) - 0.5 for shape in ((6, 5), (5, 7), (7,), (6, 5))]
    with torch._inductor.config.patch(fx_graph_cache=False):
        got = cpu_programs.compile(program, often=often)(*inputs)
    for ours, wanted in zip(got, program(*inputs), strict=True):
        torch.testing.assert_close(ours, wanted)
    assert made == [(3, 1)]  # a bias that is scaled stays where it is


def test_where_inductor_fails_it_says_so_and_compiles_anew(monkeypatch, capsys):
    from torch._inductor.codegen.cpp import CppScheduling

    whole = CppScheduling.codegen_node

    def failing(self, node):
        if torch._inductor.config.cpp.max_horizontal_fusion_size:
            raise KeyError("buf300")
        return whole(self, node)

    monkeypatch.setattr(CppScheduling, "codegen_node", failing)
    x = torch.arange(4.0)
    with torch._inductor.config.patch(fx_graph_cache=False):
        program = cpu_programs.compile(lambda x: x.exp() + 1)
        for _ in range(2):
            torch.testing.assert_close(program(x), x.exp() + 1)
    said = capsys.readouterr().err
    assert said.count("compiling anew with fewer loops in one") == 1 and "buf300" in said
