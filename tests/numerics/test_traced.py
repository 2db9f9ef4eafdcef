"""A traced function gives the numbers of the function, and what cannot be traced is called as it is."""

import pytest
import torch
from digits import digits
from torch.utils._pytree import tree_leaves

from relax_exp.numerics.traced import PAYS_FROM, Traced
from relax_exp.runs.build import make_task
from relax_exp.training.replicas import Replicas

TASKS = {
    "relax": ("vae", {"name": "relax", "width": 4, "depth": 1}, {"latents": 3}),
    "dynamic": ("vae", {"name": "rebar"}, {"latents": 3, "binarize": "dynamic"}),
    "categorical": ("categorical_toy", {"name": "arsm"}, {"categories": 3}),
}


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize("name", TASKS)
def test_a_trace_trains_as_the_step_bit_for_bit(name, seeds, monkeypatch):
    task, estimator, options = TASKS[name]
    images = digits(options.get("binarize", "static")) if task == "vae" else None

    def train(traced: bool):
        replicas = Replicas(make_task(task, estimator, images, **options), seeds, [0.01])
        monkeypatch.setattr("relax_exp.training.replicas.PAYS_FROM", 10 if traced else 10**9)
        list(replicas.warm_up(12))
        list(replicas.advance(25))
        assert isinstance(replicas.step, Traced) == traced
        if traced:
            assert replicas.step.program is not replicas.step.call
        return tree_leaves(replicas.saved)

    for ours, theirs in zip(train(True), train(False), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def test_a_few_steps_are_not_traced():
    replicas = Replicas(make_task("toy", {"name": "rebar"}), [0], [0.01])
    list(replicas.advance(PAYS_FROM - 1))
    assert not isinstance(replicas.step, Traced)


@pytest.mark.parametrize("look", [lambda x: x.item(), lambda x: float(x > 0), lambda x: 1.0 if x > 0 else -1.0])
def test_what_looks_at_a_value_is_called_as_it_is(look):
    call = Traced(lambda x: x * look(x))
    assert [float(call(torch.tensor(value))) for value in (2.0, -3.0)] == [
        value * look(torch.tensor(value)) for value in (2.0, -3.0)
    ]


def test_without_torchscript_the_trace_is_called_from_python(monkeypatch):
    def gone(*args, **options):
        raise RuntimeError("torch.jit is no more")

    def double(tree):
        return {"twice": 2 * tree["x"], "same": tree["y"]}

    x = torch.arange(3.0)
    given = {"x": x, "y": x}
    scripted, traced = Traced(double), Traced(double)
    ours = scripted(given)
    monkeypatch.setattr(torch.jit, "trace", gone)
    theirs = traced(given)
    assert scripted.program is not scripted.trace
    assert traced.program is traced.trace
    assert torch.equal(ours["twice"], theirs["twice"])
    later = {"x": x, "y": x + 1}
    assert torch.equal(scripted(later)["same"], traced(later)["same"])
