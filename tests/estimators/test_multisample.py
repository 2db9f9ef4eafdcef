"""RLOO and VIMCO: exact expectations over all tuples of samples, hand-computed cases, shapes."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.func import grad

from relax_exp import estimators
from relax_exp.distributions import FAMILIES, Bernoulli
from relax_exp.estimators.base import Objective

SHAPES = [("bernoulli", (2,)), ("categorical", (1, 3)), ("categorical", (2, 2))]
RLOO, VIMCO, ARITHMETIC = ("rloo", {}), ("vimco", {}), ("vimco", {"mean": "arithmetic"})


def tuples(family: str, event_shape: tuple[int, ...], k: int, scale: float):
    """Logits ``(1, event)``, states, losses, all K-tuples of states ``(T, K)`` and their log p(logits) ``(T,)``."""
    generator = torch.Generator().manual_seed(7)
    signs = torch.randn((1, *event_shape), generator=generator, dtype=torch.float64)
    states = FAMILIES[family].enumerate(event_shape, dtype=torch.float64)
    index = torch.tensor(list(itertools.product(range(len(states)), repeat=k)))
    table = 2 * torch.randn(len(states), generator=generator, dtype=torch.float64)

    def log_p(logits: Tensor) -> Tensor:
        return FAMILIES[family].log_prob(logits, states)[index].sum(1)

    return scale * signs, states, table, index, log_p


def loss_of(table: Tensor, states: Tensor, direct: float) -> Objective:
    """A table, plus a term in sample and logits."""

    def f(b: Tensor, logits: Tensor) -> Tensor:
        chosen = (b.unsqueeze(-states.dim()) == states).flatten(-states.dim() + 1).all(-1)
        event = tuple(range(1 - states.dim(), 0))
        return torch.where(chosen, table, 0.0).sum(-1) + direct * (b * torch.tanh(logits) - 0.1 * logits**2).sum(event)

    return Objective(f, f, f)


@pytest.mark.parametrize("scale", [1.5, 8.0])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(("name", "options"), [RLOO, VIMCO, ARITHMETIC])
@pytest.mark.parametrize(("family", "event_shape"), SHAPES)
def test_expectation_over_all_tuples_is_the_exact_gradient(family, event_shape, name, options, k, scale):
    logits, states, table, index, log_p = tuples(family, event_shape, k, scale)
    f = loss_of(table, states, direct=0.5).hard
    estimator = estimators.build(name, family, event_shape, samples=k, **options)
    assert estimator.unbiased and estimator.evaluations == estimator.samples == k

    def target(logits: Tensor) -> Tensor:
        f_b = f(states, logits)[index]
        values = math.log(k) - (-f_b).logsumexp(1) if estimator.target == "bound" else f_b.mean(1)
        return (log_p(logits).exp() * values).sum()

    # Rows are the tuples: b (K, T, event), each row weighted by its probability.
    rows = logits.expand(len(index), *event_shape)
    weight = log_p(logits).exp()

    def estimate(rows: Tensor) -> tuple[Tensor, Tensor]:
        b = states[index.T]
        out = estimator.from_sample(rows, b, f(b, rows))
        return (weight * out.loss).sum(), out.grad

    direct, gradient = grad(estimate, has_aux=True)(rows)
    through = torch.tensordot(weight, gradient, 1)
    torch.testing.assert_close(through + direct.sum(0), grad(target)(logits)[0], rtol=1e-10, atol=1e-12)


def test_rloo_by_hand():
    estimator = estimators.build("rloo", "bernoulli", (1,), samples=3)
    b = torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1)
    out = estimator.from_sample(torch.zeros(1, 1), b, torch.tensor([[1.0], [2.0], [6.0]]))
    # Signals 1 - 4, 2 - 3.5, 6 - 1.5; scores +-1/2.
    torch.testing.assert_close(out.grad, torch.tensor([[(-3 - 1.5 - 4.5) / 6]]))
    torch.testing.assert_close(out.loss, torch.tensor([3.0]))


def test_vimco_by_hand():
    f_b = torch.tensor([[0.0], [1.0], [3.0]])
    w = [1.0, math.exp(-1), math.exp(-3)]
    geometric = [math.exp(-2), math.exp(-1.5), math.exp(-0.5)]
    arithmetic = [(w[1] + w[2]) / 2, (w[0] + w[2]) / 2, (w[0] + w[1]) / 2]
    for mean, substitutes in (("geometric", geometric), ("arithmetic", arithmetic)):
        estimator = estimators.build("vimco", "bernoulli", (1,), samples=3, mean=mean)
        out = estimator.from_sample(torch.zeros(1, 1), torch.ones(3, 1, 1), f_b)
        signals = [math.log((sum(w) - w[k] + substitutes[k]) / sum(w)) for k in range(3)]
        torch.testing.assert_close(out.grad, torch.tensor([[0.5 * sum(signals)]]))
        torch.testing.assert_close(out.loss, torch.tensor([-math.log(sum(w) / 3)]))


def test_vimco_is_blind_to_a_shift_of_f_and_counts_weights_that_vanish():
    estimator = estimators.build("vimco", "bernoulli", (2,), samples=4)
    generator = torch.Generator().manual_seed(0)
    noise = estimator.noise(5, generator)
    f_b = torch.randn((4, 5), generator=generator)
    logits = torch.randn((5, 2), generator=generator)
    b = estimator.sample(logits, noise)
    out = estimator.from_sample(logits, b, f_b)
    shifted = estimator.from_sample(logits, b, f_b + 1024)
    torch.testing.assert_close(shifted.grad, out.grad, rtol=1e-3, atol=1e-3)  # f itself is rounded
    torch.testing.assert_close(shifted.loss, out.loss + 1024)
    for huge in (1e4, 1e30):
        out = estimator.from_sample(logits, b, f_b * huge)
        assert out.grad.isfinite().all() and out.loss.isfinite().all()


@pytest.mark.parametrize(("name", "options"), [RLOO, VIMCO, ARITHMETIC])
def test_constant_f_gives_zero_and_f_is_called_once_with_k_samples(name, options):
    calls = []

    def f(b):
        calls.append(tuple(b.shape))
        return torch.full(b.shape[:-1], 3.7)

    estimator = estimators.build(name, "bernoulli", (3,), **options)
    out = estimator(torch.tensor([[50.0, -50.0, 0.0]]), f, generator=torch.Generator().manual_seed(0))
    assert calls == [(4, 1, 3)] and estimator.evaluations == 4
    torch.testing.assert_close(out.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.loss, torch.tensor([3.7]))


@pytest.mark.parametrize(("name", "options"), [RLOO, VIMCO, ARITHMETIC])
def test_logits_of_their_own_for_every_chain(name, options):
    """In an upper layer each chain has its logits; summed over chains that share them it is the same gradient."""
    estimator = estimators.build(name, "bernoulli", (3,), samples=4, **options)
    generator = torch.Generator().manual_seed(1)
    logits, f_b = torch.randn((5, 3), generator=generator), torch.randn((4, 5), generator=generator)
    b = Bernoulli.sample(logits, torch.rand((4, 5, 3), generator=generator))
    shared = estimator.from_sample(logits, b, f_b)
    own = estimator.from_sample(logits.expand(4, 5, 3), b, f_b)
    assert own.grad.shape == (4, 5, 3)
    torch.testing.assert_close(own.grad.sum(0), shared.grad)
    torch.testing.assert_close(own.loss, shared.loss)


@pytest.mark.parametrize("name", ["rloo", "vimco"])
def test_one_sample_is_refused(name):
    with pytest.raises(ValueError, match="samples=1 must be at least 2"):
        estimators.build(name, samples=1)


def test_unknown_mean_is_refused():
    with pytest.raises(ValueError, match="mean=harmonic: must be one of geometric, arithmetic"):
        estimators.build("vimco", mean="harmonic")
