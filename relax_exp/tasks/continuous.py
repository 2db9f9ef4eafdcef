"""``task=continuous``: policy gradients with a Gaussian policy on large batches of episodes, A2C against LAX."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp import estimators
from relax_exp.envs import environments
from relax_exp.envs.slots import Slots
from relax_exp.errors import SettingError
from relax_exp.estimators.actor_critic import A2C
from relax_exp.estimators.base import FromSample
from relax_exp.models.policy import init_policy, policy_logits, tangent_kernel
from relax_exp.numerics.optimizers import adam
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import BatchTask, Gradients, Model
from relax_exp.tasks.registry import ContinuousOptions


class Continuous(BatchTask):
    """Maximise the return on ``env``, whose actions are vectors of real numbers (RELAX, final paper, section 5.3).

    The policy is a Gaussian: its mean a network (``hidden`` tanh units) of the state, its log std parameters of their
    own, 0 at the start. States are taken as they are; actions are clipped to their bounds where the environment takes
    them. An update follows whole episodes, begun until each of ``envs`` slots has taken its share of ``batch_size``
    steps; an episode that its time limit ends is bootstrapped from V. Advantages are generalised ones (Schulman et al.
    2016): sum over k of (gamma trace)^k times the TD error k steps later. ``normalize`` brings those of a batch to mean
    0 and variance 1. Rewards are learned from after a factor of ``reward_scale``; returns are reported without.

    V and LAX's c^ have the size that the estimator's options give; a2c follows the score of the advantage, LAX has
    c(s, a) = V(s) + c^(s, a). After each update, and with its batch, V is fitted to advantage + V by ``value_updates``
    Adam steps, and c^ by ``surrogate_updates``: the gradient itself came from older ones, so it has no bias from that.
    What c^ makes small is the square norm of the gradient of the policy's parameters. ``surrogate_objective="batch"``
    takes that of the whole batch, one vector. ``"episodes"`` takes that of each episode, the mean over its steps, and
    averages over the episodes, as the published code does: more squares, and less to fit to one batch.

    That code differs in more. Its surrogate is evaluated at an action that is drawn anew while the score is that of the
    action taken, so that what the control variate adds has not mean zero: its LAX is biased, this one is not. Its step
    size follows the KL divergence, states are filtered and come with the state before and, for V, with the time,
    actions are rescaled to their bounds, a time limit ends an episode as a fall does, and the generalised advantages
    are computed and then replaced by R - V. So numbers of episodes compare two algorithms, here and there.

    A batch has ``state`` (E, T, S), ``action`` (E, T, A), ``advantage``, ``target`` of V, ``alive``, (E, T) each; for
    ``"episodes"`` also ``episode``, the number of each step's.
    """

    name = "continuous"
    compile_after = math.inf  # the environment takes most of the time, and the program is long

    options: ContinuousOptions

    def __init__(self, estimator: dict[str, Any], options: ContinuousOptions, **given: Any):
        super().__init__(estimator, options, **given)
        self.frames, self.episodes = options.frames, options.envs
        with contextlib.closing(self.make(1)) as one:
            spec, states, actions = one.spec, one.single_observation_space, one.single_action_space
        if spec.max_episode_steps is None:
            raise SettingError(f"the episodes of {options.env} have no time limit, which task=continuous needs")
        assert isinstance(actions, Box)  # as `environments.make` has checked
        known = math.inf if spec.reward_threshold is None else spec.reward_threshold
        self.threshold = known if options.threshold is None else options.threshold
        self.states, self.actions = math.prod(states.shape), math.prod(actions.shape)
        self.sizes = [self.states, *options.hidden, self.actions]
        self.quota = -(-self.batch_size // options.envs)
        self.horizon = self.quota + spec.max_episode_steps - 1  # steps that a slot may take in an update
        self.gamma, self.trace, self.reward_scale = options.gamma, options.trace, options.reward_scale
        self.optimizer = options.optimizer
        entry = estimators.lookup(self.estimator_name)
        self.by_episode = options.surrogate_objective == "episodes" and not entry.beside_a_value
        self.updates = {"value": options.value_updates, "surrogate": options.surrogate_updates}
        self.variance_every, self.variance_draws = options.variance_every, options.variance_draws
        self.networks = self._build(stream(0, "template"))
        surrogate = self.networks["surrogate"]
        assert isinstance(surrogate, FromSample)
        self.weight_decay = surrogate.of.weight_decay

    def make(self, slots: int) -> Slots:
        """Make slots of the environment."""
        return environments.make(self.options.env, slots, "continuous")

    def _build(self, generator) -> dict[str, nn.Module]:
        """Build the value function, and the estimator of the gradient, whose tuning parameters are those of c^."""
        size = {k: v for k, v in self.estimator_options.items() if k in ("width", "depth", "activation")}
        event, context = (self.actions,), (self.states,)
        drawn_by = estimators.lookup(self.estimator_name).beside_a_value
        name, options = (drawn_by, {}) if drawn_by else (self.estimator_name, self.estimator_options)
        surrogate = FromSample(estimators.build(name, "gaussian", event, context, generator, **options))
        a2c = estimators.build("a2c", "gaussian", event, context, generator, **size)
        assert isinstance(a2c, A2C)
        return {"value": a2c.critic.to(self.device, self.dtype), "surrogate": surrogate.to(self.device, self.dtype)}

    def init(self, generator):
        networks = self._build(generator)
        params = {"mean": init_policy(self.sizes, generator), "log_std": torch.zeros(self.actions)}
        tuning = {key: {k: v.detach().clone() for k, v in net.named_parameters()} for key, net in networks.items()}
        return Model(tree_map(lambda x: x.to(self.device, self.dtype), params), tuning, {})

    def noise_shapes(self):
        """Return the shapes of the estimator's noise, and ``act``, which makes the actions."""
        return {"act": (self.episodes, self.horizon, self.actions)}

    def example(self):
        sizes = {"state": (self.states,), "action": (self.actions,), "advantage": (), "target": (), "alive": ()}
        sizes |= {"episode": ()} if self.by_episode else {}
        shape, like = (self.episodes, self.horizon), {"dtype": self.dtype, "device": self.device}
        return {k: torch.zeros(shape + size, **like) for k, size in sizes.items()}

    def evaluate(self, models, seeds, step, final):
        """Return the policy's spread; what became of episodes is the trainer's to know."""
        return [{"std": value} for value in models.params["log_std"].exp().mean(-1).tolist()]

    def mean(self, params, states: Tensor) -> Tensor:
        """Return the mean of the policy at states ``(..., N, S)``, ``(..., N, A)``."""
        return policy_logits(params["mean"], states, torch.tanh)

    def distribution(self, params, states: Tensor) -> Tensor:
        """Return the parameters of the policy at states ``(..., N, S)``, ``(..., N, A, 2)``."""
        mean = self.mean(params, states)
        return torch.stack([mean, params["log_std"].unsqueeze(-2).expand_as(mean)], -1)

    def value(self, tuning, states: Tensor) -> Tensor:
        """Return V, in units of ``reward_scale``."""
        return functional_call(self.networks["value"], tuning["value"], (states,))

    def _value_loss(self, value, rows: dict[str, Tensor]) -> Tensor:
        """Return the mean squared error of V over the steps of the batch."""
        return (rows["weight"] * (self.value({"value": value}, rows["state"]) - rows["target"]).square()).sum()

    def _rows(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch as rows, with the ``weight`` of a mean over its steps and the loss f of each."""
        rows = {k: v.flatten(0, 1) for k, v in batch.items()}
        weight, advantage = rows["alive"] / rows["alive"].sum().clamp(min=1), rows["advantage"]
        if self.options.normalize:
            centred = advantage - (weight * advantage).sum()
            advantage = centred / ((weight * centred.square()).sum().sqrt() + 1e-8)
        return rows | {"weight": weight, "loss": -advantage}

    def _policy_gradient(self, model: Model, batch: dict[str, Tensor], rows: dict[str, Tensor]):
        """Return the gradient of the ``batch``, whose `_rows` are given, as a function of the surrogate's parameters.

        The function returns (square norm, (gradient, scalars)).
        """
        kernel = self._kernel_of_episodes(model.params, batch) if self.by_episode else None
        parameters, pull = vjp(lambda params: self.distribution(params, rows["state"]), model.params)[:2]
        parameters = parameters.detach()

        def of(surrogate):
            args = parameters, rows["action"], rows["loss"], None, rows["state"]
            out = functional_call(self.networks["surrogate"], surrogate, args)
            (gradient,) = pull(rows["weight"].view(-1, 1, 1) * out.grad)
            scalars = {k: v for k, v in out.aux.items() if v.dim() == 0}
            square = sum(leaf.square().sum() for leaf in tree_leaves(gradient))
            if kernel is not None:
                square = self._square_of_episodes(kernel, rows, out.grad)
            if "penalty" in scalars:
                square = square + self.weight_decay * scalars["penalty"]
            return square, (square, gradient, scalars)

        return of

    def _kernel_of_episodes(self, params, batch: dict[str, Tensor]) -> Tensor:
        """Return the tangent kernel of the means within each slot, ``(E, T A, T A)``, 0 between different episodes."""
        episode = batch["episode"].repeat_interleave(self.actions, -1)
        return tangent_kernel(params["mean"], batch["state"]).mul_(episode.unsqueeze(-1) == episode.unsqueeze(-2))

    def _square_of_episodes(self, kernel: Tensor, rows: dict[str, Tensor], at_rows: Tensor) -> Tensor:
        """Average the square norm of each episode's gradient, itself the mean over the episode's steps.

        ``at_rows`` is the gradient with respect to the parameters of the policy's distribution, ``(N, A, 2)``. The
        policy, and with it ``kernel``, stays the same while the surrogate takes its updates.
        """
        alive, episode = rows["alive"], rows["episode"].long()
        lengths = torch.zeros_like(alive).index_add(0, episode, alive)
        at_rows = (alive / lengths.clamp(min=1)[episode]).view(-1, 1, 1) * at_rows
        at_means = at_rows[..., 0].reshape(*kernel.shape[:-1], 1)
        at_spreads = torch.zeros_like(at_rows[..., 1]).index_add(0, episode, at_rows[..., 1])
        squares = (at_means * (kernel @ at_means)).sum() + at_spreads.square().sum()
        return squares / (lengths > 0).sum().clamp(min=1)

    def gradients(self, model, batch, noise):
        """Draw all gradients of one replica once; ``tuning`` holds the first of the updates that `tune` makes."""
        rows = self._rows(batch)
        of = self._policy_gradient(model, batch, rows)
        surrogate, (square, gradient, scalars) = grad(of, has_aux=True)(model.tuning["surrogate"])
        value, value_loss = torch.func.grad_and_value(self._value_loss)(model.tuning["value"], rows)
        weight, target = rows["weight"], rows["target"]
        spread = (weight * (target - (weight * target).sum()).square()).sum()
        log_std = model.params["log_std"]
        metrics = {
            "entropy": (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(),
            "value_loss": value_loss,
            "explained_variance": 1 - value_loss / spread.clamp(min=1e-12),
        }
        return Gradients(
            gradient | {"log_std": gradient["log_std"] - self.options.entropy},
            {"value": value, "surrogate": surrogate},
            model.buffers,
            -(weight * target).sum(),
            square + value_loss,
            metrics | {f"estimator/{k}": v for k, v in scalars.items()},
        )

    def tune(self, model, grads, moments, t, lr, batch, noise):
        """Take ``updates`` Adam steps for each network, all with this batch, at the same policy."""
        rows, (new, m, v) = self._rows(batch), ({}, {}, {})
        of = self._policy_gradient(model, batch, rows)
        slopes = {
            "value": grad(lambda value: self._value_loss(value, rows)),
            "surrogate": lambda surrogate: grad(of, has_aux=True)(surrogate)[0],
        }
        for key, slope in slopes.items():
            params, own, gradient = (
                model.tuning[key],
                {k: moment[key] for k, moment in moments.items()},
                grads.tuning[key],
            )
            for i in range(self.updates[key] if params else 0):
                gradient = slope(params) if i else gradient
                params, own = adam(params, gradient, own, (t - 1) * self.updates[key] + i + 1, lr, self.betas)
            new[key], m[key], v[key] = params, own["m"], own["v"]
        return new, {"m": m, "v": v}
