"""The step in one CUDA graph, which to the trainer must stay a pure function; the capture itself needs a GPU."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from relax_exp.numerics.cuda_graph import Graphed
from relax_exp.tasks.toy import Toy
from relax_exp.training.replicas import Replicas


def recorded(call):
    """What a capture does, without a GPU: outputs in fixed memory, and a replay that overwrites them."""
    outputs = call()

    def replay():
        torch._foreach_copy_(tree_leaves(outputs), [leaf.clone() for leaf in tree_leaves(call())])

    return outputs, replay


def test_outputs_are_the_callers_own():
    step = Graphed(lambda x, y: {"sum": x + y["a"], "x": x * 2}, recorded)
    first = step(torch.ones(2), {"a": torch.ones(2)})
    second = step(first["sum"], {"a": first["x"]})
    assert first["sum"].tolist() == [2, 2] and first["x"].tolist() == [2, 2]
    assert second["sum"].tolist() == [4, 4] and second["x"].tolist() == [4, 4]


def test_training_is_unchanged():
    def train(graphed):
        replicas = Replicas(Toy({"name": "relax", "surrogate": "network", "width": 4, "depth": 1}), [0, 1], [0.01])
        if graphed:
            replicas.step = Graphed(replicas.step, recorded)
        list(replicas.warm_up(3))
        list(replicas.advance(20))
        return replicas.state

    for left, right in zip(tree_leaves(train(True)), tree_leaves(train(False)), strict=True):
        assert torch.equal(left, right) or left.isnan().equal(right.isnan())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_on_a_gpu(compiled):
    def train(device):
        task = Toy({"name": "rebar"}, device=device, dtype=torch.float64)
        replicas = Replicas(task, [0, 1], [0.01], device, compiled)
        list(replicas.advance(20))
        return replicas.state.model.params["logit"].cpu()

    torch.testing.assert_close(train("cuda"), train("cpu"), rtol=1e-9, atol=1e-12)
