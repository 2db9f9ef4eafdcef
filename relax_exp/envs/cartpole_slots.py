"""CartPole in all slots at once: gymnasium's arithmetic on arrays, to the last bit, in a fraction of the time."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from relax_exp.envs.vector import Resting


class CartPoles(Resting):
    """`Resting` for environments that `fits`: the states of single ones, bit by bit, with actions repeated or not.

    The environments draw the first state of each episode and know the constants; all later states are computed here, in
    double precision as theirs, for all slots together. ``frame_skip`` is as in `Repeating`.
    """

    def __init__(self, makers, frame_skip: int = 1):
        super().__init__(makers)
        self.frame_skip, self.limit, self.model = frame_skip, self.envs[0]._max_episode_steps, self.envs[0].unwrapped
        self.state, self.taken = np.zeros((4, self.num_envs)), np.zeros(self.num_envs, np.int64)

    @staticmethod
    def fits(env: gymnasium.Env) -> bool:
        """Tell whether the environment is gymnasium's CartPole, unchanged, with a time limit and no other wrapper."""
        if type(env) is not TimeLimit or type(env.env) is not OrderEnforcing or type(env.unwrapped) is not CartPoleEnv:
            return False
        model = env.unwrapped
        return env.env.env is model and not model._sutton_barto_reward and model.kinematics_integrator == "euler"

    def reset(self, *, seed: list[int | None], options=None):
        found = super().reset(seed=seed, options=options)
        self._take_up(np.array([one is not None for one in seed]))
        return found

    def restart(self, slots: np.ndarray) -> None:
        super().restart(slots)
        self._take_up(slots)

    def _take_up(self, slots: np.ndarray) -> None:
        """Copy the states that the chosen environments were just reset to."""
        for i in np.flatnonzero(slots):
            self.state[:, i], self.taken[i] = self.envs[i].unwrapped.state, 0

    def step(self, actions):
        going, last = ~self._autoreset_envs, None
        self._rewards[:] = 0.0
        for _ in range(self.frame_skip):
            after = self._moved(actions)
            seen = after.T.astype(np.float32)
            shown = seen if last is None else np.maximum(last, seen)
            np.copyto(self._observations, shown, where=going[:, None])
            np.copyto(self.state, after, where=going)
            self._rewards += going
            self.taken += going
            fallen = (np.abs(after[0]) > self.model.x_threshold) | (
                np.abs(after[2]) > self.model.theta_threshold_radians
            )
            self._terminations |= going & fallen
            self._truncations |= going & (self.taken >= self.limit)
            going, last = going & ~self._terminations & ~self._truncations, seen
            if not going.any():
                break
        self._autoreset_envs = self._terminations | self._truncations | self._autoreset_envs
        return self._observations, self._rewards, self._terminations, self._truncations, {}

    def _moved(self, actions: np.ndarray) -> np.ndarray:
        """Return the states ``(4, S)`` one step of the environment later.

        This is `CartPoleEnv.step` in its order of operations.
        """
        model, (x, x_dot, theta, theta_dot) = self.model, self.state
        force = np.where(actions == 1, model.force_mag, -model.force_mag)
        cos, sin = np.cos(theta), np.sin(theta)
        push = (force + model.polemass_length * np.square(theta_dot) * sin) / model.total_mass
        inertia = model.length * (4.0 / 3.0 - model.masspole * np.square(cos) / model.total_mass)
        theta_acc = (model.gravity * sin - cos * push) / inertia
        x_acc = push - model.polemass_length * theta_acc * cos / model.total_mass
        moved = x + model.tau * x_dot, x_dot + model.tau * x_acc, theta + model.tau * theta_dot
        return np.stack([*moved, theta_dot + model.tau * theta_acc])
