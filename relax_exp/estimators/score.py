"""Score-function estimators: REINFORCE and its baselines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from relax_exp.distributions import sum_event
from relax_exp.estimators.base import Noise, Output, ScoreFunction, Signal, mean_square
from relax_exp.models.mlp import MLP


class Reinforce(ScoreFunction):
    """REINFORCE (Williams 1992; RELAX draft, eq. 2): f(b) d log p(b) / d logits, averaged over ``samples`` draws."""

    def __init__(self, *args: Any, samples: int = 1, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.samples = self.evaluations = samples

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f itself."""
        return f_b, {}, {}


class Baseline(Reinforce):
    """REINFORCE with a learned constant: (f(b) - c) d log p(b) / d logits.

    ``objective="mse"`` fits c to f (the mean of f at its best); ``"variance"`` minimises the second moment of the
    gradient itself.
    """

    def __init__(self, *args: Any, objective: str = "mse", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tuning_objective = objective
        self.constant = nn.Parameter(torch.zeros(()))

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f minus the learned constant."""
        signal = f_b - self.constant
        return signal, {"residual": signal, "baseline": self.constant}, {}

    def tuning_loss(self, out: Output) -> Tensor:
        """Return the mean squared residual, or the variance objective."""
        if self.tuning_objective == "variance":
            return mean_square(out.grad)
        return out.aux["residual"].square().mean()


class OptimalBaseline(Reinforce):
    """REINFORCE minus the constant of least variance (Sobolev's lecture "Discrete latent variables").

        c = sum_d Cov[f s_d, s_d] / sum_d Var[s_d] = E[f |s|^2] / E[|s|^2],    s = d log p(b) / d logits.

    One constant for all rows and coordinates, as in the lecture. Both expectations are running averages (``decay`` per
    step) over the rows of past calls only, so c is independent of b; before any data it is 0. In their ratio the bias
    of having started from zero cancels.
    """

    weighted_loss: Tensor
    weight: Tensor

    def __init__(self, *args: Any, decay: float = 0.99, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.decay = decay
        self.register_buffer("weighted_loss", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f minus the constant that past calls gave."""
        tiny = torch.finfo(self.weight.dtype).tiny
        constant = torch.where(self.weight > tiny, self.weighted_loss / self.weight.clamp(min=tiny), 0.0)
        return f_b - constant, {"baseline": constant}, {}

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Estimate the gradient from samples, and average their squared score for the next call's constant."""
        out = super().from_sample(logits, b, f_b, noise, context)
        weight = sum_event(self.family.score(logits, b).detach().square(), self.family)
        keep = self.decay
        buffers = {
            "weighted_loss": keep * self.weighted_loss + (1 - keep) * (weight * f_b.detach()).mean(),
            "weight": keep * self.weight + (1 - keep) * weight.mean(),
        }
        return out._replace(buffers=buffers)


class NVIL(Baseline):
    """NVIL (Mnih & Gregor 2014): (f(b) - network(context) - running mean) d log p(b) / d logits.

    The running mean (``decay`` per step) uses past data only. With ``normalize=True`` the signal is also divided by
    max(1, running standard deviation), as in the paper; that scales the gradient, so it is then not unbiased. Without a
    context the network is a learned constant. The network has one tanh layer of ``width`` units, as in the REBAR code.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        *args: Any,
        objective: str = "mse",
        normalize: bool = False,
        decay: float = 0.8,
        width: int = 100,
        **kwargs: Any,
    ):
        super().__init__(*args, objective=objective, **kwargs)
        self.unbiased = not normalize
        self.normalize = normalize
        self.decay = decay
        self.network = None
        if self.context_shape is not None:
            self.network = MLP(self.context_shape, width=width, depth=1, activation="tanh")
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("running_variance", torch.zeros(()))

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return f minus the running mean, the constant and the network's prediction."""
        centred = f_b - self.running_mean
        baseline = self.constant
        if self.network is not None:
            if context is None:
                raise ValueError(f"NVIL was built with context_shape={self.context_shape}: pass context=")
            baseline = baseline + self.network(context)
        residual = centred - baseline
        signal = residual
        if self.normalize:
            signal = residual / self.running_variance.sqrt().clamp(min=1.0)
        keep = self.decay
        buffers = {
            "running_mean": keep * self.running_mean + (1 - keep) * f_b.mean(),
            "running_variance": keep * self.running_variance + (1 - keep) * residual.detach().square().mean(),
        }
        return signal, {"residual": residual, "baseline": self.running_mean + baseline.mean()}, buffers
