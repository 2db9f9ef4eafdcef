"""Straight-through estimators of second order: exact where f is quadratic, and ReinMax's relatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relax_exp.distributions import FAMILIES
from relax_exp.errors import OptionError
from relax_exp.estimators.base import Noise
from relax_exp.estimators.pathwise import Pathwise, ReinMax, Stepped, hard_with_slope, slope

# torch does not annotate it.
solve: Callable[[Tensor, Tensor], Tensor] = torch.linalg.solve  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class RaoSlope(ReinMax):
    """The base of `ReinMaxRao` and `ReinMaxCV`, with Gumbel-Rao's slope at (p + b) / 2. Two classes stand for a bit."""

    def __init__(self, *args: Any, temperature: float = 1.0, draws: int = 10, **kwargs: Any):
        super().__init__(*args, temperature=temperature, **kwargs)
        self.draws, self.second_order = draws, False

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one uniform for the sample, and one for each draw of z given it."""
        shape = self.event_shape if self.family.name == "categorical" else (*self.event_shape, 2)
        return {"u": (n, *self.event_shape), "v": (self.draws, n, *shape)}

    def rao_slope(self, log_m: Tensor, b: Tensor, v: Tensor, step: Tensor) -> Tensor:
        """Return Gumbel-Rao's slope times step.

        It is the softmax's slope, over the temperature, averaged over draws of z given b, with logits log m.
        """
        family = FAMILIES["categorical"]
        s = family.relax(family.conditional_path(log_m, b, v), self.temperature)
        return slope(s, step).mean(0) / self.temperature

    def combine(self, p: Tensor, tempered: Tensor, b: Tensor, v: Tensor, step: Tensor) -> Tensor:
        """Return the slope of the stand-in times step, all of it categorical, ``(N, D, C)``."""
        raise NotImplementedError(f"{type(self).__name__} does not implement combine")

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope that the class describes."""
        fixed = logits.detach()
        b, step = self.family.sample(fixed, noise["u"]), logits - fixed
        if self.family.name == "categorical":
            p, tempered = fixed.softmax(-1), (fixed / self.temperature).softmax(-1)
            return b + self.combine(p, tempered, b, noise["v"], step)
        pair = torch.stack([fixed, torch.zeros_like(fixed)], -1)
        p, tempered = pair.softmax(-1), (pair / self.temperature).softmax(-1)
        both = torch.stack([b, 1 - b], -1), noise["v"], torch.stack([step, torch.zeros_like(step)], -1)
        return b + self.combine(p, tempered, *both)[..., 0]


class ReinMaxRao(RaoSlope):
    """ReinMax-Rao (Wang & Bui 2026, arXiv 2603.08257): `ReinMax` with Gumbel-Rao in its first term.

        2 GR(log m, b) - J(p) / 2,    m = (p + b) / 2,

    GR the softmax's slope over the temperature, averaged over ``draws`` of z = log m + Gumbel given that b is the
    largest. At temperature 1 and with b drawn from m, which it is not, GR would have the mean of J(m); it costs the
    exactness on quadratics for less variance. From the authors' public code ("reinmax_v3", 100 draws).
    """

    def combine(self, p: Tensor, tempered: Tensor, b: Tensor, v: Tensor, step: Tensor) -> Tensor:
        """Return 2 GR - J(p) / 2, times step."""
        return 2 * self.rao_slope(((p + b) / 2).log(), b, v, step) - slope(p, step) / 2


class ReinMaxCV(RaoSlope):
    """ReinMax-CV (Wang & Bui 2026, arXiv 2603.08257): `ReinMax` with the difference of two slopes as control variate.

        2 J((p_lambda + b) / 2) - J(p) / 2 - eta [J(m) / lambda - GR(log m, b)],    m = (p + b) / 2,

    GR as in `ReinMaxRao`. eta = 0 is ReinMax, eta = 2 at temperature 1 ReinMax-Rao. From the authors' public code. The
    two slopes do not have the same mean, so this is a bias traded for variance rather than a control variate.
    """

    def __init__(self, *args: Any, eta: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eta = eta

    def combine(self, p: Tensor, tempered: Tensor, b: Tensor, v: Tensor, step: Tensor) -> Tensor:
        """Return the slope of ReinMax less eta times the difference, times step."""
        m = (p + b) / 2
        reinmax = 2 * slope((tempered + b) / 2, step) - slope(p, step) / 2
        return reinmax - self.eta * (slope(m, step) / self.temperature - self.rao_slope(m.log(), b, v, step))


class ZGR(Pathwise):
    """ZGR, the limit of Gumbel-Rao at temperature zero (Shekhovtsov 2023): half straight-through, half score function.

        [J(p) + (b - p) (d log p(b) / d logits)'] / 2,

    so it takes no draws and no temperature (as in "Generalized and optimal straight-through estimators", AISTATS 2026).
    It is exact, and so unbiased, for a quadratic f. It is the same matrix as that of `ReinMax` at temperature 1,
    written without a point between p and b.
    """

    unbiased = False
    second_order = True
    needs = "gradient"

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope that the class describes."""
        b, log_p = self.family.sample(logits.detach(), noise["u"]), logits.log_softmax(-1)
        p = log_p.exp()
        return hard_with_slope(b, (p + (b - p.detach()) * (b * log_p).sum(-1, keepdim=True)) / 2)


class MVE(Stepped):
    """MVE, the minimum-variance estimator of second order, in closed form.

    ("Generalized and optimal straight-through estimators", AISTATS 2026.) Of all matrices S(b) for which df/db S(b) is
    exact for every linear f, with J = J(p) = diag(p) - p p' it takes those with the least

        E |S(b)|^2 + temperature / 2 sum_ix (p_x S_xi + p_i S_ix - [i = x] J_i)^2,

    where S_xi is row i of S(b) for the class x. The second term is zero where df/db S(b) is exact for every quadratic
    f, so that this temperature is a penalty's weight and rises where others fall. Temperature 0 would be
    straight-through, S = J. ``temperature=None`` is the limit at infinity: exact, and so unbiased, for a quadratic f.
    For the sampled class x and rows i,

        S_xx = (v_x + t J_x) / (1 + 2 t p_x),    S_xi = (v_i + t p_i v_i - t p_i v_x) / (1 + t p_i + t p_x),

    where A v = (1 + t p) / (1 + 2 t p) J and A is the Laplacian of the graph of all classes with weights
    t p_i p_j / (1 + t p_i + t p_j), plus sum_j p_j / (1 + t p_i + t p_j) on its diagonal: one solution of C equations
    for each variable. For bits the limit would be `ReinMax`.

    With ``growth`` the temperature rises, as temperature exp(growth step), where the step, a buffer, is rounded down to
    a multiple of ``anneal_every``. The paper goes from 1 to 10^6 in 500 epochs of 300 updates: 1, growth 9.23e-5, 300.
    In single precision the equations are singular from about 10^8 on; take the limit there.
    """

    unbiased = False
    needs = "gradient"

    def __init__(self, *args: Any, temperature: float | None = None, growth: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if temperature is None and growth:
            raise OptionError(f"MVE: growth={growth} is of a finite temperature: set temperature, or growth=0")
        self.start, self.growth = temperature, growth
        self.second_order = temperature is None
        if growth:
            self.count_steps()

    @property
    def temperature(self) -> Tensor | float | None:
        """The temperature as it stands."""
        return self.start if self.start is None or not self.growth else self.exponential(self.start, self.growth)

    def relax(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the hard sample in value, with the slope that the class describes."""
        fixed, temperature = logits.detach(), self.temperature
        b, log_p, step = self.family.sample(fixed, noise["u"]), fixed.log_softmax(-1), logits - fixed
        if temperature is None:
            return b + self._limit(b, log_p, step)
        return b + self._at(temperature, b, log_p.exp(), step)

    @staticmethod
    def _at(t: Tensor | float, b: Tensor, p: Tensor, step: Tensor) -> Tensor:
        """Return S(b) times step at temperature t."""
        t = t.to(p.dtype) if isinstance(t, Tensor) else t
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        shares = p.unsqueeze(-2) / (1 + t * (p.unsqueeze(-1) + p.unsqueeze(-2)))  # p_j over the pair's denominator
        weights = (1 - eye) * t * p.unsqueeze(-1) * shares
        matrix = torch.diag_embed(weights.sum(-1) + shares.sum(-1)) - weights
        along = slope(p, step)
        v = solve(matrix, ((1 + t * p) / (1 + 2 * t * p) * along).unsqueeze(-1)).squeeze(-1)
        of_x, p_x = (b * v).sum(-1, keepdim=True), (b * p).sum(-1, keepdim=True)
        return ((1 + t * p) * v - t * p * of_x + b * t * along) / (1 + t * (p + p_x))

    @staticmethod
    def _limit(b: Tensor, log_p: Tensor, step: Tensor) -> Tensor:
        """Return S(b) times step at infinity, computed in logarithms and scaled by p on both sides."""
        p, root = log_p.exp(), (log_p / 2).exp()
        apart = log_p.unsqueeze(-1) - log_p.unsqueeze(-2)
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        edges = (1 - eye) / (2 * torch.cosh(apart.abs().clamp(max=80) / 2))
        degrees = ((1 - eye) * torch.sigmoid(-apart)).sum(-1)
        # The constant vector, here the root of p, is the Laplacian's null space; the right side has no part in it.
        matrix = torch.diag_embed(degrees) - edges + root.unsqueeze(-1) * root.unsqueeze(-2)
        along = step - (p * step).sum(-1, keepdim=True)
        right = (root * along / 2).unsqueeze(-1)
        v = solve(matrix, right).squeeze(-1)  # times the root of p
        log_x = (b * log_p).sum(-1, keepdim=True)
        both = torch.logaddexp(log_p, log_x)
        of_x = (b * v).sum(-1, keepdim=True)
        other = (log_p / 2 - both).exp() * v - (log_p - log_x / 2 - both).exp() * of_x
        return torch.where(b > 0.5, along / 2, other)
