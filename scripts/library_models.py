"""The same small binary VAE, trained through several libraries, for `bench_library.py`.

Run as a script, by an interpreter that has relax-exp and the library named, it trains one of them and prints JSON:
``python library_models.py storchastic DATA.pt STEPS SEED``. ``relax-exp`` alone is enough for `OWN`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, LATENTS, RATE = 24, 32, 3e-3
Step = Callable[[Tensor], None]


class VAE(nn.Module):
    """q(b | x) and p(x | b) linear, p(b) learned."""

    def __init__(self, mean: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.encoder, self.decoder = nn.Linear(len(mean), LATENTS), nn.Linear(LATENTS, len(mean))
        self.prior = nn.Parameter(torch.zeros(LATENTS))
        with torch.no_grad():
            self.decoder.bias.copy_(torch.logit(mean.clamp(0.01, 0.99)))

    def encode(self, x: Tensor) -> Tensor:
        """Logits of q."""
        return self.encoder(x - self.mean)

    def negative_elbo(self, b: Tensor, x: Tensor, logits: Tensor) -> Tensor:
        """log q(b | x) - log p(x, b), one number a row."""
        return bce(self.decoder(b), x) + bce(self.prior, b) - bce(logits, b)


def bce(logits: Tensor, b: Tensor) -> Tensor:
    """-log p(b), summed over the last dimension."""
    return (F.softplus(logits) - b * logits).sum(-1)


def optimizer(*modules: nn.Module) -> torch.optim.Optimizer:
    """Adam for all of them."""
    return torch.optim.Adam([p for module in modules for p in module.parameters()], lr=RATE)


def ordinary(vae: VAE, loss: Callable[[Tensor], Tensor], *modules: nn.Module) -> Step:
    """A step of whatever has a loss for ``backward``."""
    adam = optimizer(vae, *modules)

    def step(x: Tensor) -> None:
        adam.zero_grad()
        loss(x).backward()
        adam.step()

    return step


def latent(name: str, **options) -> Callable[[VAE], Step]:
    """Ours."""

    def make(vae: VAE) -> Step:
        from relax_exp import Latent

        z = Latent(name, "bernoulli", LATENTS, context_shape=len(vae.mean), **options)

        def loss(x: Tensor) -> Tensor:
            logits = vae.encode(x)
            inside = logits if name == "vimco" else logits.detach()
            return z(logits, vae.negative_elbo, x, inside, context=x - vae.mean).loss.mean()

        return ordinary(vae, loss, z)

    return make


def gumbel_softmax(vae: VAE) -> Step:
    """torch's straight-through trick, two classes for each latent, at its default temperature."""

    def loss(x: Tensor) -> Tensor:
        logits = vae.encode(x)
        b = F.gumbel_softmax(torch.stack([logits, torch.zeros_like(logits)], -1), hard=True)[..., 0]
        return vae.negative_elbo(b, x, logits).mean()

    return ordinary(vae, loss)


def torch_reinforce(vae: VAE) -> Step:
    """The score function as the documentation of torch.distributions has it."""

    def loss(x: Tensor) -> Tensor:
        q = torch.distributions.Bernoulli(logits=vae.encode(x))
        b = q.sample()
        f = vae.negative_elbo(b, x, q.logits)
        return (f + f.detach() * q.log_prob(b).sum(-1)).mean()

    return ordinary(vae, loss)


def pyro_svi(vae: VAE) -> Step:
    """Pyro's TraceGraph_ELBO with its decaying average as baseline, for the minibatch mean."""
    import pyro
    from pyro import distributions as dist
    from pyro import infer, poutine

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=vae.prior.expand(len(x), -1)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=vae.decoder(b)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            q = dist.Bernoulli(logits=vae.encode(x)).to_event(1)
            pyro.sample("b", q, infer={"baseline": {"use_decaying_avg_baseline": True}})

    pyro.clear_param_store()
    elbo = infer.TraceGraph_ELBO()
    model, guide, adam = poutine.scale(model, 1 / BATCH), poutine.scale(guide, 1 / BATCH), optimizer(vae)

    def step(x: Tensor) -> None:
        adam.zero_grad()
        elbo.loss_and_grads(model, guide, x)
        adam.step()

    return step


def storchastic_rebar(vae: VAE) -> Step:
    """storchastic's REBAR, as `bench_storchastic.py` calls it."""
    import storch
    from bench_storchastic import METHODS, sample

    method = METHODS["rebar"](LATENTS)
    adam = optimizer(vae, method)

    @storch.deterministic
    def encode(x):
        return vae.encode(x)

    @storch.deterministic
    def negative_elbo(x, logits, b):
        return vae.negative_elbo(b, x, logits)

    def step(x: Tensor) -> None:
        storch.reset()
        adam.zero_grad()
        rows = storch.denote_independent(x, 0, "data")
        logits = encode(rows)
        storch.add_cost(negative_elbo(rows, logits, sample("rebar", method, logits)), "f")
        storch.backward()
        adam.step()

    return step


OWN: dict[str, Callable[[VAE], Step]] = {
    "Latent relax": latent("relax"),
    "Latent rebar": latent("rebar"),
    "Latent disarm": latent("disarm"),
    "Latent rloo": latent("rloo"),
    "F.gumbel_softmax(hard=True)": gumbel_softmax,
    "torch.distributions + REINFORCE": torch_reinforce,
}
FOREIGN: dict[str, tuple[str, Callable[[VAE], Step]]] = {
    "pyro": ("Pyro TraceGraph_ELBO", pyro_svi),
    "storchastic": ("storchastic REBAR", storchastic_rebar),
}


@torch.no_grad()
def bound(vae: VAE, x: Tensor, samples: int = 100) -> float:
    """The mean one-sample ELBO of the discrete model in nats an image, over ``samples`` draws."""
    generator = torch.Generator().manual_seed(0)
    logits = vae.encode(x)
    draws = torch.rand(samples, *logits.shape, generator=generator) < torch.sigmoid(logits)
    return float(torch.stack([-vae.negative_elbo(b.float(), x, logits).mean() for b in draws]).mean())


def train(make: Callable[[VAE], Step], data: dict[str, Tensor], steps: int, seed: int) -> dict[str, float]:
    """Final bounds, and milliseconds of processor time a step (the second half of the steps)."""
    torch.manual_seed(seed)
    vae = VAE(data["train"].mean(0))
    order = torch.Generator().manual_seed(seed)
    step, half = make(vae), steps // 2
    for i in range(steps):
        if i == half:
            begun = time.process_time()
        step(data["train"][torch.randint(len(data["train"]), (BATCH,), generator=order)])
    taken = time.process_time() - begun
    return {
        "train": bound(vae, data["train"]),
        "valid": bound(vae, data["valid"]),
        "ms": 1e3 * taken / (steps - half),
    }


def proved(draws: int = 3000) -> str:
    """What `relax_exp.testing` says of storchastic's REBAR."""
    import storch
    from bench_storchastic import METHODS, sample

    from relax_exp.testing import bias

    method = METHODS["rebar"](3)

    def gradient(logits: Tensor, f: Callable[[Tensor], Tensor], generator) -> Tensor:
        storch.reset()
        logits = logits.clone().requires_grad_()
        b = sample("rebar", method, logits)
        storch.add_cost(storch.deterministic(f)(b), "f")
        storch.backward()
        return logits.grad

    torch.manual_seed(0)
    logits, w = torch.tensor([2.0, -0.3, 1.0]), torch.tensor([1.0, 2.0, -1.0])
    return str(bias(gradient, logits, lambda b: (b * w).sum(-1), draws=draws))


def main() -> None:
    """Train one foreign model."""
    library, path, steps, seed = sys.argv[1:]
    torch.set_num_threads(1)
    data = torch.load(path, weights_only=True)
    row = train(FOREIGN[library][1], data, int(steps), int(seed))
    if library == "storchastic" and seed == "0":
        row["proof"] = proved()
    print(json.dumps(row))


if __name__ == "__main__":
    main()
