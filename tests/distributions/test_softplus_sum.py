"""Sums of softplus with few logarithms are those with many."""

import pytest
import torch
import torch.nn.functional as F

from relax_exp.distributions.bernoulli import softplus_sum


@pytest.mark.parametrize("size", [1, 11, 64, 200, 784])  # 11: no number of factors but one divides it
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_softplus_sum(size, scale):
    x = torch.randn(5, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64) * scale
    expected = F.softplus(x, threshold=40).sum(-1)
    assert torch.allclose(softplus_sum(x), expected, rtol=1e-12, atol=2e-16 * size)
    assert torch.allclose(softplus_sum(x.float()).double(), expected, rtol=2e-6, atol=1e-7 * size)


def test_softplus_sum_at_the_ends():
    ends = torch.tensor([[-torch.inf, 0.0], [torch.inf, 0.0]])
    assert softplus_sum(ends)[0] == pytest.approx(F.softplus(torch.zeros(())).item())
    assert softplus_sum(ends)[1] == torch.inf
