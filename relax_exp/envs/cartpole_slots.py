"""CartPole in all slots at once: gymnasium's arithmetic on arrays, to the last bit, in a fraction of the time."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from torch import Tensor

from relax_exp.distributions import gumbel
from relax_exp.envs.slots import Rollout, Slots
from relax_exp.models.policy import policy_logits
from relax_exp.numerics import cpu_programs


class CartPoles(Slots):
    """`Slots` for environments that `fits`: the states of single ones, bit by bit, with actions repeated or not.

    The environments draw the first state of each episode and know the constants; all later states are computed here, in
    double precision as theirs, for all slots together. ``frame_skip`` is as in `Repeating`.
    """

    def __init__(self, makers, frame_skip: int = 1):
        super().__init__(makers)
        self.poles = [pole for env in self.envs if isinstance(pole := env.unwrapped, CartPoleEnv)]
        limit = self.spec.max_episode_steps
        assert limit is not None  # as `fits` says
        self.frame_skip, self.limit, self.model = frame_skip, limit, self.poles[0]
        self.state, self.taken = np.zeros((4, self.num_envs)), np.zeros(self.num_envs, np.int64)

    @staticmethod
    def fits(env: gymnasium.Env) -> bool:
        """Tell whether the environment is gymnasium's CartPole, unchanged, with a time limit and no other wrapper."""
        if type(env) is not TimeLimit or type(env.env) is not OrderEnforcing or type(env.unwrapped) is not CartPoleEnv:
            return False
        model, spec = env.unwrapped, env.spec
        other_reward = spec is None or spec.kwargs.get("sutton_barto_reward", False)
        return env.env.env is model and not other_reward and model.kinematics_integrator == "euler"

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
            self.state[:, i], self.taken[i] = self.poles[i].state, 0

    def step(self, actions):
        going, last = self.awake, None
        self.rewards[:] = 0.0
        for _ in range(self.frame_skip):
            after = moved(self.model, self.state, actions, np)
            seen = after.T.astype(np.float32)
            shown = seen if last is None else np.maximum(last, seen)
            np.copyto(self.observations, shown, where=going[:, None])
            np.copyto(self.state, after, where=going)
            self.rewards += going
            self.taken += going
            self.terminated |= going & fallen(self.model, after)
            self.truncated |= going & (self.taken >= self.limit)
            going, last = going & ~self.terminated & ~self.truncated, seen
            if not going.any():
                break
        self.asleep |= self.terminated | self.truncated
        return self.observations, self.rewards, self.terminated, self.truncated, {}

    def compile(self, backend: str) -> None:
        unguarded = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        self.program = cpu_programs.compile(self.time_step, backend, often=True, **unguarded)

    def play(self, seeds: list[int | None], params: dict[str, Tensor], noise: Tensor) -> Rollout:
        program, (slots, horizon, _) = self.program, noise.shape
        assert program is not None
        perturbation = gumbel(noise).transpose(0, 1).contiguous()
        states, rewards = torch.zeros(horizon, slots, 4), torch.zeros(horizon, slots, dtype=torch.float64)
        actions, alive = torch.zeros(horizon, slots, dtype=torch.int64), torch.zeros(horizon, slots, dtype=torch.bool)
        shown = torch.from_numpy(self.reset(seed=seeds)[0].copy())
        state, taken = torch.from_numpy(self.state.copy()), torch.from_numpy(self.taken.copy())
        going = torch.from_numpy(self.awake.copy())
        for t in range(horizon):
            if not going.any():
                break
            states[t], alive[t] = shown, going
            actions[t], rewards[t], shown, state, going, taken = program(
                params, perturbation[t], shown, state, going, taken
            )
        states *= alive.unsqueeze(-1)
        actions *= alive
        return Rollout(*(x.transpose(0, 1).numpy() for x in (states, actions, rewards, alive)))

    def time_step(self, params, perturbation: Tensor, shown: Tensor, state: Tensor, going: Tensor, taken: Tensor):
        """Act at what is ``shown`` ``(S, 4)`` and take the step that `step` takes, as a pure function.

        Returns:
            Actions, rewards and the new values of the last four arguments.
        """
        replicas = next(iter(params.values())).shape[0]
        actions = policy_logits(params, shown.unflatten(0, (replicas, -1))).flatten(0, 1) + perturbation
        actions, rewards, last = actions.argmax(-1), torch.zeros_like(taken, dtype=state.dtype), None
        for _ in range(self.frame_skip):
            after = moved(self.model, state, actions, torch)
            seen = after.T.to(shown.dtype)
            shown = torch.where(going.unsqueeze(1), seen if last is None else torch.maximum(last, seen), shown)
            state, rewards, taken = torch.where(going, after, state), rewards + going, taken + going
            going, last = going & ~(fallen(self.model, after) | (taken >= self.limit)), seen
        return (
            actions,
            rewards,
            shown.contiguous(),
            state.contiguous(),
            going,
            taken,
        )  # as they came: it is called again


def moved(model: CartPoleEnv, state, actions, library):
    """Return the states ``(4, S)`` one step of the environment later.

    This is `CartPoleEnv.step` in its order of operations. ``library``: numpy or torch, whose arrays they are.
    """
    x, x_dot, theta, theta_dot = state
    force = library.where(actions == 1, model.force_mag, -model.force_mag)
    cos, sin = library.cos(theta), library.sin(theta)
    push = (force + model.polemass_length * library.square(theta_dot) * sin) / model.total_mass
    inertia = model.length * (4.0 / 3.0 - model.masspole * library.square(cos) / model.total_mass)
    theta_acc = (model.gravity * sin - cos * push) / inertia
    x_acc = push - model.polemass_length * theta_acc * cos / model.total_mass
    linear = x + model.tau * x_dot, x_dot + model.tau * x_acc
    return library.stack([*linear, theta + model.tau * theta_dot, theta_dot + model.tau * theta_acc])


def fallen(model: CartPoleEnv, state):
    """Say where the cart has left the track or the pole has fallen: ``(4, S)`` -> ``(S,)``, bool."""
    return (abs(state[0]) > model.x_threshold) | (abs(state[2]) > model.theta_threshold_radians)
