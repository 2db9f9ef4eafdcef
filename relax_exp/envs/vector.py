"""Environments: gymnasium's, several slots of one side by side, and what to install where one cannot be made."""

from __future__ import annotations

import contextlib
import difflib
import functools
import warnings
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, Error
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from relax_exp.errors import RunError

EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "pygame": "render"}  # what an error speaks of: the extra that has it
KINDS = {
    "discrete": (spaces.Discrete, "task=cartpole or task=atari"),
    "continuous": (spaces.Box, "task=continuous"),
}


@contextlib.contextmanager
def explained(env_id: str) -> Iterator[None]:
    """RunErrors in the place of gymnasium's: for a name that it does not know, or a package that is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")  # CartPole-v0, which the papers use
            yield
    except (DependencyNotInstalled, ImportError) as error:
        spec = gymnasium.registry.get(env_id)
        about = f"{error} {spec.entry_point if spec else ''}".lower()
        extra = next((extra for word, extra in EXTRAS.items() if word in about), None)
        install = f": pip install 'relax-exp[{extra}]'" if extra else ""
        missing = str(error).split(",")[0].rstrip(".")
        raise RunError(f"{env_id} needs a package that is not there ({missing}){install}") from error
    except Error as error:
        near = difflib.get_close_matches(env_id, gymnasium.registry, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; gymnasium.pprint_registry() lists those there are"
        raise RunError(f"there is no environment {env_id}{hint}") from error


class Repeating(gymnasium.Wrapper):
    """Every action taken ``times`` times, or until the episode ends: "frame skip".

    The rewards are summed and the state is the elementwise maximum of the last two, as Atari's pictures are treated
    (Mnih et al. 2015) and as the published code of RELAX's experiments treats the states of CartPole: numbers whose
    maximum means little. One state where the episode ends at the first. A time limit counts the environment's own
    steps.
    """

    def __init__(self, env: gymnasium.Env, times: int):
        super().__init__(env)
        self.times = times

    def step(self, action):
        """See the class."""
        total, states = 0.0, []
        for _ in range(self.times):
            state, reward, terminated, truncated, info = self.env.step(action)
            states, total = [*states[-1:], state], total + float(reward)
            if terminated or truncated:
                break
        return functools.reduce(np.maximum, states), total, terminated, truncated, info


class Resting(SyncVectorEnv):
    """Slots that rest once their episode is over, until the next reset: their reward is 0 then, their state stays."""

    def __init__(self, makers):
        super().__init__(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)

    def reset(self, *, seed: list[int | None], options=None):
        """Begin an episode in the slots that have a seed; the others rest. -> observations ``(S, ...)``, {}."""
        for i, one in enumerate(seed):
            self._terminations[i] = self._truncations[i] = False
            self._autoreset_envs[i] = one is None
            if one is not None:
                self._observations[i], _ = self.envs[i].reset(seed=one, options=options)
        return self._observations, {}

    def step(self, actions):
        """Step the slots that are awake. ``(S,)`` actions -> observations, rewards, terminations, truncations, {}."""
        self._rewards[:] = 0.0
        actions = list(actions) if actions.dtype.kind == "f" else actions.tolist()  # an int is checked fastest
        for i in np.flatnonzero(~self._autoreset_envs):
            observation, reward, terminated, truncated, _ = self.envs[i].step(actions[i])
            self._observations[i], self._rewards[i] = observation, reward
            self._terminations[i], self._truncations[i] = terminated, truncated
        self._autoreset_envs = self._terminations | self._truncations | self._autoreset_envs
        return self._observations, self._rewards, self._terminations, self._truncations, {}

    def restart(self, slots: np.ndarray) -> None:
        """Another episode in the chosen slots, ``(S,)`` bool, from where their random numbers are; others go on."""
        for i in np.flatnonzero(slots):
            self._observations[i], _ = self.envs[i].reset()
        for over in (self._terminations, self._truncations, self._autoreset_envs):
            over[slots] = False

    @property
    def awake(self) -> np.ndarray:
        """Which slots are in an episode, ``(S,)``."""
        return ~self._autoreset_envs


def make(
    env_id: str, slots: int, actions: str = "discrete", resting: bool = False, frame_skip: int = 1, **options
) -> SyncVectorEnv:
    """``slots`` environments stepped together; ``resting``: as `Resting`, without resets of their own.

    ``frame_skip``: how often an action is taken, as `Repeating`. Resting slots of CartPole are computed together, as
    `CartPoles`. ``options`` are those of ``gymnasium.make``. RunError for an unknown name, a missing package, or where
    the actions are not ``discrete`` or ``continuous`` as asked, or the observations not vectors.
    """
    from relax_exp.envs.cartpole_slots import CartPoles

    with explained(env_id):
        maker = functools.partial(gymnasium.make, env_id, disable_env_checker=True, **options)
        with contextlib.closing(maker()) as probe:
            check_spaces(env_id, probe, actions)
            together = resting and CartPoles.fits(probe) and probe.render_mode is None
        if together:
            return CartPoles([maker] * slots, frame_skip)
        maker = maker if frame_skip == 1 else functools.partial(_repeating, maker, frame_skip)
        return Resting([maker] * slots) if resting else SyncVectorEnv([maker] * slots)


def _repeating(maker: Callable[[], gymnasium.Env], times: int) -> Repeating:
    """A new environment in `Repeating`."""
    return Repeating(maker(), times)


def check_spaces(env_id: str, env: gymnasium.Env, actions: str) -> None:
    """Whether actions and observations are of the kind asked for. RunError that names the task to use instead."""
    wanted, _ = KINDS[actions]
    if not isinstance(env.action_space, wanted):
        found = next((kind for kind, (space, _) in KINDS.items() if isinstance(env.action_space, space)), None)
        use = f": use {KINDS[found][1]}" if found else ""
        raise RunError(f"{env_id} has {found or 'neither discrete nor continuous'} actions, not {actions} ones{use}")
    if getattr(env.action_space, "start", 0):
        raise RunError(f"the actions of {env_id} are counted from {env.action_space.start}, and from 0 is needed")
    seen = env.observation_space
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        kind = f"shape {seen.shape}" if isinstance(seen, spaces.Box) else f"kind {type(seen).__name__}"
        raise RunError(f"{env_id} has observations of {kind}, and vectors of numbers are needed")
