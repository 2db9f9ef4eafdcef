"""Actors with a learned critic, as in reinforcement learning: the context is a state, -f the return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from relax_exp.estimators.base import Noise, Output, SampleOnly, ScoreFunction, Signal
from relax_exp.models.mlp import MLP


class Critic(nn.Module):
    """A learned function of the context, ``(N, *context_shape)`` -> ``(N, *shape)``.

    It is a network with ``depth`` hidden layers of ``width`` units, or a learned constant where there is no context.
    """

    def __init__(
        self, context_shape: tuple[int, ...] | None, shape: tuple[int, ...], width: int, depth: int, activation: str
    ):
        super().__init__()
        if context_shape is None:
            self.network, self.constant = None, nn.Parameter(torch.zeros(shape))
        else:
            self.network = MLP(context_shape, width, depth, activation, shape)

    def forward(self, context: Tensor | None) -> Tensor:
        """Return the critic's prediction for each row.

        Raises:
            ValueError: The critic was built for a context, and none is given.
        """
        if self.network is None:
            return self.constant
        if context is None:
            raise ValueError("the critic was built with context_shape: pass context=")
        return self.network(context)


def mean_squared_error(out: Output) -> Tensor:
    """Return the tuning loss of a critic, the mean of ``aux["squared_error"]``.

    The errors are kept for each row, ``(N,)``, for tasks that leave some rows out.
    """
    return out.aux["squared_error"].mean()


def published_advantage(f_b: Tensor, value: Tensor, there: Tensor | None = None) -> Tensor:
    """Return the weight of each step's score in the published code of RELAX's A2C, which is not the advantage.

    That code subtracts V of shape (T, 1) from losses of shape (T,), multiplies the T x T matrix with the T
    log-probabilities and sums over all of it. So step j gets sum_i (f_j - V_i) = T (f_j - mean_i V_i): every step has
    the mean value of the whole episode as its baseline, which depends on what the later actions led to, so that the
    gradient is biased; and it is T times as large, so that an entropy bonus counts T times less.

    Args:
        f_b: Losses of the T steps of an episode, ``(..., T)``.
        value: V of their states, ``(..., T)``.
        there: 1 where a step is one of the episode, 0 in its padding, ``(..., T)``; all of them without it.
    """
    there = torch.ones_like(f_b) if there is None else there
    return there * (there.sum(-1, keepdim=True) * f_b - (there * value).sum(-1, keepdim=True))


class A2C(ScoreFunction):
    """[f(b) - V(context)] d log p(b) / d logits: advantage actor-critic (Mnih et al. 2016, "A3C", section 4).

    V is fitted to f by its mean squared error (not half of it), which has E[f | context] as its minimum. V is
    independent of b, so the gradient is unbiased whatever V is.

    ``advantage="published_error"`` is not this estimator but what the code of the RELAX paper computes in its place,
    `published_advantage`, with the rows of a call as the steps of one episode. It is biased, and there to reproduce
    that paper's baseline.
    """

    def __init__(
        self,
        *args: Any,
        depth: int = 2,
        width: int = 10,
        activation: str = "relu",
        advantage: str = "correct",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.published_error = advantage == "published_error"
        self.unbiased = not self.published_error
        self.critic = Critic(self.context_shape, (), width, depth, activation)

    def value(self, context: Tensor | None) -> Tensor:
        """Return V for each row, ``(..., N)``, or one number where there is no context."""
        return self.critic(context)

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f minus the value of the state."""
        value = self.value(context)
        signal = error = f_b - value
        if self.published_error:
            signal = published_advantage(f_b, value.expand_as(f_b))
        return signal, {"squared_error": error.square(), "baseline": value.mean()}, {}

    def tuning_loss(self, out: Output) -> Tensor:
        """Return the mean squared error of V, averaged over the rows."""
        return mean_squared_error(out)


class MeanActor(SampleOnly):
    """d/d logits of sum_a p_a Q_a(context): Mean Actor-Critic (Asadi et al. 2017, eq. 4), exact for an exact Q.

    No score and no sample of the action but to learn Q: with D variables Q_d,a is fitted to f at the drawn b_d = a by
    squared error, so that it tends to E[f | b_d = a, context] and the gradient to the exact one. Until then it is
    biased.
    """

    unbiased = False

    def __init__(self, *args: Any, depth: int = 2, width: int = 10, activation: str = "relu", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.critic = Critic(self.context_shape, self.event_shape, width, depth, activation)

    def values(self, context: Tensor | None) -> Tensor:
        """Return Q of every action, ``(..., N, D, C)``, or ``(D, C)`` where there is no context."""
        return self.critic(context)

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        p, q = logits.detach().softmax(-1), self.values(context)
        grad = p * (q - (p * q).sum(-1, keepdim=True))
        error = (f_b.detach().unsqueeze(-1) - (b * q).sum(-1)).square().mean(-1)
        return Output(grad, f_b, b, {"squared_error": error}, {})

    def tuning_loss(self, out: Output) -> Tensor:
        """Return the mean squared error of Q, averaged over rows and variables."""
        return mean_squared_error(out)
