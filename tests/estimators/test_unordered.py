"""The unordered set estimator: exact expectations over all draws without replacement, limits, numerics."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from relax_exp import estimators
from relax_exp.distributions import Categorical

SHAPES = [((2, 3), 2), ((2, 3), 3), ((1, 5), 4), ((3, 2), 4)]


def problem(event_shape: tuple[int, ...], scale: float, dtype=torch.float64):
    """Logits ``(1, event)``, states ``(S, event)`` and random losses ``(S,)``."""
    generator = torch.Generator().manual_seed(11)
    states = Categorical.enumerate(event_shape, dtype=dtype)
    logits = scale * torch.randn((1, *event_shape), generator=generator, dtype=torch.float64)
    return logits.to(dtype), states, torch.randn(len(states), generator=generator, dtype=torch.float64).to(dtype)


def exact(logits: Tensor, states: Tensor, table: Tensor) -> Tensor:
    """d E[f] / d logits, ``(event)``."""
    return grad(lambda logits: (Categorical.log_prob(logits, states).exp() * table).sum())(logits)[0]


def orders(p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All ordered draws of k different states ``(T, k)`` with their probabilities ``(T,)``, one after the other."""
    index = torch.tensor(list(itertools.permutations(range(len(p)), k)))
    probability = torch.ones(len(index), dtype=p.dtype)
    for i in range(k):
        left = torch.ones(len(index), len(p), dtype=torch.bool).scatter(1, index[:, :i], False)
        probability = probability * p[index[:, i]] / torch.where(left, p, 0.0).sum(1)
    return index, probability


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(("event_shape", "k"), SHAPES)
def test_expectation_over_all_draws_is_the_exact_gradient(event_shape, k, scale):
    logits, states, table = problem(event_shape, scale)
    estimator = estimators.build("unordered", "categorical", event_shape, samples=k)
    index, probability = orders(Categorical.log_prob(logits, states).exp(), k)
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0, dtype=torch.float64))

    def f(b: Tensor, values: Tensor, logits: Tensor) -> Tensor:
        return values + (b * torch.tanh(logits)).sum((-2, -1))

    def target(logits: Tensor) -> Tensor:
        return (Categorical.log_prob(logits, states).exp() * f(states, table, logits)).sum()

    def estimate(rows: Tensor) -> tuple[Tensor, Tensor]:
        b = states[index.T]
        out = estimator.from_sample(rows, b, f(b, table[index.T], rows))
        return (probability * out.loss).sum(), out.grad

    direct, gradient = grad(estimate, has_aux=True)(logits.expand(len(index), *event_shape))
    result = torch.tensordot(probability, gradient, 1) + direct.sum(0)
    torch.testing.assert_close(result, grad(target)(logits)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("event_shape", "k"), SHAPES)
def test_weights_by_brute_force(event_shape, k):
    """p(s) R(S, s) and p(s') R^{D-s}(S, s') against sums over all orders of S."""
    logits, states, _ = problem(event_shape, 1.5)
    estimator = estimators.build("unordered", "categorical", event_shape, samples=k)
    p = Categorical.log_prob(logits, states).exp()
    chosen = list(range(1, k + 1))

    def probability(members: list[int], gone: list[int]) -> float:
        total = 0.0
        for order in itertools.permutations(members):
            left, product = 1 - float(p[gone].sum()), 1.0
            for s in order:
                product *= float(p[s]) / left
                left -= float(p[s])
            total += product
        return total

    def without(*gone: int) -> list[int]:
        return [s for s in chosen if s not in gone]

    first, second = estimator._ratios(logits, states[chosen].unsqueeze(1))
    for i, s in enumerate(chosen):
        ratio = probability(without(s), [s]) / probability(chosen, [])
        assert float(first[0, i]) == pytest.approx(float(p[s]) * ratio)
        for j, other in enumerate(chosen):
            ratio = 1.0 if s == other else probability(without(s, other), [s, other]) / probability(without(s), [s])
            assert float(second[0, i, j]) == pytest.approx(float(p[other]) * ratio)
    torch.testing.assert_close(first.sum(-1), torch.ones_like(first[..., 0]))
    torch.testing.assert_close(second.sum(-1), torch.ones_like(first))


def test_gumbel_top_k_draws_without_replacement():
    logits, states, _ = problem((2, 2), 1.0)
    estimator = estimators.build("unordered", "categorical", (2, 2), samples=2)
    draws = 100_000
    noise = torch.rand((draws, 1, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = vmap(lambda u: estimator.sample(logits, {"u": u}))(noise).squeeze(2)
    number = (b.unsqueeze(2) == states).flatten(3).all(-1).double().argmax(-1)
    index, probability = orders(Categorical.log_prob(logits, states).exp(), 2)
    for order, p in zip(index, probability.tolist(), strict=True):
        share = float((number == order).all(-1).double().mean())
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize(("event_shape", "k"), [((1, 2), 2), ((1, 2), 4), ((2, 2), 4), ((2, 2), 8), ((1, 5), 5)])
def test_all_states_give_the_exact_gradient(event_shape, k):
    logits, states, table = problem(event_shape, 2.0)
    estimator = estimators.build("unordered", "categorical", event_shape, samples=k)
    assert estimator.samples == estimator.evaluations == len(states)

    def f(b: Tensor) -> Tensor:
        return torch.where((b.unsqueeze(-3) == states).flatten(-2).all(-1), table, 0.0).sum(-1)

    out = estimator(logits, f, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out.grad[0], exact(logits, states, table))
    torch.testing.assert_close(out.loss, (Categorical.log_prob(logits, states).exp() * table).sum().reshape(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [8.0, 50.0])
@pytest.mark.parametrize(("event_shape", "k"), [((4, 3), 8), ((12, 2), 4), ((1, 4096), 4), ((1, 2), 2)])
def test_extreme_logits_and_losses_stay_finite(event_shape, k, scale, dtype):
    estimator = estimators.build("unordered", "categorical", event_shape, samples=k)
    generator = torch.Generator().manual_seed(0)
    logits = torch.where(torch.rand((3, *event_shape), generator=generator) < 0.5, -scale, scale).to(dtype)
    noise = estimator.noise(3, generator, dtype=dtype)
    values = torch.randn((k, 3), generator=generator, dtype=dtype)
    for f_b in (values, 1e30 * values, torch.full_like(values, 5.0)):
        out = estimator(logits, lambda b, f_b=f_b: f_b, noise=noise)
        assert out.grad.isfinite().all() and out.loss.isfinite().all() and out.grad.dtype == dtype
    assert not out.grad.any()  # of a constant f: differences of f, not f itself
    digits = out.sample.argmax(-1).movedim(0, 1)
    assert all(len({tuple(s.tolist()) for s in row}) == k for row in digits)


def test_single_precision_agrees_with_double_where_probabilities_are_tiny():
    estimator = estimators.build("unordered", "categorical", (3, 4), samples=5)
    generator = torch.Generator().manual_seed(2)
    logits = 16 * torch.rand((6, 3, 4), generator=generator, dtype=torch.float64) - 8
    noise = estimator.noise(6, generator, dtype=torch.float64)
    b = estimator.sample(logits, noise)
    f_b = torch.randn((5, 6), generator=generator, dtype=torch.float64)
    double = estimator.from_sample(logits, b, f_b).grad
    single = estimator.from_sample(logits.float(), b.float(), f_b.float()).grad
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-7)


def test_order_does_not_matter_and_f_is_called_once():
    calls = []

    def f(b: Tensor) -> Tensor:
        calls.append(tuple(b.shape))
        return (b * torch.arange(9.0).reshape(3, 3)).sum((-2, -1)).square()

    estimator = estimators.build("unordered", "categorical", (3, 3))
    logits = torch.randn((2, 3, 3), generator=torch.Generator().manual_seed(0))
    out = estimator(logits, f, generator=torch.Generator().manual_seed(1))
    assert calls == [(4, 2, 3, 3)] and estimator.evaluations == 4
    b = out.sample.flip(0)
    torch.testing.assert_close(estimator.from_sample(logits, b, f(b)).grad, out.grad)


def test_limits_are_named():
    with pytest.raises(ValueError, match="8\\^5 states of a row; the limit is 4096"):
        estimators.build("unordered", "categorical", (5, 8))
    for samples in (1, 9):
        with pytest.raises(ValueError, match=f"samples={samples} must be from 2 to 8"):
            estimators.build("unordered", "categorical", (2, 8), samples=samples)
    with pytest.raises(ValueError, match="not offered for bernoulli"):
        estimators.build("unordered", "bernoulli", (3,))
    estimator = estimators.build("unordered", "categorical", (2, 3))
    with pytest.raises(ValueError, match="one layer"):
        estimator(torch.zeros(4, 5, 2, 3), lambda b: b.sum((-2, -1)), generator=torch.Generator())
    with pytest.raises(TypeError, match=r"out\.loss"):
        estimator.loss_of(torch.zeros(4, 5))
