"""The VAE step the way a researcher writes it: eager PyTorch, modules, autograd.grad, two Adam optimisers.

`bench.py` times it beside ours; a test holds its gradients equal to ours. create_graph only where it is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relax_exp.distributions import logit_uniform
from relax_exp.tasks.vae import VAE


def log_prob(logits: Tensor, b: Tensor) -> Tensor:
    """log Bernoulli(b | logits), summed."""
    return (b * logits - F.softplus(logits)).sum(-1)


class PlainVAE:
    """One replica with the weights of a `VAE` task's ``model``; ``step(x, noise)`` does one update."""

    def __init__(self, task: VAE, model, name: str, lr: float = 1e-3, weight_decay: float = 0.0):
        vae, self.name, self.tied = task.hierarchy.vae, name, "0.v" not in task.noise_shapes()
        vae.load_state_dict(model.params, strict=False)
        self.encoder, self.decoder, self.prior = vae.encoder, vae.decoder, vae.prior
        self.mean, self.bias, self.depth = vae.mean, vae.pixel_bias, vae.depth
        self.layers, self.weight_decay = torch.nn.ModuleList(task.hierarchy.estimators), weight_decay
        self.drops_score = task.hierarchy.drops_score
        for layer, tuning in zip(self.layers, model.tuning, strict=True):
            layer.load_state_dict(tuning, strict=False)
        self.weights = [*self.encoder.parameters(), *self.decoder.parameters(), self.prior]
        self.tuning = list(self.layers.parameters())
        adam = {"lr": lr, "betas": task.betas}
        self.optimizers = [torch.optim.Adam(p, **adam) for p in (self.weights, self.tuning) if p]

    def encode(self, layer: int, below: Tensor) -> Tensor:
        """Logits of a layer."""
        return self.encoder[layer](below - self.mean if layer == 0 else 2 * below - 1)

    def decode(self, layer: int, b: Tensor) -> Tensor:
        """Logits of what is below a layer."""
        return self.decoder[layer](2 * b - 1) + (self.bias if layer == 0 else 0)

    def run(self, x: Tensor, sample) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """-ELBO ``(..., N)``, logits and samples, with ``sample(layer, logits)``."""
        below, f, logits, samples = x, 0.0, [], []
        for layer in range(self.depth):
            logits.append(self.encode(layer, below))
            samples.append(sample(layer, logits[-1]))
            of = logits[-1].detach() if self.drops_score else logits[-1]
            f = f + log_prob(of, samples[-1]) - log_prob(self.decode(layer, samples[-1]), below)
            below = samples[-1]
        return f - log_prob(self.prior, below), logits, samples

    def gradients(self, x: Tensor, noise: dict[str, Tensor]) -> None:
        """Leaves .grad in all weights and tuning parameters."""
        u = [logit_uniform(noise[f"{i}.u"]) for i in range(self.depth)]

        def hard(layer, logits):
            return (logits + u[layer] > 0).to(logits.dtype)

        for parameter in (*self.weights, *self.tuning):
            parameter.grad = None
        if self.name == "concrete":
            f, _, _ = self.run(x, lambda i, logits: torch.sigmoid((logits + u[i]) / 0.5))
            f.mean().backward()
            with torch.no_grad():
                self.run(x, hard)  # the discrete bound, which is what is reported
            return
        f, logits, samples = self.run(x, hard)
        value, n, total = f.detach(), x.shape[0], 0.0
        grads = []
        for i in range(self.depth):
            score = samples[i] - torch.sigmoid(logits[i].detach())
            if self.name == "reinforce":
                grads.append(value.unsqueeze(-1) * score)
            elif self.name == "rloo":
                k = len(value)
                signal = (value - value.mean(0)) * k / (k - 1)
                gradient = signal.unsqueeze(-1) * score / k
                grads.append(gradient.sum(0) if i == 0 else gradient)
            elif self.name == "disarm":
                grads.append(self.disarm(i, x, value, logits, samples, u, hard))
            else:
                grads.append(self.control(i, x, value, logits, samples, u, noise))
                total = total + (grads[-1] / n).square().mean()
        surrogate = f.mean() + sum((a * g.detach()).sum() for a, g in zip(logits, grads, strict=True)) / n
        surrogate.backward()
        if self.tuning:
            if self.name == "relax":
                weights = [p for layer in self.layers for p in layer.network.parameters()]
                total = total + self.weight_decay * 0.5 * sum(p.square().sum() for p in weights)
            for parameter, gradient in zip(self.tuning, torch.autograd.grad(total, self.tuning), strict=True):
                parameter.grad = gradient

    def above(self, i: int, s: Tensor, a: Tensor, x: Tensor, logits, samples, sample) -> Tensor:
        """-ELBO with s in the place of sample i, differentiable in s and in that layer's logits a."""
        below = samples[i - 1] if i else x
        f = log_prob(a, s) - log_prob(self.decode(i, s), below)
        for k in range(i):
            log_p = log_prob(self.decode(k, samples[k]), samples[k - 1] if k else x)
            f = f + (log_prob(logits[k], samples[k]) - log_p).detach()
        for k in range(i + 1, self.depth):
            upper = self.encode(k, s)
            nxt = sample(k, upper)
            f = f + log_prob(upper, nxt) - log_prob(self.decode(k, nxt), s)
            s = nxt
        return f - log_prob(self.prior, s)

    @torch.no_grad()
    def disarm(self, i, x, value, logits, samples, u, hard) -> Tensor:
        """DisARM at layer i."""
        opposite = (logits[i] > u[i]).to(value.dtype)
        other = self.above(i, opposite, logits[i], x, logits, samples, hard)
        weight = (samples[i] - opposite) * torch.sigmoid(logits[i].abs()) / 2
        return (value - other).unsqueeze(-1) * weight

    def control(self, i, x, value, logits, samples, u, noise) -> Tensor:
        """REBAR or RELAX at layer i."""
        layer, a, b = self.layers[i], logits[i].detach().requires_grad_(), samples[i]
        temperatures = [it.log_temperature.exp() for it in self.layers]
        theta, sign = torch.sigmoid(a), 2 * b - 1
        z = a + u[i]
        if self.tied:  # odds of the v for which z~ has the value of z
            odds = (torch.expm1(z.abs()) / (1 + torch.exp(sign * a))).detach()
        else:
            odds = logit_uniform(noise[f"{i}.v"]).exp()
        z_tilde = sign * torch.log1p(odds * (1 + torch.exp(sign * a)))
        context = torch.cat([x - self.mean, *(2 * s - 1 for s in samples[:i])], -1)

        def c(z):
            def soft(k, upper):
                return torch.sigmoid((upper + u[k]) / temperatures[k])

            s = torch.sigmoid(z / temperatures[i])
            out = layer.eta * self.above(i, s, a, x, logits, samples, soft)
            return out + layer.network(z, layer.network.features(context)) if self.name == "relax" else out

        c_z, c_tilde = c(z), c(z_tilde)
        (d_z,) = torch.autograd.grad(c_z.sum(), a, create_graph=True)
        (d_tilde,) = torch.autograd.grad(c_tilde.sum(), a, create_graph=True)
        return (value - c_tilde).unsqueeze(-1) * (b - theta.detach()) + d_z - d_tilde

    def step(self, x: Tensor, noise: dict[str, Tensor]) -> None:
        """One update."""
        self.gradients(x, noise)
        for optimizer in self.optimizers:
            optimizer.step()
