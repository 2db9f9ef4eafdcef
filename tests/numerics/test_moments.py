"""`Moments` agree with torch's mean and variance, whatever the portions."""

import pytest
import torch

from relax_exp.numerics.moments import Moments

DRAWS = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("reference", [None, torch.ones(3, dtype=torch.float64)])
@pytest.mark.parametrize("portions", [[100], [1] * 100, [30, 30, 40]])
def test_they_are_those_of_all_draws(portions, reference):
    moments = Moments(reference)
    for portion in DRAWS.split(portions):
        moments.add(portion)
    assert moments.count == 100
    torch.testing.assert_close(moments.mean, DRAWS.mean(0))
    torch.testing.assert_close(moments.variance, DRAWS.var(0))


def test_draws_may_stand_in_another_dimension():
    moments = Moments(dim=1)
    for portion in DRAWS.T.split(40, 1):
        moments.add(portion)
    torch.testing.assert_close(moments.mean, DRAWS.mean(0))
    torch.testing.assert_close(moments.variance, DRAWS.var(0))


def test_single_precision_loses_nothing_far_from_zero():
    moments, shifted = Moments(), (DRAWS / 10 + 1000).float()
    for portion in shifted.split(25):
        moments.add(portion)
    torch.testing.assert_close(moments.variance.double(), shifted.double().var(0), rtol=1e-4, atol=0)
