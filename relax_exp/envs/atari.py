"""Atari games: many copies of one side by side, whose state is what was done in them.

ALE's vector environment cannot save its state. But what a game shows is determined by the last seed that it was given
and by the actions since then: so to go on from a checkpoint, the games are played again from there.
"""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from relax_exp.envs import environments
from relax_exp.errors import RunError, SettingError

if TYPE_CHECKING:
    from ale_py.vector_env import AtariVectorEnv

ENTRY = "ale_py.vector_env:AtariVectorEnv"
OPTIONS = {  # of every game, those that have no key: said here, since their defaults are not the same everywhere
    "full_action_space": False,
    "grayscale": True,
    "stack_num": 4,
    "img_height": 84,
    "img_width": 84,
    "maxpool": True,
    "episodic_life": False,
    "life_loss_info": False,
    "reward_clipping": False,  # the trainer clips, so that scores stay what they are
    "autoreset_mode": "NextStep",
}


def make(env_id: str, slots: int, threads: int, **options) -> AtariVectorEnv:
    """Make ALE's vector environment.

    Raises:
        RunError: There is no such game, or it is not one of Atari's.
    """
    with environments.explained(env_id):
        try:
            import ale_py
            from ale_py.vector_env import AtariVectorEnv
        except ImportError as error:
            raise SettingError(f"{env_id} needs ale-py, which is not there: pip install 'gymnasium[atari]'") from error
        gymnasium.register_envs(ale_py)
        if gymnasium.spec(env_id).vector_entry_point != ENTRY:
            raise SettingError(f"{env_id} is not an Atari game in its current version: use ALE/NAME-v5, as ALE/Pong-v5")
        options = {**OPTIONS, **options, "num_threads": min(threads, slots)}
        games = gymnasium.make_vec(env_id, slots, vectorization_mode="vector_entry_point", **options)
        assert isinstance(games, AtariVectorEnv)  # that is what `ENTRY` makes
        return games


@contextlib.contextmanager
def batch_scheduling() -> Iterator[None]:
    """Start threads under SCHED_BATCH, where the system is Linux, so that a game that wakes interrupts no other thread.

    All games wait for the thread that gives them their actions, so it should not wait for them.
    """
    changed = False
    with contextlib.suppress(OSError, AttributeError):  # a container may forbid it, another system not know it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            changed = True
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


SEED_EVERY = 10_000  # steps: a reset with a seed loads the ROM anew, which takes as long as 300 steps


class Games:
    """Many copies of a game, ``slots`` of ``env_id``, seeded with ``seed(slot, episode)``.

    A slot is seeded with its first episode, and with the next one after every ``seed_every`` steps: so often, since all
    steps after that have to be played again to go on from a checkpoint.

    They are stepped in ``groups`` (slices of the slots): while the games of one group run, in threads of their own, the
    caller may work on the others. A finished episode is followed by the reset of its slot at once, so that no step is
    spent on resetting, as the environment itself would. ``observations`` are the current ones, uint8 ``(slots, 4, 84,
    84)``.
    """

    def __init__(
        self,
        env_id: str,
        slots: int,
        seed: Callable[[int, int], int],
        frame_skip: int = 4,
        sticky: float = 0.25,
        noop_max: int = 30,
        fire_reset: bool = True,
        max_frames: int = 108_000,
        life_loss_ends: bool = False,
        threads: int = 1,
        groups: int = 4,
        seed_every: int = SEED_EVERY,
    ):
        bounds = np.linspace(0, slots, min(groups, slots) + 1).astype(int).tolist()
        self.groups = [slice(*pair) for pair in pairwise(bounds)]
        options = {
            "frameskip": frame_skip,
            "repeat_action_probability": sticky,
            "noop_max": noop_max,
            "use_fire_reset": fire_reset,
            "max_num_frames_per_episode": max_frames,
        }
        with batch_scheduling():
            self.envs = [make(env_id, group.stop - group.start, threads, **options) for group in self.groups]
        self.slots, self.seed, self.seed_every, self.life_loss_ends = slots, seed, seed_every, life_loss_ends
        actions, pictures = self.envs[0].single_action_space, self.envs[0].single_observation_space
        assert isinstance(actions, Discrete) and isinstance(pictures, Box)
        self.n_actions = int(actions.n)
        self.observations = np.zeros((slots, *pictures.shape), np.uint8)
        self.episode, self.seeded, self.steps = (np.zeros(slots, np.int64) for _ in range(3))
        self.actions = np.zeros((slots, seed_every + math.ceil(max_frames / frame_skip)), np.uint8)
        self.score, self.lives = np.zeros(slots), np.zeros(slots, np.int64)

    def _reset(self, group: int, which: np.ndarray, anew: np.ndarray) -> None:
        """Begin the next episode of the slots of a group that ``which`` names, with their seeds for those ``anew``.

        Both are ``(slots of the group,)``; the seeds are those of the episodes in ``self.seeded``.
        """
        first = self.groups[group].start
        chosen = np.flatnonzero(which)
        seeds = [self.seed(first + i, int(self.seeded[first + i])) if anew[i] else -1 for i in chosen]
        options = None if which.all() else {"reset_mask": which}
        where = self.groups[group]
        self.observations[where], shown = self.envs[group].reset(seed=np.array(seeds), options=options)
        self.lives[where] = shown["lives"]

    def start(self) -> None:
        """Begin the first episode of every slot."""
        for group, where in enumerate(self.groups):
            every = np.ones(where.stop - where.start, bool)
            self._reset(group, every, every)

    def send(self, group: int, actions: np.ndarray) -> None:
        """Let the games of a group go on by one step with these actions."""
        where = self.groups[group]
        for slot, action in zip(range(where.start, where.stop), actions.tolist(), strict=True):
            self.actions[slot, self.steps[slot]] = action
        self.envs[group].send(actions)

    def receive(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, tuple[float, np.ndarray]]]:
        """Wait for what the actions of a group led to.

        Returns:
            Rewards, whether the episode is over, whether only for its length, each ``(slots of the group,)``; and by
            slot the score and the final observation of the episodes that are over, whose slots are in the next episode
            now. With ``life_loss_ends`` a life that is lost counts as over too, for what is learned from the rewards;
            the game goes on.
        """
        where = self.groups[group]
        observations, rewards, terminated, truncated, shown = self.envs[group].recv()
        lost = self.life_loss_ends & (shown["lives"] < self.lives[where])
        self.lives[where] = shown["lives"]
        self.observations[where] = observations
        self.score[where] += rewards
        self.steps[where] += 1
        over, ended = terminated | truncated, {}
        if over.any():
            for i in np.flatnonzero(over):
                ended[where.start + int(i)] = float(self.score[where][i]), observations[i].copy()
            anew = over & (self.steps[where] >= self.seed_every)
            self.episode[where] += over
            self.score[where][over] = 0
            self.seeded[where][anew], self.steps[where][anew] = self.episode[where][anew], 0
            self._reset(group, over, anew)
        return rewards, over | lost, truncated & ~terminated, ended

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Return what determines the games, by slot.

        It is the numbers of the episodes that a slot is in and that it was seeded with, the steps and actions since
        then, the score so far; and a checksum of what it shows.
        """
        determining = {k: getattr(self, k) for k in ("episode", "seeded", "steps", "actions", "score")}
        return {**determining, "shown": self.shown}

    @property
    def shown(self) -> np.ndarray:
        """Return checksums of the observations, ``(slots,)``."""
        return np.array([zlib.crc32(picture) for picture in self.observations])

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Play what ``state`` says again, so that all slots arrive at the same time.

        Raises:
            RunError: The games show something else than they did.
        """
        for key in state.keys() - {"shown"}:
            getattr(self, key)[:] = state[key]
        episode, score = self.seeded.copy(), np.zeros(self.slots)
        for env in self.envs:
            env.reset(seed=0)
        for left in range(int(self.steps.max()), -1, -1):
            begins, plays = self.steps == left, self.steps >= left
            for group, where in enumerate(self.groups):
                if begins[where].any():
                    self._reset(group, begins[where], begins[where])
            if not left:
                break
            actions = np.where(plays, self.actions[np.arange(self.slots), np.maximum(self.steps - left, 0)], 0)
            for group, where in enumerate(self.groups):
                self.envs[group].send(actions[where].astype(np.int64))
            for group, where in enumerate(self.groups):
                self.observations[where], rewards, terminated, truncated, shown = self.envs[group].recv()
                self.lives[where] = shown["lives"]
                score[where] += np.where(plays[where], rewards, 0)
                over = (terminated | truncated) & plays[where]
                if over.any():
                    episode[where] += over
                    score[where][over] = 0
                    self._reset(group, over, np.zeros_like(over))
        played, wanted = (score, episode, self.shown), (self.score, self.episode, state["shown"])
        if not all(np.array_equal(*pair) for pair in zip(played, wanted, strict=True)):
            raise RunError("the games do not repeat themselves (another version of ale-py?): delete the folder")

    def close(self) -> None:
        """Let the games go, and with them their threads."""
        for env in self.envs:
            env.close()
        self.envs.clear()
