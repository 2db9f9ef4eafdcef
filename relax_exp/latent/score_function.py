"""`score_function_loss`: score-function gradients for samples of any distribution, of which log p is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax_exp import estimators
from relax_exp.estimators.base import ScoreFunction
from relax_exp.latent import checks
from relax_exp.schema import one_of

NAMES = ("reinforce", "rloo", "vimco", "grpo", "dr_grpo")  # whose weight of the score is a function of the losses alone


def score_function_loss(log_prob: Tensor, losses: Tensor, name: str = "rloo", **options: Any) -> Tensor:
    """Return losses whose gradient is a score-function estimate, for samples that somebody else has drawn.

        q = torch.distributions.Poisson(rate)
        b = q.sample((8,))
        score_function_loss(q.log_prob(b), f(b)).mean().backward()

    Nothing is assumed of the distribution: b may be a sequence, a tree, a mixture's component. Only its log-probability
    is needed, summed over all that b consists of.

    Args:
        log_prob: Of each of K samples a row, ``(K, *batch)``, with the gradient of what is to be learned.
        losses: What came of each, minimised, ``(K, *batch)``. Their own gradient, that of a decoder for instance, is
            kept. For "vimco" they are minus the log weights.
        name: "reinforce", "rloo" (the others' mean is the baseline), "vimco" (the bound of K samples), or of the biased
            advantages of language models "grpo" or "dr_grpo".
        options: Of the estimator.

    Returns:
        ``(*batch)``: the mean of the losses, or the bound of "vimco". Only its first derivative is an estimate.

    Raises:
        ValueError: Shapes differ, the name is another, or there are too few samples.
        TypeError: An argument is no tensor, or there is no such option.
    """
    if name not in NAMES:
        raise ValueError(f"score_function_loss takes {one_of(NAMES, name)}, not {name}: others need a Latent")
    for what, value in (("log_prob", log_prob), ("losses", losses)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{what} must be a tensor (K, *batch), not {type(value).__name__}")
    if not log_prob.dim() or not len(log_prob):
        raise ValueError(f"log_prob has shape {tuple(log_prob.shape)}; it must be (K, *batch), of K samples a row")
    checks.shaped(losses, tuple(log_prob.shape), "losses")
    if "samples" in options:
        raise TypeError("samples is the number of rows of log_prob: leave it out")
    losses = losses if losses.is_floating_point() else losses.to(log_prob.dtype)
    count, *batch = log_prob.shape
    estimator = estimators.build(name, samples=count, **options)
    assert isinstance(estimator, ScoreFunction)
    rows = losses.reshape(count, -1) if estimator.samples > 1 else losses.reshape(-1)
    with torch.no_grad():
        signal, _, _ = estimator.signal(rows, None)
    score = signal.reshape(log_prob.shape) * (log_prob - log_prob.detach()) / count
    return estimator.loss_of(rows).reshape(batch) + score.sum(0)
