"""What a run draws: the order of the data and noise that depend on seed and step alone."""

import pytest
import torch
from test_replicas import make, same, train
from torch.utils._pytree import tree_map

from relax_exp.numerics.random_streams import stream
from relax_exp.training.replicas import CHUNK, Replicas


def test_an_epoch_is_a_permutation():
    task = make("vae", "reinforce", batch_size=60, first_epoch="shuffled")
    size, per_epoch = len(task.data), len(task.data) // 60
    replicas = Replicas(task, [0, 1], [0.1])
    task.data = torch.arange(size)
    assert per_epoch % CHUNK  # epochs and chunks end at different steps
    steps = [replicas._inputs("train", step)[0]["x"] for step in range(3 * per_epoch)]
    epochs = torch.stack(steps, 1).view(2, 3, per_epoch * 60)
    assert per_epoch * 60 < size
    orders = set()
    for seed in range(2):
        for epoch in range(3):
            order = epochs[seed, epoch].tolist()
            assert len(set(order)) == per_epoch * 60
            orders.add(tuple(order))
    assert len(orders) == 6


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_data_order_does_not_depend_on_chunks(chunk):
    replicas = Replicas(make("vae", "reinforce", batch_size=60), [5], [0.1])
    whole = replicas._epoch_rows(5, 0, 100)
    parts = [replicas._epoch_rows(5, start, min(chunk, 100 - start)) for start in range(0, 100, chunk)]
    assert (torch.cat(parts) == whole).all()


@pytest.mark.parametrize("task", ["toy", "vae2"])
def test_noise_depends_on_the_step_alone(task):
    task = make(task, "relax-network")
    together, later = Replicas(task, [1, 0], [0.1, 0.2]), Replicas(task, [0], [0.1])
    expected = {(p, s): together._inputs(p, s) for p in ("train", "warmup") for s in range(2 * CHUNK + 5)}
    for key in ("train", 2 * CHUNK + 4), ("warmup", 3), ("train", 3), ("train", CHUNK):
        same(tree_map(lambda x: x[2:3], expected[key]), later._inputs(*key), 0)
    (_, first), (_, second) = expected["train", 3], expected["train", 3 + CHUNK]
    assert all((first[k] != second[k]).all() and (first[k][0] == first[k][1]).all() for k in first)
    assert all((expected["warmup", 3][1][k] != first[k]).all() for k in first)


def test_noise_of_one_name_does_not_depend_on_others():
    one, both = (Replicas(make("toy", "rebar"), [0], [0.1]) for _ in range(2))
    shapes = one.task.noise_shapes()
    one.task.noise_shapes = lambda: {"v": shapes["u"]}
    both.task.noise_shapes = lambda: {"u": shapes["u"], "v": shapes["u"]}
    assert (one._inputs("train", 30)[1]["v"] == both._inputs("train", 30)[1]["v"]).all()
    assert (both._inputs("train", 30)[1]["u"] != both._inputs("train", 30)[1]["v"]).all()


def test_warm_up_batches_are_contiguous_rows():
    replicas = Replicas(make("vae", "relax-relaxed"), [0], [0.1])
    drawn = replicas._warmup_rows(0, 0, 50)
    assert (drawn.diff(dim=1) == 1).all() and drawn.min() >= 0 and drawn.max() < len(replicas.task.data)
    assert len(drawn[:, 0].unique()) > 40


def test_the_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    a = train(make("vae2", "relax-relaxed"), 3, [0], [0.1])
    assert (torch.random.get_rng_state() == before).all()
    torch.manual_seed(1)
    same(train(make("vae2", "relax-relaxed"), 3, [0], [0.1]).state, a.state, 0)


def test_streams_differ_by_seed_purpose_and_index():
    keys = [(0, "init"), (1, "init"), (0, "data"), (0, "init", 1)]
    draws = {tuple(torch.rand(4, generator=stream(*key)).tolist()) for key in keys}
    assert len(draws) == 4
    assert torch.rand(4, generator=stream(0, "init")).tolist() in map(list, draws)
