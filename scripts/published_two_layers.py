"""Is the published gradient of REBAR with two layers right? Its code written out for a model small enough to enumerate.

    python scripts/published_two_layers.py

In it (``quadratic=True``, its default) the control variate of layer 1 has layer 2 soft as well, in c(z) by the noise u
and in c(z~) by v, whose path is conditional on the bits of layer 2. That c(z~) subtracts a derivative with respect to
layer 2's encoder, and no score of layer 2 puts it back. With u in both, as `relax_exp.tasks.layered_gradients` has it,
every parameter agrees with enumeration.
"""

from __future__ import annotations

import itertools
import sys

import torch
from tabulate import tabulate
from torch import Tensor

from relax_exp.distributions import Bernoulli, logit_uniform

TEMPERATURE, CHUNK, CHUNKS = 0.5, 4000, 100
SHAPES = {"q1": (2, 3), "q1_bias": (2,), "q2": (2, 2), "q2_bias": (2,)}
SHAPES |= {"p1": (3, 2), "p1_bias": (3,), "p2": (2, 2), "p2_bias": (2,), "prior": (2,)}


class Model:
    """Two layers of two bits over three pixels, linear maps, weights from N(0, 1)."""

    def __init__(self, generator: torch.Generator):
        drawn = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in SHAPES.items()}
        self.params = {k: v.requires_grad_() for k, v in drawn.items()}
        self.x = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    def through(self, name: str, b: Tensor) -> Tensor:
        """An affine map of 2b - 1."""
        return (2 * b - 1) @ self.params[name].T + self.params[f"{name}_bias"]

    def terms(self, logits: list[Tensor], b: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """log p(x, b), and log q of both layers."""
        log_p = Bernoulli.log_prob(self.through("p1", b[0]), self.x) + Bernoulli.log_prob(self.params["prior"], b[1])
        log_q = [Bernoulli.log_prob(a, s) for a, s in zip(logits, b, strict=True)]
        return log_p + Bernoulli.log_prob(self.through("p2", b[1]), b[0]), log_q

    def gradient(self, loss: Tensor) -> dict[str, Tensor]:
        """Of all parameters."""
        return dict(zip(self.params, torch.autograd.grad(loss, list(self.params.values())), strict=True))


def exact(model: Model) -> dict[str, Tensor]:
    """The gradient of -ELBO by enumeration."""
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    b = [states[:, :2], states[:, 2:]]
    log_p, log_q = model.terms([model.through("q1", model.x).expand_as(b[0]), model.through("q2", b[0])], b)
    return model.gradient((sum(log_q).exp() * (sum(log_q) - log_p)).sum())


def tied(logits: Tensor, u: Tensor) -> Tensor:
    """v: u in value, with the derivative of the path of p(z | b)."""
    edge = torch.sigmoid(-logits)
    above = ((u - edge) / (1 - edge)).detach() * (1 - edge) + edge
    v = torch.where(u > edge, above, (u / edge).detach() * edge)
    return v + (u - v).detach()


def rebar(model: Model, generator: torch.Generator, published: bool) -> dict[str, Tensor]:
    """The mean of ``CHUNK`` draws of the gradient, eta = 1."""
    u = torch.rand((2, CHUNK, 2), generator=generator, dtype=torch.float64)
    hard = lambda a, u: (a + logit_uniform(u) > 0).to(a.dtype)  # noqa: E731
    soft = lambda a, u: torch.sigmoid((a + logit_uniform(u)) / TEMPERATURE)  # noqa: E731
    first = model.through("q1", model.x).expand(CHUNK, 2)
    lower = hard(first, u[0])
    second = model.through("q2", lower)
    log_p, log_q = model.terms([first, second], [lower, hard(second, u[1])])
    v = [tied(first, u[0]), tied(second, u[1])]

    def control(layer: int, w, upper) -> Tensor:
        """The ELBO with this layer, and those above it, soft."""
        s = [soft(first, w[0]), None] if layer == 0 else [lower, None]
        logits = [first, model.through("q2", s[0])]
        s[1] = soft(logits[1], upper)
        log_p, log_q = model.terms(logits, s)
        return log_p - sum(log_q)

    loss = -(log_p - sum(log_q)).detach() * sum(log_q) - log_p
    for layer in (0, 1):
        same = layer == 0 and not published
        c, c_tilde = control(layer, u, u[1]), control(layer, v, u[1] if same else v[1])
        loss = loss + c_tilde.detach() * log_q[layer] - c + c_tilde
    return model.gradient(loss.mean())


def main() -> int:
    """Print the largest |z| of every parameter, and how long the mean is beside the exact gradient."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = Model(generator)
    truth, rows = exact(model), []
    for published in (True, False):
        drawn = [rebar(model, generator, published) for _ in range(CHUNKS)]
        for name, expected in truth.items():
            each = torch.stack([d[name] for d in drawn])
            mean, spread = each.mean(0), each.std(0) / CHUNKS**0.5
            z = ((mean - expected) / spread.clamp(min=1e-12)).abs().max()
            how = "as published" if published else "u above in both"
            rows.append([how, name, f"{z:.1f}", f"{mean.norm() / expected.norm():.2f}"])
    print(tabulate(rows, ["control variate", "parameters", "largest |z|", "length / exact"], "pipe"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
