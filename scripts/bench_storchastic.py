"""A training step of the one-layer linear binary VAE in storchastic's own API; for an interpreter that has the package.

`bench.py --storchastic PYTHON` runs it and puts our times beside it. Prints one JSON object by estimator: milliseconds
a step (median, min, max) and ``gradient``, or ``error`` where the step fails. ``gradient`` says whether storchastic's
gradient has the right mean in a problem of three bits. rloo4 is ScoreFunction with four samples and the leave-one-out
baseline, which storchastic calls batch_average. The surrogate of relax has two layers of 200 units, as ours, but sees
z alone; c is eta (f at the relaxed sample + surrogate), which storchastic calls RELAX(rebar=True).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import storch
import torch
from storch.method import ARM, REBAR, RELAX, DisARM, GumbelSoftmax, Method, ScoreFunction
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.distributions.utils import clamp_probs
from torch.nn.functional import softplus

PIXELS, LATENTS, BATCH, WIDTH = 784, 200, 24, 200
REPEATS, SECONDS = 7, 0.4  # as in bench.py
DRAWS, LIMIT = 3000, 5  # gradients averaged in the check, and standard errors that are too far
RESAMPLED = "conditional_gumbel_rsample has log p + log1p(p) for the logit"
REASONS = {
    "rebar": RESAMPLED,
    "relax": RESAMPLED,
    "arm": "log q is not summed, the direct gradient counts once a latent",
}


def surrogate(latents: int) -> nn.Module:
    """The free part of RELAX's control variate, ``(..., latents)`` -> ``(..., 1)``: the 1 is expected."""
    hidden = nn.Linear(latents, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1))


METHODS: dict[str, Callable[[int], Method]] = {
    "reinforce": lambda latents: ScoreFunction("z"),
    "concrete": lambda latents: GumbelSoftmax("z", initial_temperature=0.5, annealing_rate=0.0),
    "rebar": lambda latents: REBAR("z"),
    "relax": lambda latents: RELAX("z", c_phi=surrogate(latents), rebar=True),
    "rloo4": lambda latents: ScoreFunction("z", n_samples=4, baseline_factory="batch_average"),
    "arm": lambda latents: ARM("z"),
    "disarm": lambda latents: DisARM("z"),
}


def posterior(name: str, logits) -> Bernoulli:
    """REBAR and RELAX tune themselves by the gradient in ``probs``; the others are faster with logits."""
    if name in ("rebar", "relax"):
        return Bernoulli(probs=clamp_probs(torch.sigmoid(logits)))
    return Bernoulli(logits=logits)


def sample(name: str, method: Method, logits):
    """Draws of the latents as floats; DisARM's are booleans."""
    b = method(posterior(name, logits))
    return b.float() if b.dtype == torch.bool else b


def log_prob(logits: Tensor, b: Tensor) -> Tensor:
    """log Bernoulli(b | logits), summed."""
    return (b * logits - softplus(logits)).sum(-1)


def stepper(name: str, data: Tensor) -> Callable[[], None]:
    """One training step, noise and data included."""
    mean = data.mean(0)
    bias = torch.logit(mean.clamp(0.001, 0.999))
    encoder, decoder, prior = nn.Linear(PIXELS, LATENTS), nn.Linear(LATENTS, PIXELS), torch.zeros(LATENTS)
    method, prior = METHODS[name](LATENTS), prior.requires_grad_()
    weights = [*encoder.parameters(), *decoder.parameters(), prior, *method.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3, betas=(0.9, 0.99999))

    @storch.deterministic
    def encode(x):
        return encoder(x - mean)

    @storch.deterministic
    def negative_elbo(x, logits, b):
        return log_prob(logits, b) - log_prob(prior, b) - log_prob(decoder(2 * b - 1) + bias, x)

    def call() -> None:
        storch.reset()
        optimizer.zero_grad()
        x = storch.denote_independent(data[torch.randint(len(data), (BATCH,))], 0, "data")
        logits = encode(x)
        storch.add_cost(negative_elbo(x, logits, sample(name, method, logits)), "f")
        storch.backward()
        optimizer.step()

    return call


def deviation(name: str) -> float:
    """Largest deviation of the mean gradient of E[s w . b] in the logits and in s, in standard errors."""
    logits, s, w = torch.tensor([2.0, -0.3, 1.0]), torch.ones(()), torch.tensor([1.0, 2.0, -1.0])
    p = torch.sigmoid(logits)
    exact = torch.cat([w * p * (1 - p), (w * p).sum()[None]])
    method, parameters, draws = METHODS[name](3), [logits.requires_grad_(), s.requires_grad_()], []
    for _ in range(DRAWS):
        storch.reset()
        logits.grad = s.grad = None
        storch.add_cost((sample(name, method, logits) * w * s).sum(-1), "f")
        storch.backward()
        draws.append(torch.cat([a.grad.detach().reshape(-1) for a in parameters]))
    draws = torch.stack(draws)
    return float(((draws.mean(0) - exact).abs() / (draws.std(0) / len(draws) ** 0.5)).max())


def verdict(name: str) -> str:
    """What is to be said about the gradient."""
    if name == "concrete":
        return "biased by design"
    far = deviation(name)
    if far < LIMIT:
        return "agrees"
    return f"wrong by {far:.0f} standard errors: {REASONS.get(name, 'reason unknown')}"


def measure(contenders: dict[str, Callable[[], None]]) -> dict[str, dict]:
    """Milliseconds a call of each contender, taken in turns: median, min, max."""
    counts = {}
    for name, call in contenders.items():
        begun = time.perf_counter()
        call()
        counts[name] = max(3, int(SECONDS / (time.perf_counter() - begun)))
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, call in contenders.items():
            begun = time.perf_counter()
            for _ in range(counts[name]):
                call()
            taken[name].append(1e3 * (time.perf_counter() - begun) / counts[name])
    return {k: {"median": statistics.median(v), "min": min(v), "max": max(v)} for k, v in taken.items()}


def main() -> None:
    """Time what works, name what does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("estimators", nargs="*", help=f"of {', '.join(METHODS)}; all without any")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    names = options.estimators or list(METHODS)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message=".*create_graph=True.*")
    data = (torch.rand(5000, PIXELS) < 0.13).float()
    contenders, errors = {}, {}
    for name in names:
        try:
            call = stepper(name, data)
            for _ in range(3):
                call()
            contenders[name] = call
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            message = str(error).partition(". ")[0]
            errors[name] = {"error": f"{Path(place.filename).name}:{place.lineno}, {type(error).__name__}: {message}"}
    storch.reset()
    verdicts = {name: verdict(name) for name in contenders}
    times = {name: row | {"gradient": verdicts[name]} for name, row in measure(contenders).items()}
    print(json.dumps({name: (times | errors)[name] for name in names}, indent=1))


if __name__ == "__main__":
    main()
