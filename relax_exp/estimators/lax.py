"""LAX: the score function with a control variate that is learned and reparameterised, without conditional sampling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from relax_exp.distributions import Family, expand_event, standard_normal
from relax_exp.estimators.base import Estimator, Noise, Objective, Output, mean_square, present
from relax_exp.models.mlp import Surrogate, squared_weights


class LAX(Estimator):
    """LAX (RELAX, final paper, section 3; draft, section 5): a learned control variate along the path of the sample.

        [f(b) - c(z)] d log p(z) / d logits + d c(z) / d logits,    b = H(z).

    For a Gaussian b = z. For Bernoulli and categorical variables the score is that of the *continuous* z, noisier than
    that of b, which is why RELAX conditions on b. c(z) = r(z) for a Gaussian, and r(2 sigma(z / lambda) - 1) with tuned
    lambda otherwise, as in `Relax`. r has ``depth`` hidden layers of ``width`` units; ``weight_decay`` adds
    weight_decay / 2 times its squared weights to the tuning loss.
    """

    def __init__(
        self,
        *args: Any,
        depth: int = 2,
        width: int = 200,
        activation: str = "relu",
        temperature: float = 0.5,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.weight_decay = weight_decay
        if self.family.discrete:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.network = Surrogate(self.event_shape, self.context_shape, width, depth, activation)

    def control(self, z: Tensor, features: Tensor | float) -> Tensor:
        """Return the control variate c(z), ``(..., N)``."""
        if self.family.discrete:
            z = 2 * self.family.relax(z, self.log_temperature.exp()) - 1
        return self.network(z, features)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        z = self.family.path(logits, noise["u"]).detach()
        b = self.family.hard(z)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        normal = None if self.family.discrete else standard_normal(noise["u"])
        return self._combine(logits, b, f_b, z, context, normal)

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Estimate the gradient from samples b that the task drew.

        u of ``noise`` gives z, a draw from p(z | b); a Gaussian b is z itself.
        """
        logits = logits.detach()
        if self.family.discrete:
            z = self.family.conditional_path(logits, b, present(noise)["u"]).detach()
            return self._combine(logits, b, f_b, z, context)
        mean, log_std = logits.unbind(-1)
        return self._combine(logits, b, f_b, b, context, (b - mean) / log_std.exp())

    def _combine(
        self, logits: Tensor, b: Tensor, f_b: Tensor, z: Tensor, context: Tensor | None, normal: Tensor | None = None
    ) -> Output:
        """Evaluate the formula of the class at the value of z.

        ``normal`` is a Gaussian z before it was shifted and scaled.
        """
        features = self.network.features(context)

        def control(z: Tensor) -> tuple[Tensor, Tensor]:
            values = self.control(z, features)
            return values.sum(), values

        dc_dz, c = grad(control, has_aux=True)(z)
        signal = expand_event(f_b.detach() - c, self.family, parameters=True)
        along = path_score(self.family, logits, z, normal), along_path(self.family, logits, dc_dz, normal)
        gradient = signal * along[0] + along[1]
        return Output(gradient, f_b, b, self.scalars(), {})

    def scalars(self) -> dict[str, Tensor]:
        """Return the surrogate's squared weights, and the temperature where there is one."""
        penalty = {"penalty": squared_weights(self.network) / 2}
        return penalty | {"temperature": self.log_temperature.exp()} if self.family.discrete else penalty

    def tuning_loss(self, out: Output) -> Tensor:
        """Return `mean_square` of the gradient plus the weight decay of the surrogate."""
        return mean_square(out.grad) + self.weight_decay * out.aux["penalty"]


def path_score(family: type[Family], logits: Tensor, z: Tensor, normal: Tensor | None = None) -> Tensor:
    """Return d log p(z) / d logits of the continuous z.

    z is logistic for Bernoulli and Gumbel for categorical variables.
    """
    if family.name == "bernoulli":
        return torch.tanh((z - logits) / 2)
    if family.name == "categorical":
        return family.grad_to_logits(1 - (logits.log_softmax(-1) - z).exp(), logits)
    return family.score(logits, z) if normal is None else family.score_of(logits, normal)


def along_path(family: type[Family], logits: Tensor, grad_z: Tensor, normal: Tensor | None = None) -> Tensor:
    """Turn the gradient with respect to z into that with respect to the logits, along ``family.path``."""
    if family.discrete:
        return family.grad_to_logits(grad_z, logits)
    assert normal is not None  # it is given with a Gaussian sample
    return torch.stack([grad_z, grad_z * logits[..., 1].exp() * normal], -1)
