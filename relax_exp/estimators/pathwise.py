"""Estimators that differentiate f through a stand-in for the sample: Concrete, straight-through and their relatives.

All but `Reparameterization` are biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp

from relax_exp.errors import OptionError
from relax_exp.estimators.base import Estimator, Noise, Objective, Output, present


class Pathwise(Estimator):
    """The base of estimators d f(s(logits, u)) / d logits with a differentiable stand-in s of the sample.

    A subclass gives s as ``relax``. In a hierarchy s of every layer feeds the next, as in the papers: a task chains
    ``relax`` and differentiates once. It calls the module without f, so that ``functional_call`` reaches ``relax``, and
    takes new buffers from `advance`. ``out.loss`` is f at s, whose ordinary gradient trains the decoder.
    """

    unbiased = False
    needs = "relaxed"
    target = "path"
    density: bool = False  # whether s has a density, which can stand for the probability of the sample

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return s, in the shape of a sample, differentiable in the logits."""
        raise NotImplementedError(f"{type(self).__name__} does not implement relax")

    def forward(
        self,
        logits: Tensor,
        f: Objective | Callable[[Tensor], Tensor] | None = None,
        noise: Noise | None = None,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        f_b: Tensor | None = None,
    ) -> Any:
        """Draw one estimate for each row, or, without f, return ``relax(logits, noise)``."""
        if f is None:
            self._check_logits(logits)
            return self.relax(logits, present(noise))
        return super().forward(logits, f, noise, context, generator, f_b)

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return s without its derivative."""
        return self.relax(logits, noise).detach()

    def advance(self, buffers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the values of the buffers after one more step."""
        return {}

    def attached(self, f: Objective, logits: Tensor) -> Objective:
        if self.needs != "relaxed":
            return super().attached(f, logits)

        def relaxed(sample: Tensor, _: Tensor) -> Tensor:
            return f.relaxed(sample, logits)

        return Objective(f.hard, relaxed, f.mean)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        def relaxed(logits: Tensor) -> Tensor:
            return self.relax(logits, noise)

        s, pull = vjp(relaxed, logits)[:2]
        objective = f.relaxed if self.needs == "relaxed" else f.hard

        def at(s: Tensor):
            values = self.evaluate(objective, s, logits, True)
            return values.sum(), values

        slope, values = grad(at, has_aux=True)(s)
        loss = values if f_b is None else f_b
        return Output(pull(slope)[0], loss, s.detach(), self.scalars(values), self.advance(dict(self.named_buffers())))

    def scalars(self, values: Tensor) -> dict[str, Tensor]:
        """Return what is worth logging and what the tuning loss needs. ``values`` are f at s, ``(N,)``."""
        return {}


def hard_with_slope(hard: Tensor, soft: Tensor) -> Tensor:
    """Return ``hard`` in value, exactly, with the derivative of ``soft``."""
    return hard + (soft - soft.detach())


class Stepped(Pathwise):
    """The base of estimators whose temperature may change with the step, in a buffer where `count_steps` was called.

    The step is rounded down to a multiple of ``anneal_every``.
    """

    step: Tensor

    def __init__(self, *args: Any, anneal_every: int = 1000, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.anneal_every = anneal_every

    def count_steps(self) -> None:
        """Register the buffer of the step, from zero."""
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def exponential(self, start: float, rate: float) -> Tensor:
        """Return start exp(rate t), t the rounded step."""
        step = self.step.div(self.anneal_every, rounding_mode="floor") * self.anneal_every
        return start * (rate * step.to(torch.get_default_dtype())).exp()

    @property
    def temperature(self) -> Tensor | float | None:
        """The temperature as it stands, a tensor where it moves."""
        raise NotImplementedError(f"{type(self).__name__} does not implement temperature")

    def advance(self, buffers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the buffers with the step, where it is counted, one further."""
        return {"step": buffers["step"] + 1} if "step" in buffers else {}

    def scalars(self, values: Tensor) -> dict[str, Tensor]:
        """Return the temperature where it moves."""
        temperature = self.temperature
        return {"temperature": temperature} if isinstance(temperature, Tensor) else {}


class Tempered(Stepped):
    """The base of estimators with a temperature that is fixed, annealed or (for a relaxed sample) learned.

    ``schedule`` says which. fixed: ``temperature``. annealed: max(minimum, temperature exp(-rate t)), with the step t
    rounded down to a multiple of ``anneal_every`` (Jang et al. 2017: temperature 1, minimum .5, rate 1e-5 or 1e-4,
    every 500 or 1000 steps); the step is a buffer. learned: its logarithm is a parameter that descends the relaxed loss
    itself, the ordinary gradient (Jang et al.: a learned temperature acts as entropy regularisation). That takes no
    further evaluation of f. It is no variance objective: nothing keeps the temperature low or the bias small.
    """

    schedules: tuple[str, ...] = ("fixed", "annealed")

    def __init__(
        self,
        *args: Any,
        temperature: float = 0.5,
        schedule: str = "fixed",
        minimum: float = 0.5,
        rate: float = 1e-4,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        name = type(self).__name__
        if schedule not in self.schedules:
            raise OptionError(f"{name}: schedule={schedule!r} must be one of {', '.join(self.schedules)}")
        if schedule == "annealed" and temperature <= minimum:
            raise OptionError(
                f"{name}: schedule=annealed goes from temperature={temperature} down to minimum={minimum}: "
                "raise temperature (published: 1.0) or lower minimum"
            )
        self.schedule, self.start = schedule, temperature
        self.minimum, self.rate = minimum, rate
        if schedule == "learned":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        if schedule == "annealed":
            self.count_steps()

    @property
    def temperature(self) -> Tensor | float:
        """The temperature lambda > 0 as it stands."""
        if self.schedule == "learned":
            return self.log_temperature.exp()
        if self.schedule == "annealed":
            return self.exponential(self.start, -self.rate).clamp(min=self.minimum)
        return self.start

    def softened(self, z: Tensor) -> Tensor:
        """Return sigma_lambda(z) at the temperature as it stands."""
        temperature = self.temperature
        return self.family.relax(z, temperature.to(z.dtype) if isinstance(temperature, Tensor) else temperature)

    def scalars(self, values: Tensor) -> dict[str, Tensor]:
        """Return the temperature where it moves, and the relaxed loss where that trains it."""
        scalars = super().scalars(values)
        return scalars | {"relaxed_loss": values.mean()} if self.schedule == "learned" else scalars

    def tuning_loss(self, out: Output) -> Tensor:
        """Return the mean of f at the relaxed samples where the temperature is learned, else zero."""
        return out.aux["relaxed_loss"] if self.schedule == "learned" else super().tuning_loss(out)


class Concrete(Tempered):
    """Concrete / Gumbel-Softmax (Maddison et al. 2017, Jang et al. 2017; RELAX draft, eq. 4)."""

    schedules = ("fixed", "annealed", "learned")
    density = True

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the relaxed sample sigma_lambda(z)."""
        return self.softened(self.family.path(logits, noise["u"]))


class StraightThroughGumbel(Tempered):
    """Straight-through Gumbel-Softmax (Jang et al. 2017): hard forward, sigma_lambda(z) backward."""

    needs = "gradient"

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample H(z) in value, with the slope of sigma_lambda(z)."""
        z = self.family.path(logits, noise["u"])
        return hard_with_slope(self.family.hard(z), self.softened(z))


class StraightThrough(Tempered):
    """Straight-through (Bengio et al. 2013): the hard sample forward, the mean's derivative backward.

    Of k items the derivative is not the mean's, which `SIMPLE` takes, but that of the relaxation at the logits. With a
    ``temperature`` other than 1 the derivative of the mean of logits / temperature; annealed, the slope is
    sharpened as by Chung et al. (2017), with the sample left as it is. (This is Decoupled ST, Shah et al. 2024, at
    forward temperature 1; another one would sample from another distribution.)
    """

    needs = "gradient"

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any):
        super().__init__(*args, temperature=temperature, **kwargs)

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope of the mean."""
        return hard_with_slope(self.family.sample(logits, noise["u"]), self.softened(logits))


class GumbelRao(Tempered):
    """Gumbel-Rao, GR-MCK (Paulus et al. 2021): straight-through Gumbel-Softmax with an averaged slope.

    The average is over ``draws`` = K of z given the hard sample. The value of z is drawn from p(z | b), but its slope
    is that of the unconditional path: only so is the expectation that of `StraightThroughGumbel`, of which this is a
    Rao-Blackwellisation. (The paper says that the derivative is total, through the conditional draw too; enumeration
    disagrees.)
    """

    needs = "gradient"

    def __init__(self, *args: Any, draws: int = 10, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.draws = draws

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one uniform for the sample, and one for each draw of z given it."""
        return {"u": (n, *self.event_shape), "v": (self.draws, n, *self.event_shape)}

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return H(z) in value, with the mean slope of sigma_lambda over draws of p(z | b)."""
        family = self.family
        path = family.path(logits, noise["u"])
        b = family.hard(path.detach())
        drawn = family.conditional_path(logits.detach(), b, noise["v"])
        soft = self.softened(path + (drawn - path.detach()))
        return hard_with_slope(b, soft.mean(0))


class ReinMax(Pathwise):
    """ReinMax (Liu et al. 2023): hard forward, 2 J((p_lambda + b) / 2) - J(p) / 2 backward.

    J(p) = diag(p) - p p' is the slope of the softmax at p, and p_lambda the mean of logits / temperature. It is Heun's
    method where straight-through is Euler's: at temperature 1 it is exact, and so unbiased, for a quadratic f. A
    Bernoulli variable is the categorical one with logits (l, 0).
    """

    needs = "gradient"

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.temperature = temperature
        self.second_order = temperature == 1

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope that the class describes."""
        family = self.family
        fixed = logits.detach()
        b = family.sample(fixed, noise["u"])
        between = (family.relax(fixed, self.temperature) + b) / 2
        step = logits - fixed
        return b + 2 * self._slope(between, step) - self._slope(family.mean(fixed), step) / 2

    def _slope(self, p: Tensor, step: Tensor) -> Tensor:
        """Return J(p) times step."""
        if self.family.name == "bernoulli":
            return p * (1 - p) * step
        return slope(p, step)


def slope(p: Tensor, step: Tensor) -> Tensor:
    """Return J(p) step with J(p) = diag(p) - p p', the slope of a softmax with values p."""
    return p * (step - (p * step).sum(-1, keepdim=True))


class GST(Tempered):
    """Gapped straight-through (Fan et al. 2022): hard forward, softmax((logits + m1 - m2) / temperature) backward.

    m1 and m2 are constants that raise the sampled category to the largest logit and lower the others to at least
    ``gap`` below it.
    """

    needs = "gradient"

    def __init__(self, *args: Any, gap: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gap = gap

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope of the softmax of the shifted logits."""
        fixed = logits.detach()
        b = self.family.sample(fixed, noise["u"])
        below = fixed.amax(-1, keepdim=True) - fixed
        shift = b * below - (1 - b) * (self.gap - below).clamp(min=0)
        return hard_with_slope(b, self.softened(logits + shift))


class Reparameterization(Pathwise):
    """The reparameterisation trick (Kingma & Welling 2014; RELAX draft, eq. 3), unbiased: b = mean + std x normal."""

    unbiased = True
    needs = "gradient"

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the sample along its path, mean + std x normal."""
        return self.family.path(logits, noise["u"])
