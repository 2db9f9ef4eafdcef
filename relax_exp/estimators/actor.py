"""Actors with a learned critic, as in reinforcement learning: the context is a state, -f the return."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relax_exp.estimators.base import Output, SampleOnly, ScoreFunction
from relax_exp.models.mlp import MLP


class Critic(nn.Module):
    """A learned function of the context, ``(N, *context_shape)`` -> ``(N, *shape)``; without one, a learned constant.

    The network has ``depth`` hidden layers of ``width`` units.
    """

    def __init__(self, context_shape, shape: tuple[int, ...], width: int, depth: int, activation: str):
        super().__init__()
        if context_shape is None:
            self.network, self.constant = None, nn.Parameter(torch.zeros(shape))
        else:
            self.network = MLP(context_shape, width, depth, activation, shape)

    def forward(self, context: Tensor | None) -> Tensor:
        """See the class. Raises ValueError where the context is missing."""
        if self.network is None:
            return self.constant
        if context is None:
            raise ValueError("the critic was built with context_shape: pass context=")
        return self.network(context)


def mean_squared_error(out: Output) -> Tensor:
    """The tuning loss of a critic, from ``aux["squared_error"]``, ``(N,)``: rows apart for tasks that mask some."""
    return out.aux["squared_error"].mean()


class A2C(ScoreFunction):
    """[f(b) - V(context)] d log p(b) / d logits: advantage actor-critic (Mnih et al. 2016, "A3C", section 4).

    V is fitted to f by its mean squared error (not half of it), which has E[f | context] as its minimum. V is
    independent of b, so the gradient is unbiased whatever V is.
    """

    def __init__(self, *args, depth: int = 2, width: int = 10, activation: str = "relu", **kwargs):
        super().__init__(*args, **kwargs)
        self.critic = Critic(self.context_shape, (), width, depth, activation)

    def value(self, context: Tensor | None) -> Tensor:
        """V, ``(..., N)``; one number where there is no context."""
        return self.critic(context)

    def signal(self, f_b, context):
        """f minus the state's value."""
        value = self.value(context)
        signal = f_b - value
        return signal, {"squared_error": signal.square(), "baseline": value.mean()}, {}

    def tuning_loss(self, out: Output) -> Tensor:
        """See `mean_squared_error`."""
        return mean_squared_error(out)


class MeanActor(SampleOnly):
    """d/d logits of sum_a p_a Q_a(context): Mean Actor-Critic (Asadi et al. 2017, eq. 4), exact for an exact Q.

    No score and no sample of the action but to learn Q: with D variables Q_d,a is fitted to f at the drawn b_d = a by
    squared error, so that it tends to E[f | b_d = a, context] and the gradient to the exact one. Until then it is
    biased.
    """

    unbiased = False

    def __init__(self, *args, depth: int = 2, width: int = 10, activation: str = "relu", **kwargs):
        super().__init__(*args, **kwargs)
        self.critic = Critic(self.context_shape, self.event_shape, width, depth, activation)

    def values(self, context: Tensor | None) -> Tensor:
        """Q of every action, ``(..., N, D, C)``; ``(D, C)`` where there is no context."""
        return self.critic(context)

    def from_sample(self, logits, b, f_b, noise=None, context=None):
        """See `Estimator.from_sample`."""
        p, q = logits.detach().softmax(-1), self.values(context)
        grad = p * (q - (p * q).sum(-1, keepdim=True))
        error = (f_b.detach().unsqueeze(-1) - (b * q).sum(-1)).square().mean(-1)
        return Output(grad, f_b, b, {"squared_error": error}, {})

    def tuning_loss(self, out: Output) -> Tensor:
        """See `mean_squared_error`; the mean is over the variables too."""
        return mean_squared_error(out)
