"""``task=cartpole``: policy gradients on CartPole, or any gymnasium environment with few actions and vector states."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from relax_exp.distributions import gumbel
from relax_exp.envs import environments
from relax_exp.envs.slots import Slots
from relax_exp.errors import RunError, SettingError
from relax_exp.models.policy import policy_logits
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.episodic import PolicyTask
from relax_exp.tasks.registry import CartPoleOptions

LEARNER = {  # options in which what learns a policy differs from what it is frozen for
    "frames": None,
    "until_solved": False,
    "freeze_at": None,
    "entropy": 0.01,
    "discount_weight": False,
    "optimizer": "adam",
    "beta2": 0.999,
    "variance_every": None,
}
SHRINK = 4  # of films: every fourth row and column


class CartPole(PolicyTask):
    """The RELAX paper's discrete control problems: one whole episode an update, on ``env``.

    ``return`` and ``return100`` are means over the episodes since the last evaluation and over the last 100 episodes,
    undiscounted. An environment is solved when the mean of the last 100 returns, of a full hundred, reaches
    ``threshold`` (the environment's own where there is none). ``frames`` are the steps in the environment, those of
    arsm's pseudo-rollouts included but for their way back to where they start; at ``frames`` of them (counted after an
    update) a replica stops.

    With ``frame_skip`` the environment takes each action so often, `envs.environments.Repeating`; the policy then acts,
    and learns from, so many times fewer steps, each of which counts as ``frame_skip`` frames. With ``until_solved`` a
    replica stops once it has solved the environment, as the published code does.

    With ``freeze_at`` the policies do not learn: they are those of a2c, of the same seed, when its mean return first
    reached so much (`relax_exp.training.frozen_policies`), and only the estimator is tuned. So the variances of
    estimators' gradients can be compared at the same policies.
    """

    name = "cartpole"

    options: CartPoleOptions

    def __init__(self, estimator: dict[str, Any], options: CartPoleOptions, **given: Any):
        self.options, env = options, options.env
        with contextlib.closing(self.make(1)) as one:
            spec, states, actions = one.spec, one.single_observation_space, one.single_action_space
        if spec.max_episode_steps is None:
            raise SettingError(f"the episodes of {env} have no time limit: set one, as task.max_steps=1000")
        threshold = spec.reward_threshold if options.threshold is None else options.threshold
        if threshold is None:
            raise SettingError(f"{env} does not say which return solves it: set task.threshold")
        assert isinstance(actions, Discrete)  # as `environments.make` has checked
        horizon = -(-spec.max_episode_steps // options.frame_skip)
        super().__init__(estimator, options, int(np.prod(states.shape)), int(actions.n), horizon, **given)
        self.threshold = threshold
        self.frames, self.frame_skip = options.frames, options.frame_skip
        self.until_solved, self.freeze_at = options.until_solved, options.freeze_at
        self.variance_every, self.variance_draws = options.variance_every, options.variance_draws
        if options.freeze_at is not None:
            self.optimizer = "none"

    def learner(self) -> CartPole:
        """Build the task whose policies are frozen: a2c with an entropy bonus, whatever this one's estimator is."""
        options = replace(self.options, **LEARNER)
        return CartPole({"name": "a2c"}, options, batch_size=1, dtype=self.dtype, device=self.device)

    def make(self, slots: int, **options) -> Slots:
        """Make slots of the environment."""
        limit = {} if self.options.max_steps is None else {"max_episode_steps": self.options.max_steps}
        options = {"frame_skip": self.options.frame_skip, **limit, **options}
        return environments.make(self.options.env, slots, "discrete", **options)

    def evaluate(self, models, seeds, step, final):
        """Return nothing but what the trainer records."""
        return [{} for _ in seeds]

    def videos(self, models, replica, seed):
        """Return an episode of the first replica, or say so where a package to draw it is missing."""
        if replica:
            return {}
        params = {k: v[0].to("cpu", torch.float32) for k, v in models.params.items()}
        generator, frames = stream(seed, "video"), []
        try:
            with (
                environments.explained(self.options.env),
                contextlib.closing(self.make(1, render_mode="rgb_array")) as env,
            ):
                states, _ = env.reset(seed=[int(torch.randint(2**31, (), generator=generator))])
                while env.awake.any():
                    frames.append(np.asarray(env.envs[0].render())[::SHRINK, ::SHRINK].copy())
                    u = torch.rand((1, self.actions), generator=generator)
                    choice = (policy_logits(params, torch.from_numpy(states).float()) + gumbel(u)).argmax(-1)
                    states, *_ = env.step(choice.numpy())
        except RunError as error:
            print(f"no film of an episode: {error}", file=sys.stderr)
            return {}
        return {"episode": torch.from_numpy(np.stack(frames))}
