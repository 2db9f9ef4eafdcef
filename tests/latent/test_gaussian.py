"""Gaussian variables through Latent: the mean gradient against the exact one of a quadratic, for every estimator."""

import pytest
import torch

from relax_exp import Latent, estimators
from relax_exp.testing import threshold

NAMES = estimators.names("gaussian")
BATCHES, ROWS = 100, 2_000


def loss(b, shift):
    return (b - shift).square().sum(-1)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_gradient_is_the_exact_one(name):
    mean, log_std, shift = torch.tensor([0.7, -0.4]), torch.tensor([-0.5, 0.2]), 0.3
    logits = torch.stack([mean, log_std], -1).double().requires_grad_()  # of the event, (D, 2)
    # d E[(b - s)^2] / d mean = 2 (mean - s); / d log std = 2 std^2
    exact = torch.stack([2 * (mean - shift), 2 * (2 * log_std).exp()], -1).double()
    z = Latent(name, "gaussian", (2,)).double()
    generator = torch.Generator().manual_seed(0)
    row = torch.full((ROWS, 1), shift, dtype=torch.float64)
    draws = []
    for _ in range(BATCHES):
        value, sample = z(logits.expand(ROWS, 2, 2), loss, row, generator=generator)
        assert value.shape == (ROWS,) and sample.shape == (ROWS, 2)
        draws.append(torch.autograd.grad(value.mean(), logits)[0])
    found = torch.stack(draws)
    deviation = (found.mean(0) - exact).abs()
    error = found.std(0) / BATCHES**0.5
    assert (deviation <= threshold(4 * len(NAMES)) * error + 1e-9).all(), deviation / error
    assert (deviation < 0.2 * exact.abs() + 0.05).all()
