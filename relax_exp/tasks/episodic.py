"""Policy gradients from whole episodes, with any estimator that takes samples from outside: what cartpole trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
from torch.utils._pytree import tree_leaves

from relax_exp import estimators
from relax_exp.estimators.actor_critic import published_advantage
from relax_exp.estimators.base import Estimator
from relax_exp.models.policy import init_policy, policy_logits
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import EpisodeTask, Gradients, Model
from relax_exp.tasks.registry import PolicyOptions


class Row(nn.Module):
    """An estimator at one row, callable through ``functional_call``: gradient, tuning loss, scalars, new buffers.

    It takes one row at a time, so that rows which belong to no episode can be left out of every mean.
    """

    def __init__(self, estimator: Estimator):
        super().__init__()
        self.of = estimator

    def forward(self, row: dict[str, Tensor], noise: dict[str, Tensor]):
        """Estimate the gradient at one row.

        Args:
            row: logits, action ``([K,] A)``, loss ``([K,])``, state ``([K,] S)``; for estimators that replay, values
                ``(A,)``.
            noise: Uniform noise of one row.
        """
        logits = row["logits"].unsqueeze(-2).unsqueeze(-2)
        if "values" in row:
            out = self.of(logits, lambda b: (b * row["values"]).sum((-2, -1)), noise=noise)
        else:
            b, loss = row["action"].unsqueeze(-2).unsqueeze(-2), row["loss"].unsqueeze(-1)
            out = self.of.from_sample(logits, b, loss, noise, row["state"].unsqueeze(-2))
        scalars = {k: v for k, v in out.aux.items() if v.dim() == 0}
        return out.grad.squeeze(-2).squeeze(-2), self.of.tuning_loss(out), scalars, out.buffers


class PolicyTask(EpisodeTask):
    """Maximise the return of episodes of at most ``horizon`` steps: f = minus the discounted return-to-go.

    The gradient of an update is the sum over the steps of an episode, mean over its episodes, with ``entropy`` times
    the gradient of the policy's entropy on top; no bootstrapping, no normalisation. ``discount_weight`` has the factor
    gamma^t that the gradient of the discounted return has, and that nobody uses. ``batch_size`` episodes make an
    update, or that many groups of K with an estimator that compares K samples: rloo's baseline at step t of an episode
    is the mean of the other episodes' returns-to-go at their step t, 0 where they are over. Whatever it is, it is
    independent of the action, so that the gradient stays unbiased.

    A batch has ``state`` (E, T, S), one-hot ``action`` (E, T, A), ``loss`` (E, T), ``alive`` (E, T): 1 within the
    episode; for estimators that replay also ``values`` (E, T, A), the losses of all actions.
    """

    compile_after = 50_000  # the networks are small, and compiling takes a minute

    options: PolicyOptions

    def __init__(
        self, estimator: dict[str, Any], options: PolicyOptions, states: int, actions: int, horizon: int, **given: Any
    ):
        super().__init__(estimator, options, **given)
        self.optimizer, self.betas = options.optimizer, (0.9, options.beta2)
        self.states, self.actions, self.horizon = states, actions, horizon
        self.sizes = [states, *options.hidden, actions]
        self.gamma, self.pseudo_rollouts = options.gamma, min(options.pseudo_rollouts, horizon * actions)
        self.row = self._build(stream(0, "template"))
        self.samples = self.row.of.samples
        self.episodes = self.batch_size * self.samples
        entry = estimators.lookup(self.estimator_name)
        self.by_variance, self.replayed = entry.by_variance, entry.replays
        self.published_error = self.estimator_options.get("advantage") == "published_error"  # it needs whole episodes
        self.evaluations = self.episodes * (1 + self.replayed * self.pseudo_rollouts)  # episodes, whole or in part

    def _build(self, generator) -> Row:
        event, options = (1, self.actions), self.estimator_options
        built = estimators.build(self.estimator_name, "categorical", event, (self.states,), generator, **options)
        return Row(built).to(self.device, self.dtype)

    def init(self, generator):
        row = self._build(generator)
        params = {k: v.to(self.device, self.dtype) for k, v in init_policy(self.sizes, generator).items()}
        tuning = {k: v.detach().clone() for k, v in row.named_parameters()}
        return Model(params, tuning, {k: v.clone() for k, v in row.named_buffers()})

    def noise_shapes(self):
        """Return the shapes of the estimator's noise, and ``act``, which makes the actions of an episode."""
        steps = (self.episodes, self.horizon, self.actions)
        shapes = {"act": steps}
        if self.by_variance:
            shapes |= self.row.of.noise_shapes(self.episodes * self.horizon)
        if self.replayed:
            shapes |= {"choose": steps, "replay": (self.episodes * self.pseudo_rollouts, *steps[1:])}
        return shapes

    def example(self):
        shape = (self.episodes, self.horizon)
        sizes = {"state": (self.states,), "action": (self.actions,), "loss": (), "alive": ()}
        sizes |= {"values": (self.actions,)} if self.replayed else {}
        return {k: torch.zeros(shape + size, dtype=self.dtype, device=self.device) for k, size in sizes.items()}

    def _rows(self, values: Tensor) -> Tensor:
        """Turn ``(E, T, ...)`` into ``(rows, ...)``, or ``(K, rows, ...)``."""
        rows = values.flatten(0, 1)
        return rows.unflatten(0, (self.samples, -1)) if self.samples > 1 else rows

    def gradients(self, model, batch, noise):
        over = {k: self._rows(v) for k, v in batch.items()}
        alive = over.pop("alive")
        weight = alive / self.batch_size
        if self.options.discount_weight:
            weight = weight * self._rows(self._discounts(alive).expand(self.episodes, -1))
        axis = int(self.samples > 1)
        if self.replayed:
            noise = {"u": self._rows(noise["act"]).unsqueeze(-2)}
        noise = {k: v.unsqueeze(axis + 1) for k, v in noise.items() if k in ("u", "v")}
        logits, pull = vjp(lambda params: policy_logits(params, over["state"]), model.params)[:2]
        over["logits"] = logits.detach()
        present = alive.amax(0) if axis else alive  # chains of different length make one row

        def mean(values: Tensor) -> Tensor:
            return (values * expand(present, values)).sum(0) / present.sum().clamp(min=1)

        def tuned(tuning):
            def one(row, noise):
                return functional_call(self.row, (tuning, model.buffers), (row, noise))

            gradient, tuning_loss, scalars, buffers = vmap(one, in_dims=axis, out_dims=(axis, 0, 0, 0))(over, noise)
            if self.published_error:
                of = (x.unflatten(0, batch["loss"].shape) for x in (over["loss"], scalars["baseline"], alive))
                gradient = expand(published_advantage(*of).flatten(), gradient)
                gradient = gradient * (over["action"] - over["logits"].softmax(-1))
            (grads,) = pull(gradient * expand(weight, gradient))
            loss = mean(tuning_loss)
            if self.by_variance:
                decay = self.row.of.weight_decay * mean(scalars["penalty"])
                loss = sum(leaf.square().sum() for leaf in tree_leaves(grads)) + decay
            scalars, buffers = ({k: mean(v) for k, v in part.items()} for part in (scalars, buffers))
            return loss, (loss, grads, scalars, {f"of.{k}": v for k, v in buffers.items()})

        tuning, (tuning_loss, grads, scalars, buffers) = grad(tuned, has_aux=True)(model.tuning)
        p, log_p = logits.softmax(-1), logits.log_softmax(-1)
        entropy = -(p * log_p).sum(-1)
        chaos = self.options.entropy * p * (log_p + entropy.unsqueeze(-1))  # d (-entropy) / d logits
        (push,) = pull(chaos * expand(alive / self.episodes, chaos))
        metrics = {"entropy": (entropy * alive).sum() / alive.sum().clamp(min=1)}
        metrics |= {f"estimator/{k}": v for k, v in scalars.items()}
        return Gradients(
            {k: g + push[k] for k, g in grads.items()},
            tuning,
            {**model.buffers, **buffers},
            batch["loss"][:, 0].mean(),
            tuning_loss,
            metrics,
        )

    def _discounts(self, like: Tensor) -> Tensor:
        """Return gamma^t, ``(T,)``."""
        return self.gamma ** torch.arange(self.horizon, dtype=like.dtype, device=like.device)


def expand(weight: Tensor, values: Tensor) -> Tensor:
    """Make weights of rows broadcast against their values, which have more dimensions."""
    return weight.reshape(weight.shape + (1,) * (values.dim() - weight.dim()))
