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

from relax_exp.envs.cartpole_slots import CartPoles
from relax_exp.envs.slots import Slots
from relax_exp.errors import SettingError

EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "pygame": "render"}  # what an error speaks of: the extra that has it
KINDS = {
    "discrete": (spaces.Discrete, "task=cartpole or task=atari"),
    "continuous": (spaces.Box, "task=continuous"),
}


@contextlib.contextmanager
def explained(env_id: str) -> Iterator[None]:
    """Raise RunErrors in the place of gymnasium's, for an unknown name or a package that is not installed."""
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
        raise SettingError(f"{env_id} needs a package that is not there ({missing}){install}") from error
    except Error as error:
        near = difflib.get_close_matches(env_id, gymnasium.registry, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; gymnasium.pprint_registry() lists those there are"
        raise SettingError(f"there is no environment {env_id}{hint}") from error


class Repeating(gymnasium.Wrapper):
    """A wrapper that takes every action ``times`` times, or until the episode ends: "frame skip".

    The rewards are summed and the state is the elementwise maximum of the last two, as Atari's pictures are treated
    (Mnih et al. 2015) and as the published code of RELAX's experiments treats the states of CartPole: numbers whose
    maximum means little. One state where the episode ends at the first. A time limit counts the environment's own
    steps.
    """

    def __init__(self, env: gymnasium.Env, times: int):
        super().__init__(env)
        self.times = times

    def step(self, action):
        """Take the action ``times`` times, and return the maximum of the last two states and the sum of the rewards."""
        total, states = 0.0, []
        for _ in range(self.times):
            state, reward, terminated, truncated, info = self.env.step(action)
            states, total = [*states[-1:], state], total + float(reward)
            if terminated or truncated:
                break
        return functools.reduce(np.maximum, states), total, terminated, truncated, info


def make(env_id: str, slots: int, actions: str = "discrete", frame_skip: int = 1, **options) -> Slots:
    """Make ``slots`` environments that are stepped together and rest after an episode.

    Those of CartPole are computed together, as `CartPoles`.

    Args:
        env_id: The name that gymnasium knows.
        slots: How many.
        actions: "discrete" or "continuous", what the task needs.
        frame_skip: How often an action is taken, as `Repeating`.
        options: Those of ``gymnasium.make``.

    Raises:
        RunError: The name is unknown, a package is missing, the actions are not of that kind, or the observations are
            not vectors.
    """
    with explained(env_id):
        maker = functools.partial(gymnasium.make, env_id, disable_env_checker=True, **options)
        with contextlib.closing(maker()) as probe:
            check_spaces(env_id, probe, actions)
            together = CartPoles.fits(probe) and probe.render_mode is None
        if together:
            return CartPoles([maker] * slots, frame_skip)
        maker = maker if frame_skip == 1 else functools.partial(_repeating, maker, frame_skip)
        return Slots([maker] * slots)


def _repeating(maker: Callable[[], gymnasium.Env], times: int) -> Repeating:
    """Make an environment in `Repeating`."""
    return Repeating(maker(), times)


def check_spaces(env_id: str, env: gymnasium.Env, actions: str) -> None:
    """Check whether actions and observations are of the kind asked for.

    Raises:
        RunError: They are not. The message names the task to use instead.
    """
    wanted, _ = KINDS[actions]
    if not isinstance(env.action_space, wanted):
        found = next((kind for kind, (space, _) in KINDS.items() if isinstance(env.action_space, space)), None)
        use = f": use {KINDS[found][1]}" if found else ""
        raise SettingError(
            f"{env_id} has {found or 'neither discrete nor continuous'} actions, not {actions} ones{use}"
        )
    if isinstance(env.action_space, spaces.Discrete) and env.action_space.start:
        raise SettingError(f"the actions of {env_id} are counted from {env.action_space.start}, and from 0 is needed")
    seen = env.observation_space
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        kind = f"shape {seen.shape}" if isinstance(seen, spaces.Box) else f"kind {type(seen).__name__}"
        raise SettingError(f"{env_id} has observations of {kind}, and vectors of numbers are needed")
