"""REBAR and RELAX: the score function corrected by a control variate that is differentiable in a relaxed sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from relax_exp.distributions import expand_event, open_uniform
from relax_exp.errors import OptionError
from relax_exp.estimators.base import Estimator, Noise, Objective, Output, as_objective, mean_square, present
from relax_exp.models.mlp import MLP, Surrogate, squared_weights

BASELINE_UNITS = 100  # of baseline=input, as in the REBAR code


class Rebar(Estimator):
    """REBAR (Tucker et al. 2017; RELAX draft, section 2; Le's notes, 2017): the relaxed loss as control variate.

        [f(b) - c(z~)] d log p(b) / d logits + d c(z) / d logits - d c(z~) / d logits,    c(z) = eta f(sigma_lambda(z)),

    with z the relaxed sample that gave b and z~ a draw from p(z | b). (Equations 10 to 12 of the draft print a relaxed
    sample in the first factor; enumeration agrees with the formula above.) c is differentiated in total: through the
    sample and through f's own dependence on the logits. Temperature lambda (its log) and eta are tuned.

    ``noise="tied"`` solves v from u, so that z~ has the value of z and the path of p(z | b): one evaluation of c then
    serves both (as in the original VAE code). ``"independent"`` draws v for itself (as in the paper).

    ``granularity="parameter"`` has one eta for each of the ``tensors`` of parameters that the logits come from, and the
    variance objective is that of their gradient (Tucker's code). The estimator sees logits and
    not those tensors, so the caller combines the parts: `Output.grad` is the gradient at the logits with the mean eta,
    ``aux["parts"]``, ``(2, *logits)``, has the part without eta and the part that each eta scales, and ``tuning_loss``
    is the caller's (`relax_exp.tasks.layered_gradients`).

    Further options of Tucker's code (``experiment=tucker_rebar`` has them all):

    - ``relaxation="muprop"``: sigma(z / lambda + lambda / (lambda + 1) logits), which tends to the mean and not to a
      half as lambda grows (section 3.3 of the paper). Its own dependence on the logits counts as f's does.
    - ``bounded_eta``: eta = 2 sigmoid(w), between 0 and 2.
    - ``baseline="input"``: f(b) less a network (100 tanh units) of the first ``inputs`` numbers of the context, all of
      them by default; it is tuned by the variance objective, as all else is. Without a context a learned constant.
    - ``shared``: in a hierarchy temperature and baseline are those of layer 0 for all layers.
    """

    needs = "relaxed"
    baseline: Tensor | MLP | None
    inputs: int  # of a network as the baseline

    def __init__(
        self,
        *args: Any,
        noise: str = "independent",
        temperature: float = 0.5,
        eta: float = 1.0,
        granularity: str = "layer",
        tensors: int = 1,
        relaxation: str = "concrete",
        bounded_eta: bool = False,
        baseline: str = "none",
        inputs: int | None = None,
        shared: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.granular = granularity == "parameter"
        self.towards_mean, self.bounded, self.shared = relaxation == "muprop", bounded_eta, shared
        if bounded_eta and not 0 < eta < 2:
            raise OptionError(f"{type(self).__name__}: bounded_eta keeps eta between 0 and 2, so not eta={eta}")
        eta = math.log(eta / (2 - eta)) if bounded_eta else eta
        self.baseline = None
        if baseline == "input" and self.context_shape is None:
            self.baseline = nn.Parameter(torch.zeros(()))
        elif baseline == "input" and self.context_shape is not None:
            self.inputs = inputs or math.prod(self.context_shape)
            self.baseline = MLP((self.inputs,), width=BASELINE_UNITS, depth=1, activation="tanh")
        self.tied = noise == "tied"
        self.evaluations = 2 if self.tied else 3
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.eta = nn.Parameter(torch.full((tensors,) if self.granular else (), float(eta)))

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one uniform for z, and of one for z~ where the noise is independent."""
        shape = (n, *self.noise_shape)
        return {"u": shape} if self.tied else {"u": shape, "v": shape}

    @property
    def temperature(self) -> Tensor:
        """The temperature lambda > 0 of the relaxation, a scalar."""
        return self.log_temperature.exp()

    @property
    def scale(self) -> Tensor:
        """eta: of the layer, or of each tensor."""
        return 2 * torch.sigmoid(self.eta) if self.bounded else self.eta

    def soften(self, z: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
        """Return the relaxed sample at z; ``logits`` are those that z was made from."""
        if self.towards_mean:
            z = z + temperature.square() / (temperature + 1) * logits
        return self.family.relax(z, temperature)

    def centred(self, f_b: Tensor, context: Tensor | None) -> Tensor:
        """f(b), a constant, less the baseline."""
        if self.baseline is None:
            return f_b.detach()
        if isinstance(self.baseline, Tensor):
            return f_b.detach() - self.baseline
        if context is None or self.context_shape is None:
            raise ValueError(f"{type(self).__name__} was built with baseline=input: pass context=")
        return f_b.detach() - self.baseline(context.flatten(-len(self.context_shape))[..., : self.inputs])

    def features(self, context: Tensor | None) -> Tensor | float:
        """Compute once what the control variate takes from the context, both for z and for z~; here nothing."""
        return 0.0

    def control(self, z: Tensor, logits: Tensor, f: Objective | None, features: Tensor | float) -> Tensor:
        """Return the control variate c(z), ``(..., N)`` for z ``(..., N, event)``."""
        assert f is not None  # only a network does without
        value = self.evaluate(f.relaxed, self.soften(z, logits, self.temperature), logits, True)
        return value if self.granular else self.scale * value

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        z = self.family.path(logits, noise["u"])
        b = self.family.hard(z)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        return self._combine(logits, b, f_b, z, f, noise, context)

    def _combine(
        self,
        logits: Tensor,
        b: Tensor,
        f_b: Tensor,
        z: Tensor,
        f: Objective | None,
        noise: Noise,
        context: Tensor | None,
    ) -> Output:
        """Evaluate the formula of the class, with z on the unconditional path and z~ on the path of p(z | b)."""
        family = self.family
        features = self.features(context)

        def control(z: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            values = self.control(z, logits, f, features)
            return values.sum(), values

        if self.tied:
            # Equal values, so f's direct dependence on the logits cancels between z and z~.
            dc_dz, c_tilde = grad(control, has_aux=True)(z, logits)
            if family.structured:
                correction = family.grad_to_logits(dc_dz - self.along_conditional(dc_dz, logits, b, z), logits)
            else:
                correction = family.grad_to_logits(dc_dz * (1 - family.conditional_slope(logits, b, z)), logits)
        else:
            z_tilde = self.conditional(logits, b, noise["v"])
            both = torch.stack([z, z_tilde]), torch.stack([logits, logits])
            (dc_dz, direct), (_, c_tilde) = grad(control, argnums=(0, 1), has_aux=True)(*both)
            through = dc_dz[0] - self.along_conditional(dc_dz[1], logits, b, z_tilde)
            correction = family.grad_to_logits(through, logits) + direct[0] - direct[1]
        score, centred = family.score(logits, b), self.centred(f_b, context)
        if self.granular:
            hard, soft = (expand_event(value, family, parameters=True) * score for value in (centred, c_tilde))
            parts = torch.stack([hard, correction - soft])
            aux = self.scalars() | {"parts": parts, "etas": self.scale}
            return Output(parts[0] + self.scale.mean() * parts[1], f_b, b, aux, {})
        gradient = expand_event(centred - c_tilde, family, parameters=True) * score + correction
        return Output(gradient, f_b, b, self.scalars(), {})

    def conditional(self, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~, ``(N, event)``, a draw from p(z | b) for uniform v of the same shape."""
        return self.family.conditional_path(logits, b, v)

    def along_conditional(self, grad_z: Tensor, logits: Tensor, b: Tensor, z_tilde: Tensor) -> Tensor:
        """Turn the gradient with respect to z~ into that with respect to the natural parameter, ``(N, event)``."""
        if self.family.structured:
            return self.family.conditional_pull(logits, b, z_tilde, grad_z)
        return grad_z * self.family.conditional_slope(logits, b, z_tilde)

    @torch.no_grad()
    def control_variate(
        self, z: Tensor, logits: Tensor, f: Objective | Callable[[Tensor], Tensor], context: Tensor | None = None
    ) -> Tensor:
        """Return c(z) as it stands, ``(..., N)`` for z ``(..., N, event)``, to draw it as in Figure 1 of the draft."""
        return self.control(z, logits, as_objective(f), self.features(context))

    def scalars(self) -> dict[str, Tensor]:
        """Return what is worth logging, and the penalty of the tuning loss where there is one."""
        return {"temperature": self.temperature, "eta": self.scale.mean()}

    def tuning_loss(self, out: Output) -> Tensor:
        """Return `mean_square` of the gradient, without the direct part."""
        return mean_square(out.grad)


class Relax(Rebar):
    """RELAX (RELAX draft, sections 3 and 6.2): REBAR's formula with a learned control variate r(z, context).

    ``surrogate="relaxed"``: c(z) = r(z) + eta f(sigma_lambda(z)), the draft's relaxed-REBAR. ``surrogate="network"``:
    c(z) = r(2 sigma(z / lambda) - 1) alone, all that a black box needs; squashed as in the public toy code, since a
    bounded input is what makes the learned relaxation flat in the tails. r has ``depth`` hidden layers of ``width``
    units; ``weight_decay`` adds weight_decay / 2 times its squared weights to the tuning loss.

    ``sampler="published_error"`` is not this estimator but what the published code for control computes in its place:
    z~ comes from `published_conditional`, which is not p(z | b). It is biased (a comment there and the paper say so),
    offered for categorical variables with independent noise, and there to reproduce that paper's numbers. Raises
    ValueError for anything else.
    """

    def __init__(
        self,
        *args: Any,
        surrogate: str = "relaxed",
        sampler: str = "correct",
        depth: int = 2,
        width: int = 200,
        activation: str = "relu",
        weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.granular:
            raise OptionError("Relax: granularity must be layer, as the network has no part for each tensor of weights")
        self.free = surrogate == "network"
        if self.free:
            self.needs, self.evaluations = "value", 1
            del self.eta
        self.published_error = sampler == "published_error"
        if self.published_error and (self.tied or self.family.name != "categorical"):
            raise OptionError("sampler='published_error' is offered for categorical variables with independent noise")
        self.unbiased = not self.published_error
        self.weight_decay = weight_decay
        self.network = Surrogate(self.noise_shape, self.context_shape, width, depth, activation)

    def features(self, context: Tensor | None) -> Tensor | float:
        """Return the context's share of the surrogate's first layer."""
        return self.network.features(context)

    def control(self, z: Tensor, logits: Tensor, f: Objective | None, features: Tensor | float) -> Tensor:
        """Return the control variate c(z) with the network in it, ``(..., N)``."""
        if self.free:
            seen = z if self.family.structured else 2 * self.family.relax(z, self.temperature) - 1
            return self.network(seen, features)
        return super().control(z, logits, f, features) + self.network(z, features)

    def conditional(self, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Return z~ as the base class does, or `published_conditional` with ``sampler="published_error"``."""
        return published_conditional(logits, b, v) if self.published_error else super().conditional(logits, b, v)

    def along_conditional(self, grad_z: Tensor, logits: Tensor, b: Tensor, z_tilde: Tensor) -> Tensor:
        """Differentiate along the path that `conditional` takes."""
        along = super().along_conditional(grad_z, logits, b, z_tilde)
        if not self.published_error:
            return along
        winner = (b * z_tilde).sum(-1, keepdim=True)  # here it depends on its log p, and all others on it
        return along + b * (grad_z * (z_tilde - winner).exp()).sum(-1, keepdim=True)

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Estimate the gradient from samples b that the task drew, with u and v of ``noise``.

        u gives the *value* of z, a draw from p(z | b), but z stays on its unconditional path; v gives z~.

        Raises:
            TypeError: ``surrogate`` is not "network", so that c needs f.
        """
        if not self.free:
            raise TypeError('Relax has f in its control variate: call it with f, or build it with surrogate="network"')
        logits = logits.detach()
        noise = present(noise)
        z = self.family.conditional_path(logits, b, noise["u"])
        return self._combine(logits, b, f_b, z, None, noise, context)

    def scalars(self) -> dict[str, Tensor]:
        """Return the temperature, eta and the surrogate's squared weights."""
        logged = {"temperature": self.temperature, "penalty": squared_weights(self.network) / 2}
        return logged if self.free else logged | {"eta": self.scale}

    def tuning_loss(self, out: Output) -> Tensor:
        """Return `mean_square` of the gradient plus the weight decay of the surrogate."""
        return mean_square(out.grad) + self.weight_decay * out.aux["penalty"]


def published_conditional(logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Return what the published RELAX code for control draws in the place of z~ ~ p(z | b), ``(..., D, C)``.

    b is one-hot. The winner is log p_b - log(-log v_b), as if nothing were known of it, where p(z | b) has -log(-log
    v_b) without log p_b, the maximum's distribution; the losers are cut off below this winner. So argmax z~ = b holds,
    but all of z~ is too low, the lower the rarer b is, and c(z~) has not the mean of c(z), which makes the estimator
    biased. For p = (.6, .3, .1) the mean over b of E[z~ | b] is (-.57, -1.21, -2.11), where that of z is (.07, -.63,
    -1.73).
    """
    log_p = logits.log_softmax(-1)
    g = (-open_uniform(v).log()).log()
    winner = (b * (g - log_p)).sum(-1, keepdim=True)
    return torch.where(b > 0.5, -winner, -torch.logaddexp(g - log_p, winner))
