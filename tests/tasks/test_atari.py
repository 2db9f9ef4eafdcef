"""Atari: the gradient of A2C by plain autograd, RELAX by enumeration, segments worked by hand, games played again."""

import builtins
import json
import math
import os
import threading

import numpy as np
import pytest
import torch
from processes import Command, kill, save_always
from running import check_complete, check_tensorboard, execute, meta
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp import estimators
from relax_exp.distributions import Categorical
from relax_exp.enumeration.checks import compare, perturbed, threshold
from relax_exp.envs import atari, atari_scores
from relax_exp.errors import ConfigError, RunError
from relax_exp.models.nature_cnn import _backward, as_applied, init_nature, nature, packed, pull_back
from relax_exp.numerics import onednn as products
from relax_exp.numerics.cuda_graph import Graphed
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import build_trainer, make_task
from relax_exp.tasks.atari import Atari
from relax_exp.training.game_segments import Segments, bootstrapped
from relax_exp.training.returns import LAST, Scores

RELAX = {"name": "relax", "surrogate": "network", "depth": 1, "width": 8, "noise": "independent"}
SHORT = "task=atari device=cpu task.max_frames=160 task.evaluate_episodes=2 task.variance_draws=3 task.envs=4 "


def make(name="a2c", **options) -> Atari:
    options = {
        "envs": 2,
        "batch_size": 4,
        "dtype": torch.float64,
        "evaluate_episodes": 2,
        "variance_draws": 3,
        **options,
    }
    return make_task("atari", RELAX if name == "relax" else {"name": name}, **options)


def batch_for(task: Atari, params, seed=0) -> dict:
    """Rows of noise for pictures, with random actions and returns."""
    generator = stream(seed, "test")
    rows, size = task.batch_size, (task.batch_size, 4, 84, 84)
    observations = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    action = torch.randint(0, task.actions, (rows, 1), generator=generator)
    return {
        "observation": observations,
        "seen": nature(params, observations),
        "action": torch.nn.functional.one_hot(action, task.actions).to(task.dtype),
        "return": torch.randn(rows, generator=generator, dtype=task.dtype),
    }


def noise_for(task: Atari, seed=0) -> dict:
    generator = stream(seed, "noise")
    return {k: torch.rand(s, generator=generator, dtype=task.dtype) for k, s in task.noise_shapes().items()}


def test_the_activations_of_the_rollout_serve_the_backward_pass():
    params = {k: v.double().requires_grad_() for k, v in init_nature(3, stream(0, "init")).items()}
    observations = torch.randint(0, 256, (3, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    at_logits, at_values = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    seen = nature(params, observations)
    total = (seen.logits * at_logits).sum() + (seen.values * at_values).sum()
    plain = torch.autograd.grad(total, list(params.values()))
    ours = pull_back(params, seen, at_logits, at_values)
    assert list(ours) == list(params)
    for expected, got in zip(plain, ours.values(), strict=True):
        assert torch.allclose(got, expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())


onednn = pytest.mark.skipif(
    not all(hasattr(torch.ops.mkldnn, name) for name in products.OPERATORS), reason="needs a PyTorch with oneDNN"
)


@onednn
def test_packed_weights_and_a_second_thread_change_nothing(monkeypatch):
    monkeypatch.setattr(products, "useful", lambda: True)
    params = init_nature(3, stream(0, "init"))
    observations = torch.randint(0, 256, (5, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    at_logits, at_values = torch.randn(5, 3), torch.randn(5)
    with torch.no_grad():
        plain, seen = nature(params, observations), nature(params, observations, packed(params, 2))
        for expected, got in zip(tree_leaves(plain), tree_leaves(seen), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        ours = []
        for threads in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            ours.append(pull_back(params, plain, at_logits, at_values))
    for name, expected in ours[1].items():
        got = ours[0][name]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert got.stride() == expected.stride()


def may_change_policy() -> bool:
    try:
        before = os.sched_getscheduler(0)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.sched_setscheduler(0, before, os.sched_param(0))
        return before == os.SCHED_OTHER
    except (AttributeError, OSError):
        return False


@pytest.mark.skipif(not may_change_policy(), reason="the system's scheduler cannot be told")
def test_games_do_not_interrupt_who_they_wait_for():
    seen = {}
    with atari.behind():
        thread = threading.Thread(target=lambda: seen.update(policy=os.sched_getscheduler(0)))
        thread.start()
        thread.join()
    assert seen == {"policy": os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def operands(dtype=torch.float64) -> tuple:
    """Of the backward pass below the features, for three rows."""
    params = {k: v.to(dtype) for k, v in init_nature(3, stream(0, "init")).items()}
    observations = torch.randint(0, 256, (3, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    seen = nature(params, observations)
    return torch.randn(3, 512, dtype=dtype), seen.features, list(seen.layers), as_applied(params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_of_the_backward_pass_is_well_described(dtype):
    with torch.no_grad():
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(torch.ops.relax_exp.nature_backward.default, operands(dtype), test_utils=checks)


def test_the_backward_pass_can_be_traced_for_a_gpu():
    """There it is part of the compiled step."""
    with torch.no_grad():
        inputs = operands()
        traced = torch.compile(_backward, fullgraph=True, backend="aot_eager")(*inputs)
        for expected, got in zip(_backward(*inputs), traced, strict=True):
            assert torch.allclose(got, expected)


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


def test_the_network_sees_pixels_of_at_most_one():
    """Against the module that everyone writes."""
    params = init_nature(3, stream(0, "init"))
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(4, 32, 8, 4), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 4, 2), torch.nn.ReLU()),
        *(torch.nn.Conv2d(64, 64, 3, 1), torch.nn.ReLU()),
    )
    for layer, i in ((0, 0), (2, 1), (4, 2)):
        net[layer].load_state_dict({k: params[f"filters.{i}.{k}"] for k in ("weight", "bias")})
    observations = torch.randint(0, 256, (2, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    with torch.no_grad():
        filtered = net(observations / 255)
    seen = nature(params, observations)
    assert torch.allclose(seen.layers[-1], filtered, atol=1e-5)
    hidden = filtered.permute(0, 2, 3, 1).flatten(1) @ params["hidden.weight"].T
    assert torch.allclose(seen.features, hidden.relu(), atol=1e-4)


@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_the_gradient_of_a2c_is_that_of_its_loss(clip):
    task = make(entropy=0.03, value_coef=0.7, clip=clip)
    model = task.init(stream(0, "init"))
    batch = batch_for(task, model.params)
    got = task.gradients(model, batch, noise_for(task))
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    seen = nature(params, batch["observation"])
    policy = torch.distributions.Categorical(logits=seen.logits)
    log_p = policy.log_prob(batch["action"].squeeze(1).argmax(-1))
    advantage = (batch["return"] - seen.values).detach()
    value_loss = (batch["return"] - seen.values).square().mean()
    loss = -(advantage * log_p).mean() - 0.03 * policy.entropy().mean() + 0.7 * value_loss
    loss.backward()
    size = torch.nn.utils.clip_grad_norm_(params.values(), clip)
    assert float(got.metrics["grad/norm"]) == pytest.approx(float(size))
    assert float(got.loss) == pytest.approx(loss.item())
    for name, leaf in params.items():
        assert torch.allclose(got.params[name], leaf.grad, rtol=1e-5, atol=1e-9), name


def test_relax_begins_as_a2c():
    a2c, relax = make(), make("relax")
    model = relax.init(stream(0, "init"))
    assert any(leaf.abs().sum() > 0 for leaf in model.tuning.values())
    batch, noise = batch_for(relax, model.params), noise_for(relax)
    one, other = relax.gradients(model, batch, noise), a2c.gradients(model._replace(tuning={}), batch, noise)
    for name in one.params:
        assert torch.allclose(one.params[name], other.params[name], rtol=1e-9)
    assert one.tuning["of.network.out.weight"].abs().sum() > 0  # and learns to be something else


def test_relax_is_unbiased_at_fixed_states():
    """Actions drawn from the policy, each with a return of its own: the gradient at the logits, by enumeration."""
    task = make("relax", batch_size=2)
    drawn = task._build(stream(0, "init"))
    tuning = perturbed(drawn.of, stream(0, "tuning"))
    model = task.init(stream(0, "init"))._replace(tuning={f"of.{k}": v for k, v in tuning.items()})
    generator = stream(0, "problem")
    logits = torch.randn(2, 1, task.actions, generator=generator, dtype=task.dtype)
    returns, values = torch.randn(2, task.actions, generator=generator, dtype=task.dtype), torch.tensor([0.4, -1.0])
    features = torch.rand(2, 512, generator=generator, dtype=task.dtype)
    p = logits.squeeze(1).softmax(-1)
    loss = values.unsqueeze(1) - returns
    exact = p * (loss - (p * loss).sum(-1, keepdim=True))

    def one(noise):
        action = Categorical.sample(logits, noise["act"])
        f_b = (action.squeeze(1) * loss).sum(-1)
        out = task._estimate(model, model.tuning, logits, action, f_b, noise, features)
        return out.grad.flatten()

    shapes = {"act": (2, 1, task.actions), **drawn.of.noise_shapes(2)}
    verdict = compare(one, shapes, exact.flatten(), 200_000, stream(0, "draws"), 20_000, rows=2)
    assert max(verdict.largest_z, verdict.row_z) < threshold(verdict.tests), verdict
    assert verdict.variance > 1e-3


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


def params_of(trainer):
    return {k: v[0] for k, v in trainer.state.model.params.items()}


def test_records_keep_the_last_hundred():
    records = Scores.empty()
    for score in range(LAST + 5):
        records = records.add(float(score))
    assert records.row() == {"return": 52.0, "return100": 54.5, "episodes": LAST + 5}
    assert Scores.empty().row() == {"return": None, "return100": None, "episodes": 0}


def steps(games: atari.Games, actions: np.ndarray) -> list:
    """What the games show and pay for these actions ``(T, slots)``."""
    shown = []
    for row in actions:
        for group, where in enumerate(games.groups):
            games.send(group, row[where])
        got = [games.receive(group) for group in range(len(games.groups))]
        ended = sorted((slot, score) for *_, ended in got for slot, (score, _) in ended.items())
        shown.append((games.observations.copy(), np.concatenate([g[0] for g in got]), ended))
    return shown


@pytest.mark.parametrize("groups", [1, 2])
def test_games_go_on_from_their_state(groups):
    """Breakout, with sticky actions and lives that are lost; slots are seeded after two episodes or three."""
    seeds = []

    def seed(slot, k):
        seeds.append((slot, k))
        return 100 * slot + k

    options = {"frame_skip": 8, "noop_max": 5, "seed_every": 150, "groups": groups}
    first = atari.Games("ALE/Breakout-v5", 3, seed, **options)
    first.start()
    started = first.shown
    chosen = np.random.default_rng(0).integers(0, first.n_actions, (640, 3))
    before = steps(first, chosen[:600])
    assert sum(len(ended) for *_, ended in before) >= 9
    assert (first.episode > first.seeded).any() and (first.seeded > 0).all() and len(set(first.steps)) == 3
    state, seeds[:] = {k: v.copy() for k, v in first.state.items()}, []
    second = atari.Games("ALE/Breakout-v5", 3, seed, **options)
    second.restore(state)
    assert sorted(seeds) == list(enumerate(first.seeded))
    assert np.array_equal(first.observations, second.observations)
    for one, other in zip(steps(first, chosen[600:]), steps(second, chosen[600:]), strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]) and one[2] == other[2]
    begun = atari.Games("ALE/Breakout-v5", 3, seed, **options)
    begun.restore({**{k: 0 * v for k, v in state.items()}, "shown": started})
    for one, other in zip(before, steps(begun, chosen[:20]), strict=False):
        assert np.array_equal(one[0], other[0])
    begun.close()
    for wrong in ("score", "episode", "shown"):
        with pytest.raises(RunError, match="do not repeat themselves"):
            second.restore({**state, wrong: state[wrong] + 1})
    first.close()
    second.close()


def test_a_life_that_is_lost_ends_what_is_learned_from_and_not_the_game():
    games, plain = (
        atari.Games("ALE/Breakout-v5", 2, lambda slot, k: slot, sticky=0.0, groups=1, life_loss_ends=ends)
        for ends in (True, False)
    )
    lost, over = np.zeros(2, int), np.zeros(2, int)
    for each in (games, plain):
        each.start()
    while not over.all():
        for each in (games, plain):
            each.send(0, np.ones(2, np.int64))
        (*_, ends, _, ended), (*_, really, _, _) = games.receive(0), plain.receive(0)
        assert np.array_equal(games.shown, plain.shown) and set(np.flatnonzero(really)) == set(ended)
        lost += ends & (over == 0)
        over += really
    assert (lost == 5).all(), "Breakout has five lives"
    games.close()
    plain.close()


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


def test_the_variance_is_that_of_rows_drawn_again():
    """The variance of the mean of N rows drawn with replacement is their variance over N, in every parameter."""
    task = make(variance_draws=80, dtype=torch.float32)
    model = task.init(stream(0, "init"))
    batch = batch_for(task, model.params)
    seen = batch["seen"]
    advantage = batch["return"] - seen.values
    at_logits = -advantage.unsqueeze(-1) * (batch["action"].squeeze(1) - seen.logits.softmax(-1))
    rows = []
    for i in range(task.batch_size):
        only = at_logits * (torch.arange(task.batch_size) == i).unsqueeze(1)
        grads = pull_back(model.params, seen, only, torch.zeros_like(seen.values))
        rows.append(torch.cat([v.flatten() for k, v in grads.items() if not k.startswith("value.")]))
    exact = torch.stack(rows).var(0, correction=0) / task.batch_size
    got = task.segment_variance(model, batch, 0, 1)
    assert got["grad/log_variance"] == pytest.approx(exact.mean().log().item(), abs=0.5)
    again = task.segment_variance(model, batch, 0, 1)
    assert got == again != task.segment_variance(model, batch, 0, 2)


def test_a_run_on_pong(tmp_path):
    """Two updates: its numbers, its film, its table; and the same command again."""
    line = SHORT + f"estimator=relax batch_size=8 steps=2 eval_every=1 compile=false out={tmp_path / 'run'}"
    assert execute(line) == 0
    rows = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["agent_steps"] for row in rows] == [8, 16]
    assert rows[-1]["frames"] == 64
    for key in ("value_loss", "policy_loss", "entropy", "eval/return", "grad/log_variance", "time/frames_per_second"):
        assert math.isfinite(rows[-1][key]), key
    assert rows[-1]["entropy"] <= math.log(6) + 1e-6
    score = rows[-1]["eval/return"]
    assert rows[-1]["eval/human_normalised"] == pytest.approx((score + 20.7) / (14.6 + 20.7))
    assert (tmp_path / "run" / "episode_seed-0_lr-0.0007.gif").read_bytes().startswith(b"GIF89a")
    assert "human-normalised score" in (tmp_path / "run" / "table.md").read_text()
    assert "played again" in meta(tmp_path / "run")["environment_state"]
    check_tensorboard(tmp_path / "run")
    assert execute(line) == 0


@pytest.mark.slow
def test_killed_and_continued(tmp_path):
    """The command, stopped in the middle, against the command left alone."""
    line = SHORT + "estimator=a2c batch_size=8 steps=8 eval_every=4 compile=false out=run"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert Command(line, tmp_path / "one").wait()[0] == 0
    Command(line, tmp_path / "two", save_always, kill("step", 6)).wait()
    assert Command(line, tmp_path / "two").wait()[0] == 0
    check_complete(tmp_path / "two" / "run", tmp_path / "one" / "run")


@pytest.mark.parametrize(
    "env, text",
    [
        ("ALE/Pnog-v5", "there is no environment ALE/Pnog-v5; did you mean ALE/Pong-v5"),
        ("CartPole-v1", "not an Atari game in its current version: use ALE/NAME-v5"),
        ("PongNoFrameskip-v4", "use ALE/NAME-v5"),
    ],
)
def test_games_that_there_are_not(env, text):
    with pytest.raises(RunError, match=text):
        make(env=env)


def test_without_ale_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "ale_py":
            raise ImportError("No module named 'ale_py'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r"pip install 'gymnasium\[atari\]'"):
        atari.make("ALE/Pong-v5", 1, 1)


@pytest.mark.parametrize(
    "typed, text",
    [
        ("'seeds=[0,1]'", "one replica a run: for several runs type -m seed=0,1,2"),
        ("'lrs=[1e-3,1e-4]'", "one replica a run"),
        ("batch_size=81", "batch_size=81 agent steps in task.envs=16 games: must be a multiple, as 80"),
        ("'track=[relax]'", "leave track out"),
        ("task.sticky=1", "task.sticky"),
    ],
)
def test_configurations_that_cannot_be(typed, text):
    with pytest.raises(ConfigError, match=text):
        execute(f"task=atari estimator=a2c {typed}")


def test_estimators_that_need_more_than_a_sample_are_refused():
    with pytest.raises(ConfigError, match="rebar is not for task=atari: use one of a2c, relax"):
        execute("task=atari estimator=rebar")
    assert {"a2c", "relax"} <= set(estimators.names("categorical"))


def test_human_normalised_scores():
    assert atari_scores.human_normalised("ALE/Pong-v5", -20.7) == 0
    assert atari_scores.human_normalised("ALE/Breakout-v5", 30.5) == 1
    assert atari_scores.human_normalised("ALE/KingKong-v5", 100.0) is None
