"""RELAX on its toy problem, from top to bottom in plain PyTorch: `python examples/relax_by_hand.py`.

The problem is to minimise E[(b - t)^2] over the logit l of b ~ Bernoulli(theta), theta = sigmoid(l), with t = 0.499.
The loss is almost the same for b = 0 and b = 1, so the gradient theta (1 - theta) (1 - 2 t) is tiny beside the noise
of REINFORCE, which is f(b) d log p(b) / d l. RELAX subtracts a learned control variate c(z) of the relaxed variable z
whose sign is b, and adds its expectation back through two paths that can be differentiated:

    [f(b) - c(z~)] d log p(b) / d l + d c(z) / d l - d c(z~) / d l,    z ~ p(z | l),  b = [z > 0],  z~ ~ p(z | b, l)

Nothing is asked of f but its value at b. (Grathwohl et al. 2018, "Backpropagation through the void", section 3.)
The function `library` compares this file with the library, which does the same for all families of variables and for
many replicas at once, compiled.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from relax_exp import estimators  # for `library` alone

TARGET = 0.499


def f(b: Tensor) -> Tensor:
    """The loss of each row: ``(N, 1)`` -> ``(N,)``. It stands for a black box, and is never differentiated."""
    return (b - TARGET).square().mean(-1)


class ControlVariate(nn.Module):
    """c(z) = r(2 sigmoid(z / temperature) - 1) with a small network r; the temperature is learned too, as its log."""

    def __init__(self, width: int = 10):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(0.5).log())
        self.network = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, z: Tensor) -> Tensor:
        """The control variate of each row: ``(N, 1)`` -> ``(N,)``."""
        squashed = 2 * torch.sigmoid(z / self.log_temperature.exp()) - 1
        return self.network(squashed).squeeze(-1)


def relax(logits: Tensor, c: ControlVariate, u: Tensor, v: Tensor) -> Tensor:
    """One draw of RELAX's gradient for each row.

    Args: ``logits``, ``(N, 1)``; ``u`` and ``v``, independent uniform noise of the same shape.
    Returns: an estimate of d E[f(b)] / d logits, ``(N, 1)``, which can be differentiated in the parameters of ``c``.
    """
    logits = logits.detach().requires_grad_()
    # z is logistic noise around the logits, so that [z > 0] is a draw of b.
    z = logits + torch.logit(u)
    b = (z > 0).to(z.dtype)
    # z~ is a second draw, given b. Its sign is that of z, and it too is differentiable in the logits.
    sign = 2 * b - 1
    z_tilde = sign * softplus(torch.logit(v) + softplus(sign * logits))
    c_z, c_tilde = c(z), c(z_tilde)
    # create_graph, because the variance of the result is differentiated once more, in the parameters of c.
    (through_z,) = torch.autograd.grad(c_z.sum(), logits, create_graph=True)
    (through_z_tilde,) = torch.autograd.grad(c_tilde.sum(), logits, create_graph=True)
    score = b - torch.sigmoid(logits.detach())  # d log p(b) / d logits
    return (f(b) - c_tilde).unsqueeze(-1) * score + through_z - through_z_tilde


def reinforce(logits: Tensor, u: Tensor) -> Tensor:
    """One draw of REINFORCE's gradient for each row, ``(N, 1)``, to compare with."""
    b = (logits + torch.logit(u) > 0).to(logits.dtype)
    return f(b).unsqueeze(-1) * (b - torch.sigmoid(logits))


def train(steps: int, seed: int = 0, lr: float = 0.01) -> tuple[Tensor, ControlVariate]:
    """The logit, ``(1,)``, and the control variate after ``steps`` updates of one draw each."""
    torch.manual_seed(seed)
    logit, c = torch.zeros(1), ControlVariate()
    theta_step, c_step = torch.optim.Adam([logit], lr), torch.optim.Adam(c.parameters(), lr)
    for _ in range(steps):
        u, v = torch.rand(2, 1, 1)
        gradient = relax(logit.unsqueeze(0), c, u, v)
        # The gradient is unbiased whatever c is, so its square differs from its variance by a constant only.
        variance = gradient.square().mean()
        c_step.zero_grad()
        variance.backward()
        c_step.step()
        logit.grad = gradient.detach().mean(0)
        theta_step.step()
    return logit, c


def library(logits: Tensor, c: ControlVariate, u: Tensor, v: Tensor) -> Tensor:
    """The same draw as `relax`, from the library's estimator with the parameters of ``c``."""
    relax = estimators.build("relax", event_shape=(1,), surrogate="network", depth=1, width=len(c.network[0].bias))
    relax.load_state_dict(dict(zip(relax.state_dict(), c.state_dict().values(), strict=True)))
    return relax(logits, f, noise={"u": u, "v": v}).grad


def main(steps: int = 3000, draws: int = 100_000) -> None:
    """Train, then compare both estimators with the exact gradient, and this file with the library."""
    logit, c = train(steps)
    theta = torch.sigmoid(logit).item()
    exact = theta * (1 - theta) * (1 - 2 * TARGET)
    print(f"theta after {steps} steps: {theta:.3f} (0.5 at the start, 0 is best)\nexact gradient: {exact:.6f}")
    logits, (u, v) = logit.expand(draws, 1), torch.rand(2, draws, 1)
    ours = relax(logits, c, u, v).detach()
    for name, gradient in (("REINFORCE", reinforce(logits, u)), ("RELAX", ours)):
        error = gradient.std().item() / draws**0.5
        print(f"{name}: mean {gradient.mean():.6f} ± {error:.6f}, variance of one draw {gradient.var():.2e}")
    torch.testing.assert_close(ours, library(logits, c, u, v).detach())
    print(f"The library's estimator gives the same {draws} gradients.")


if __name__ == "__main__":
    main()
