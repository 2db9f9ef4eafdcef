"""Gumbel top-k without order: probabilities against all orders and against draws, score, marginals, relaxation."""

import itertools

import pytest
import torch

from relax_exp.distributions import family_of, states
from relax_exp.numerics.random_streams import stream

SHAPES = [(4, 1), (4, 2), (5, 3), (3, 2)]


def logits_of(size, rows=3, scale=2.0):
    return scale * torch.randn((rows, size), generator=stream(0, "top_k"), dtype=torch.float64)


def by_orders(logits, b):
    """Probability of a set, ``(N,)``: the sum over the orders of its members of drawing them one after the other."""
    p, total = logits.softmax(-1), 0.0
    for order in itertools.permutations(b.nonzero()[:, 0].tolist()):
        left, probability = torch.ones(len(p), dtype=p.dtype), torch.ones(len(p), dtype=p.dtype)
        for item in order:
            probability, left = probability * p[:, item] / left, left - p[:, item]
        total = total + probability
    return total


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_probabilities_are_sums_over_all_orders(shape):
    family, logits = family_of("top_k", shape), logits_of(shape[0])
    every = states(family, shape, logits)
    p = family.log_prob(logits, every).exp()
    torch.testing.assert_close(p, torch.stack([by_orders(logits, b) for b in every[:, 0]]))
    torch.testing.assert_close(p.sum(0), torch.ones(3, dtype=p.dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_have_these_probabilities(shape):
    family, logits, n = family_of("top_k", shape), logits_of(shape[0], rows=1, scale=1.0), 100_000
    u = torch.rand((n, shape[0]), generator=stream(1, "top_k"), dtype=torch.float64)
    b = family.sample(logits.expand(n, -1), u)
    assert (b.sum(-1) == shape[1]).all() and ((b == 0) | (b == 1)).all()
    every = states(family, shape, logits)[:, 0]
    found = (b.unsqueeze(1) == every).all(-1).double().mean(0)
    p = family.log_prob(logits, every).exp()
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()
    assert ((b.mean(0) - family.mean(logits)[0]).abs() < 5 * 0.5 / n**0.5).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_score_has_mean_zero_and_is_the_slope_of_log_p(shape):
    family, logits = family_of("top_k", shape), logits_of(shape[0])
    every = states(family, shape, logits)
    score, p = family.score(logits, every), family.log_prob(logits, every).exp()
    torch.testing.assert_close((p.unsqueeze(-1) * score).sum(0), torch.zeros_like(logits))
    step = 1e-6 * torch.randn(logits.shape, generator=stream(2, "top_k"), dtype=torch.float64)
    difference = family.log_prob(logits + step, every) - family.log_prob(logits - step, every)
    torch.testing.assert_close((score * step).sum(-1), difference / 2, rtol=1e-6, atol=1e-12)


def test_one_item_is_categorical():
    family, logits = family_of("top_k", (4, 1)), logits_of(4)
    torch.testing.assert_close(family.mean(logits), logits.softmax(-1))


def test_the_relaxation_tends_to_the_sample():
    family, logits = family_of("top_k", (5, 2)), logits_of(5, rows=100)
    z = family.path(logits, torch.rand(logits.shape, generator=stream(3, "top_k"), dtype=torch.float64))
    soft = family.relax(z, 0.001)
    torch.testing.assert_close(soft.sum(-1), torch.full((100,), 2.0, dtype=z.dtype))
    assert ((soft - family.hard(z)).abs().amax(-1) < 0.01).double().mean() > 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(dtype):
    family = family_of("top_k", (5, 3))
    logits = torch.tensor([[100.0, -100.0, 0.0, 100.0, -100.0]], dtype=dtype)
    every = states(family, (5, 3), logits)
    assert family.log_prob(logits, every).isfinite().all() and family.score(logits, every).isfinite().all()


@pytest.mark.parametrize("shape", [(4, 4), (4, 0), (20, 9)])
def test_sizes_that_do_not_go(shape):
    with pytest.raises(ValueError, match="with k from 1 to D - 1, at most 8"):
        family_of("top_k", shape)
