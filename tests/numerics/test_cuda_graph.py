"""Steps as CUDA graphs that overwrite their state, and numbers drawn ahead, train as the plain loop does, bit for bit.

Without a GPU a capture is a function that is called again: the same memory is read and written as by a graph.
"""

import threading
import time

import pytest
import torch
from captures import recorded
from digits import digits
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.numerics.cuda_graph import Graphed
from relax_exp.numerics.prefetch import Prefetcher
from relax_exp.runs.build import make_task
from relax_exp.training.replicas import CHUNK, Replicas


def test_the_state_stays_where_it_is_and_inputs_are_copied():
    step = Graphed(lambda state, x: {"sum": state["sum"] + x, "last": state["sum"]}, recorded)
    start = {"sum": torch.ones(2), "last": torch.zeros(2)}
    x = torch.ones(2)
    first = step(start, x)
    assert first["sum"].tolist() == [2, 2] and first["last"].tolist() == [1, 1]  # warming up has left no trace
    assert first["sum"] is start["sum"]
    x.fill_(5)
    second = step(first, x)
    assert second["sum"] is first["sum"] and second["sum"].tolist() == [7, 7] and second["last"].tolist() == [2, 2]
    third = step({"sum": torch.zeros(2), "last": second["last"]}, x)  # another state
    assert third["sum"] is first["sum"] and third["sum"].tolist() == [5, 5] and third["last"].tolist() == [0, 0]


def tasks():
    relax = {"name": "relax", "surrogate": "network", "width": 4, "depth": 1}
    images = digits("static")
    yield "toy", make_task("toy", relax)
    yield "categorical toy", make_task("categorical_toy", {"name": "rebar"}, categories=3)
    for name in ({"name": "rebar"}, relax):
        yield f"vae {name['name']}", make_task("vae", name, images, latents=3, batch_size=100, variance_draws=2)
    layers = {"variables": 2, "categories": 3, "hidden": [8], "batch_size": 100, "variance_draws": 2}
    for name, depth in (({"name": "rebar"}, 2), (relax, 1), ({"name": "st_gumbel"}, 1), ({"name": "arsm"}, 1)):
        yield f"categorical vae {name['name']}", make_task("categorical_vae", name, images, layers=depth, **layers)


TASKS = dict(tasks())


def same(left, right) -> None:
    for a, b in zip(tree_leaves(left), tree_leaves(right), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def train(task, graphs: bool, stretches, warmup: int = 3, saved=None) -> Replicas:
    """Some warm-up, then so many steps at a time, with new means after each, as evaluations do."""
    replicas = Replicas(task, [0, 1], [0.01], capture=recorded if graphs else None)
    if saved is not None:
        replicas.saved = tree_map(torch.clone, saved)
    list(replicas.warm_up(warmup))
    for steps in stretches:
        taken = list(replicas.advance(steps))
        assert taken[-1] == int(replicas.state.t[0])
        replicas.clear_means()
    return replicas


@pytest.mark.parametrize("name", TASKS)
def test_training_equals_the_plain_loop(name):
    """47 steps, in stretches that begin and end within chunks; an epoch of the VAE has 12."""
    plain = train(TASKS[name], False, [7, 33, 7])
    same(train(TASKS[name], True, [7, 33, 7]).saved, plain.saved)
    same(train(TASKS[name], True, [47]).state.model, plain.state.model)


def test_going_on_in_the_middle_of_a_chunk():
    task = TASKS["vae rebar"]
    plain = train(task, False, [31, 29])
    half = train(task, True, [31])
    same(train(task, True, [29], saved=half.saved).saved, plain.saved)
    same(train(task, False, [29], saved=half.saved).saved, plain.saved)  # and from a GPU to a CPU


def test_whole_chunks_are_one_graph():
    replicas = Replicas(TASKS["toy"], [0], [0.01], capture=recorded)
    assert list(replicas.advance(2 * CHUNK + 3)) == [20, 40, 41, 42, 43]
    assert list(replicas.advance(2 * CHUNK)) == [*range(44, 61), 80, 81, 82, 83]


def test_drawing_ahead():
    calls, main = [], threading.get_ident()

    def draw(key):
        calls.append((key, threading.get_ident() == main))
        return {"x": torch.full((2,), float(key))}

    ahead = Prefetcher(draw, torch.device("cpu"))
    for key in (0, 1, 2, 7, 8, 2):
        assert ahead.get(key, key + 1)["x"].tolist() == [key, key]
        kept = ahead.get(key + 1, key + 2)["x"]
        ahead.wait()
        assert kept.tolist() == [key + 1, key + 1]  # the next one lies elsewhere
    assert not any(here for _, here in calls)


def test_what_fails_ahead_is_said():
    def draw(key):
        time.sleep(0.01)
        raise ValueError(f"no {key}")

    with pytest.raises(ValueError, match="no 3"):
        Prefetcher(draw, torch.device("cpu")).get(3, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and RELAX_EXP_TEST_CUDA=1")
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_on_a_gpu(compiled):
    def train(device):
        task = make_task("toy", {"name": "rebar"}, device=device, dtype=torch.float64)
        replicas = Replicas(task, [0, 1], [0.01], device, compiled)
        list(replicas.advance(47))
        return replicas.state.model.params["logit"].cpu()

    torch.testing.assert_close(train("cuda"), train("cpu"), rtol=1e-9, atol=1e-12)
