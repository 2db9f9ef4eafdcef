"""Segments of games that go on: what a trainer makes of them."""

import numpy as np
import pytest
import torch
from atari_task import make, params_of
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.distributions import Categorical
from relax_exp.models.nature_cnn import nature
from relax_exp.numerics.cuda_graph import Graphed
from relax_exp.runs.build import build_trainer
from relax_exp.training.game_segments import Segments, bootstrapped
from relax_exp.training.returns import LAST, Scores


def test_the_compiled_step_is_the_plain_one():
    def trained(compiled):
        task = make("relax", dtype=torch.float32, max_frames=80)
        trainer = Segments(task, [1], [1e-3], "cpu", compiled, backend="aot_eager")
        for _ in trainer.advance(3):
            pass
        return tree_leaves(trainer.state)

    with torch.no_grad():
        for expected, got in zip(trained(False), trained(True), strict=True):
            assert torch.allclose(got, expected, rtol=1e-3, atol=1e-5, equal_nan=True)


def test_returns_by_hand():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    over = torch.tensor([[False, False], [True, False], [False, False]])
    got = bootstrapped(rewards, over, torch.tensor([10.0, 20.0]), 0.5)
    # the first game ends with its second step, so that nothing of what follows counts for the first two
    assert got.tolist() == [[1.0, 0 + 0.5 * (2 + 0.5 * (0 + 0.5 * 20))], [0.0, 2 + 0.5 * 10.0], [3 + 0.5 * 10, 10.0]]


class Scripted:
    """Games in which what happens is written down: rewards and ends by time and slot; ends of "cut" are truncations."""

    def __init__(self, rewards, ends, n_actions):
        self.rewards, self.ends, self.n_actions = np.array(rewards, np.int32), ends, n_actions
        self.slots, self.groups, self.time = 2, [slice(0, 1), slice(1, 2)], [0, 0]
        self.observations = np.zeros((2, 4, 84, 84), np.uint8)
        self.sent = []

    def start(self):
        pass

    def send(self, group, actions):
        self.sent.append((self.time[group], group, actions.tolist()))

    def receive(self, group):
        t = self.time[group]
        self.time[group] += 1
        end = self.ends.get((t, group))
        ended = {group: (float(t), np.full((4, 84, 84), 9, np.uint8))} if end else {}
        self.observations[group] = t + 1
        return self.rewards[t, group : group + 1], np.array([bool(end)]), np.array([end == "cut"]), ended


def test_a_segment_by_hand():
    """The value is 2 whatever is seen, so the target of every step can be worked out; rewards count with their sign."""
    task = make(batch_size=6, gamma=0.5)
    trainer = build_trainer(task, [3], [1e-3], "cpu", False)
    params = tree_map(torch.zeros_like, trainer.state.model.params)
    params["value.bias"] += 2
    trainer.state = trainer.state._replace(model=trainer.state.model._replace(params=params))
    trainer.games = Scripted([[5, 0], [0, -7], [1, 0]], {(0, 0): "end", (1, 1): "cut"}, task.actions)
    batch, noise = trainer._inputs("train", 0)
    expected = [
        [1.0, 0 + 0.5 * (-1 + 0.5 * 2)],  # the first game ends; the second is cut off after the next step, worth 2
        [0 + 0.5 * (1 + 0.5 * 2), -1 + 0.5 * 2],
        [1 + 0.5 * 2, 0 + 0.5 * 2],
    ]
    assert batch["return"].view(3, 2).tolist() == expected
    seen = batch["observation"][0, :, 0, 0, 0].view(3, 2)
    assert seen.tolist() == [[0, 0], [1, 1], [2, 2]]
    u = noise["act"][0]
    actions = Categorical.sample(torch.zeros(3, 2, 1, task.actions, dtype=task.dtype), u).squeeze(2).argmax(-1)
    assert [a for _, _, (a,) in sorted(trainer.games.sent)] == actions.flatten().tolist()
    assert batch["action"].view(3, 2, -1).argmax(-1).tolist() == actions.tolist()
    whole = tree_leaves(nature(params_of(trainer), batch["observation"][0]))
    for got, expected in zip(tree_leaves(batch["seen"]), whole, strict=True):
        assert torch.allclose(got[0], expected)
    assert trainer.records.row() == {"return": 0.5, "return100": 0.5, "episodes": 2}


@pytest.mark.parametrize("name", ["a2c", "relax"])
def test_training_in_a_graph_equals_the_plain_loop(name):
    """Without a GPU a capture is a function that is called again; see tests/numerics/test_cuda_graph.py."""

    def train(graph: bool):
        trainer = build_trainer(make(name), [3], [1e-3], "cpu", False)
        if graph:
            trainer.step = Graphed(trainer.step, lambda call: call)
        list(trainer.advance(3))
        return trainer.state

    for left, right in zip(*map(tree_leaves, (train(True), train(False))), strict=True):
        assert torch.equal(left.nan_to_num(), right.nan_to_num())


def test_records_keep_the_last_hundred():
    records = Scores.empty()
    for score in range(LAST + 5):
        records = records.add(float(score))
    assert records.row() == {"return": 52.0, "return100": 54.5, "episodes": LAST + 5}
    assert Scores.empty().row() == {"return": None, "return100": None, "episodes": 0}


@pytest.mark.parametrize("name", ["a2c", "relax"])
def test_a_trainer_goes_on_bit_for_bit(name):
    def trainer():
        return build_trainer(make(name, dtype=torch.float32, max_frames=48), [1], [1e-3], "cpu", False)

    with torch.no_grad():
        whole = trainer()
        for _ in whole.advance(9):
            pass
        first = trainer()
        for _ in first.advance(4):
            pass
        second = trainer()
        second.saved = tree_map(torch.clone, first.saved)
        for _ in second.advance(5):
            pass
        one, other = (t.evaluate([0], 9, False)[0] for t in (whole, second))
    assert whole.records.episodes > 0
    assert {k: v for k, v in one.items() if "time/" not in k} == {k: v for k, v in other.items() if "time/" not in k}
    for one, other in zip(tree_leaves(whole.saved), tree_leaves(second.saved), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
