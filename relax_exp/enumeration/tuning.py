"""Variances of estimators at tuned parameters, where a user meets them, and not at the random ones of a check."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from relax_exp.enumeration import checks
from relax_exp.enumeration.problems import CONTEXT, Problem
from relax_exp.estimators.base import Estimator, Output
from relax_exp.numerics.optimizers import adam, adam_init
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import draw

Tensors = dict[str, Tensor]
STEPS, ROWS, RATE, DRAWS = 200, 16, 0.05, 10_000  # of tuning: steps, draws in each, Adam's rate; draws of the variance


def moves(estimator: Estimator) -> bool:
    """Tell whether there is anything to tune: parameters, or buffers that follow the samples."""
    return bool([*estimator.parameters(), *estimator.buffers()])


def tuned_variance(estimator: Estimator, problem: Problem, purpose: str, steps: int = STEPS) -> float:
    """Return the variance of one draw, mean over coordinates, after tuning at the problem's fixed logits.

    Tuning is ``steps`` steps of Adam on the estimator's own tuning loss, with its buffers carried along.

    Args:
        estimator: In double precision.
        problem: What it estimates the gradient of.
        purpose: Names the stream of the noise.
        steps: Of tuning.
    """
    rows, generator = len(problem.logits), stream(0, purpose)
    context = torch.randn((rows, CONTEXT), generator=generator, dtype=torch.float64)
    tuning = {k: v.detach() for k, v in estimator.named_parameters()}
    buffers = dict(estimator.named_buffers())
    shapes, moments, rate = estimator.noise_shapes(rows), adam_init(tuning), torch.tensor(RATE, dtype=torch.float64)

    def one(tuning: Tensors, buffers: Tensors, noise: Tensors) -> Output:
        given = {"noise": noise, "context": context}
        return functional_call(estimator, {**tuning, **buffers}, (problem.logits, problem.f), given)

    def loss(tuning: Tensors, noise: Tensors) -> tuple[Tensor, Tensors]:
        def tuned(noise: Tensors) -> tuple[Tensor, Tensors]:
            out = one(tuning, buffers, noise)
            return estimator.tuning_loss(out), out.buffers

        losses, new = vmap(tuned)(noise)
        return losses.mean(), new

    for step in range(steps if tuning or buffers else 0):
        noise = draw(shapes, ROWS, generator, torch.float64)
        grads, new = grad(loss, has_aux=True)(tuning, noise)
        tuning, moments = adam(tuning, grads, moments, torch.tensor(step + 1.0), rate, (0.9, 0.999))
        buffers = {**buffers, **{k: v.mean(0) if v.is_floating_point() else v[0] for k, v in new.items()}}
    chunk = checks.chunk_size(DRAWS, shapes, estimator.evaluations)

    def gradient(noise: Tensors) -> Tensor:
        return one(tuning, buffers, noise).grad.flatten()

    drawn = [vmap(gradient)(draw(shapes, chunk, generator, torch.float64)) for _ in range(-(-DRAWS // chunk))]
    return float(torch.cat(drawn).var(0).mean())
