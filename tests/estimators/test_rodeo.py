"""Double CV and RODEO: exact expectations over all tuples of samples, limits, hand-computed cases, evaluations."""

import itertools

import pytest
import torch
from noise_cells import F64, count, draw, smooth, wide

from relax_exp import estimators
from relax_exp.distributions import Bernoulli

NAMES = ["double_cv", "rodeo"]


def built(name: str, d: int, k: int):
    """The estimator with parameters away from their initial values."""
    options = {"width": 5} if name == "rodeo" else {}
    estimator = estimators.build(name, "bernoulli", (d,), samples=k, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(estimator.parameters()):
            parameter += draw(*parameter.shape, seed=i) - 0.3
    return estimator


@pytest.mark.parametrize("scale", [1.5, 8.0])
@pytest.mark.parametrize(("d", "k"), [(1, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_expectation_over_all_tuples_is_the_exact_gradient(name, d, k, scale):
    states = Bernoulli.enumerate((d,), **F64)
    b = states[torch.tensor(list(itertools.product(range(len(states)), repeat=k)))]  # rows are the tuples
    logits, f = wide(scale, 1, d), smooth(d)
    rows = logits.expand(len(b), d)
    noise = {"u": (1e-9 + (1 - 2e-9) * b).transpose(0, 1)}
    out = built(name, d, k)(rows, f, noise=noise)
    assert torch.equal(out.sample, b.transpose(0, 1))
    p = Bernoulli.log_prob(logits, b).sum(1).exp().unsqueeze(-1)
    exact = estimators.build("exact", "bernoulli", (d,))(logits, f).grad
    torch.testing.assert_close((p * out.grad).sum(0, keepdim=True), exact, atol=1e-11, rtol=0)
    rloo = estimators.build("rloo", "bernoulli", (d,), samples=k)(rows, f, noise=noise)
    assert not torch.allclose(out.grad, rloo.grad)


@pytest.mark.parametrize("name", NAMES)
def test_untuned_it_is_rloo(name):
    logits, noise, f = wide(2.0, 4, 3), {"u": draw(3, 4, 3)}, smooth(3)
    estimator = estimators.build(name, "bernoulli", (3,), samples=3).double()
    rloo = estimators.build("rloo", "bernoulli", (3,), samples=3)
    out, other = estimator(logits, f, noise=noise), rloo(logits, f, noise=noise)
    torch.testing.assert_close(out.grad, other.grad)
    torch.testing.assert_close(out.loss, other.loss)
    slope = torch.autograd.grad(estimator.tuning_loss(out), list(estimator.parameters()), allow_unused=True)
    assert any(s is not None and s.abs().sum() > 0 for s in slope)


def test_double_cv_has_no_variance_for_a_linear_f():
    w = draw(3)
    estimator = estimators.build("double_cv", "bernoulli", (3,), samples=2).double()
    estimator.alpha.data.fill_(-1.0)
    logits = wide(2.0, 1, 3)
    out = estimator(logits.expand(50, 3), lambda b: b @ w, noise={"u": draw(2, 50, 3)})
    theta = logits.sigmoid()
    torch.testing.assert_close(out.grad, (w * theta * (1 - theta)).expand(50, 3))


def test_double_cv_by_hand():
    # K = 2, D = 1, b = (1, 0), f = b^2 + b: f = (2, 0), f' = (3, 1), theta = 1/2, alpha = 0.4.
    estimator = estimators.build("double_cv", "bernoulli", (1,)).double()
    estimator.alpha.data.fill_(0.4)
    noise = {"u": torch.tensor([[[0.9]], [[0.1]]], **F64)}
    out = estimator(torch.zeros(1, 1, **F64), lambda b: (b.square() + b).sum(-1), noise=noise)
    first, second = 2 + 0.4 * 1 * 0.5, 0 + 0.4 * 3 * -0.5
    expected = 0.5 * ((first - second) * 0.5 + (second - first) * -0.5) - 0.4 * (3 + 1) / 2 * 0.25
    assert out.grad.item() == pytest.approx(expected)


def test_rodeo_by_hand():
    # The formula of the class, written with loops over samples, flipped bits and other samples.
    k, d, f = 3, 2, smooth(2)
    estimator, logits = built("rodeo", d, k), wide(1.0, 1, d)
    out = estimator(logits, f, noise={"u": draw(k, 1, d)})
    b, theta = out.sample[:, 0], logits[0].sigmoid()
    slope = torch.func.grad(lambda b: f(b).sum())(b)

    def h(i, x):  # (h_i(x), h~_i(x))
        pairs = [estimator.surrogate(f(b[j]), slope[j] @ (x - b[j])) for j in range(k) if j != i]
        return torch.stack(pairs).mean(0)

    def operated(i, g):  # (A g)(b_i) with the Gibbs operator
        total = 0
        for bit in range(d):
            flipped = b[i].clone()
            flipped[bit] = 1 - flipped[bit]
            q = theta[bit] if flipped[bit] == 1 else 1 - theta[bit]
            total = total + q * (g(flipped) - g(b[i]))
        return total / d

    stein = [operated(i, lambda x, i=i: h(i, x)[0]) for i in range(k)]
    vector = [operated(i, lambda x, i=i: h(i, x)[1] * (x - theta)) for i in range(k)]
    expected = 0
    for i in range(k):
        baseline = sum(f(b[j]) + estimator.alpha * stein[j] for j in range(k) if j != i) / (k - 1)
        expected = expected + (f(b[i]) - baseline) * (b[i] - theta) + estimator.beta * vector[i]
    torch.testing.assert_close(out.grad[0], expected / k)


@pytest.mark.parametrize("name", NAMES)
def test_evaluations(name):
    estimator = built(name, 3, 4)
    logits, noise, (objective, calls) = wide(1.0, 5, 3), {"u": draw(4, 5, 3)}, count(smooth(3))
    out = estimator(logits, objective, noise=noise)
    assert calls == [20] and estimator.evaluations == estimator.samples == 4 and estimator.needs == "gradient"
    given = estimator(logits, objective, noise=noise, f_b=smooth(3)(out.sample))
    assert calls == [20, 20]
    torch.testing.assert_close(given.grad, out.grad)
    torch.testing.assert_close(given.loss, out.loss)
    assert out.loss.shape == (5,) and out.grad.shape == (5, 3)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_every_chain(name):
    estimator, logits, noise, f = built(name, 3, 2), wide(1.0, 4, 3), {"u": draw(2, 4, 3)}, smooth(3)
    shared, chains = estimator(logits, f, noise=noise), estimator(logits.expand(2, 4, 3), f, noise=noise)
    assert chains.grad.shape == (2, 4, 3)
    torch.testing.assert_close(chains.grad.sum(0), shared.grad)


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name):
    with pytest.raises(ValueError, match="samples=1 must be at least 2"):
        estimators.build(name, "bernoulli", (3,), samples=1)
    estimator = built(name, 3, 2)
    b = torch.zeros(2, 4, 3)
    with pytest.raises(TypeError, match="gradient at the samples"):
        estimator.from_sample(torch.zeros(4, 3), b, b.sum(-1))
