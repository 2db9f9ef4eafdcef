"""Atari's games: in groups, from their state, and what the machine says where there are none."""

import builtins
import os
import threading

import gymnasium
import numpy as np
import pytest

from relax_exp.envs import atari, atari_scores
from relax_exp.errors import RunError


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
    with atari.batch_scheduling():
        thread = threading.Thread(target=lambda: seen.update(policy=os.sched_getscheduler(0)))
        thread.start()
        thread.join()
    assert seen == {"policy": os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


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


def test_without_ale_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "ale_py":
            raise ImportError("No module named 'ale_py'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r"pip install 'gymnasium\[atari\]'"):
        atari.make("ALE/Pong-v5", 1, 1)


def test_every_game_with_known_scores_is_found_by_its_environment():
    names = {atari_scores.game_of(env) for env in gymnasium.registry if env.startswith("ALE/") and env.endswith("-v5")}
    assert set(atari_scores.SCORES) <= names  # among them UpNDown, which is up_n_down


def test_human_normalised_scores():
    assert atari_scores.human_normalised("ALE/Pong-v5", -20.7) == 0
    assert atari_scores.human_normalised("ALE/Breakout-v5", 30.5) == 1
    assert atari_scores.human_normalised("ALE/KingKong-v5", 100.0) is None
