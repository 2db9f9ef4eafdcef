"""`relax_exp.testing`, on code that is not ours: what is right passes, what is wrong fails, with its bias."""

import numpy as np
import pytest
import torch
from torch import distributions

from relax_exp import Latent, build
from relax_exp.testing import assert_unbiased, bias, exact_gradient

LOGITS = torch.tensor([[0.3, -1.0], [2.0, 0.1]])
CHOICES = torch.tensor([[0.5, -0.2, 0.1]])


def f(b):
    return (b.sum(-1) - 0.4) ** 2 + b[..., 0]


def reward(b):
    """Of three actions; minimised with a minus sign."""
    return -(b.squeeze(-2) @ torch.tensor([1.0, 0.2, 0.0]))


def reinforce(logits, f, generator):
    """As in the documentation of torch.distributions; its noise comes from the global generator."""
    logits = logits.clone().requires_grad_()
    d = distributions.Bernoulli(logits=logits)
    b = d.sample()
    (d.log_prob(b).sum(-1) * f(b)).sum().backward()
    return logits.grad


def grpo(normalise):
    """Group-relative advantages of 4 samples of one categorical action; ``normalise``: by the group's deviation."""

    def gradient(logits, f, generator):
        p = logits.softmax(-1)
        index = torch.multinomial(p.squeeze(-2), 4, replacement=True, generator=generator)
        b = torch.nn.functional.one_hot(index, p.shape[-1]).to(p.dtype).movedim(-2, 0).unsqueeze(-2)
        values = torch.stack([f(sample) for sample in b])
        advantage = (values - values.mean(0)) * (4 / 3)
        if normalise:
            advantage = (values - values.mean(0)) / (values.std(0) + 1e-4)
        return (advantage[..., None, None] * (b - p)).mean(0)

    return gradient


def test_score_function_of_torch_distributions_passes():
    torch.manual_seed(0)
    found = assert_unbiased(reinforce, LOGITS, f, draws=3000)
    assert found.draws == 3000 and not found.biased and found.mean.shape == LOGITS.shape


def test_a_wrong_one_fails_with_coordinate_score_and_limit():
    torch.manual_seed(0)

    def without_the_second(logits, f, generator):
        return reinforce(logits, f, generator) * torch.tensor([1.0, 0.0])

    with pytest.raises(
        AssertionError, match=r"coordinate \(0, 1\).*exact.*z = -?inf.*the limit for 4 coordinates is 5"
    ):
        assert_unbiased(without_the_second, LOGITS, f, draws=500)


def test_group_relative_advantages_are_right_until_they_are_divided_by_the_deviation():
    """GRPO's division is a bias; its size, over all 3^4 groups, is what the check measures."""
    logits = CHOICES.unsqueeze(0)
    assert_unbiased(grpo(normalise=False), logits, reward, "categorical", draws=4000)
    with pytest.raises(AssertionError):
        assert_unbiased(grpo(normalise=True), logits, reward, "categorical", draws=4000)
    found = bias(grpo(normalise=True), logits, reward, "categorical", draws=4000)
    p = logits[0, 0].double().softmax(-1)
    groups = torch.cartesian_prod(*[torch.arange(3)] * 4)
    values = torch.tensor([-1.0, -0.2, 0.0], dtype=torch.float64)[groups]
    advantage = (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + 1e-4)
    each = (advantage.unsqueeze(-1) * (torch.eye(3, dtype=torch.float64)[groups] - p)).mean(1)
    expected = (p[groups].prod(1).unsqueeze(-1) * each).sum(0) - found.exact.flatten()
    assert expected.abs().max() > 0.1
    assert ((found.mean - found.exact).flatten() - expected).abs().max() < 5 * found.standard_error.max()


def test_a_latent_of_ours_passes():
    z = Latent("relax", "bernoulli", 2, width=4)

    def gradient(logits, f, generator):
        logits = logits.clone().requires_grad_()
        return torch.autograd.grad(z(logits, f, generator=generator).loss.sum(), logits)[0]

    assert_unbiased(gradient, LOGITS, f, draws=1500)


def test_vectorized_draws():
    def gradient(logits, f, generator):
        theta = torch.sigmoid(logits)
        b = (torch.rand_like(theta) < theta).to(theta.dtype)
        return f(b).unsqueeze(-1) * (b - theta)

    state = torch.random.get_rng_state()
    found = assert_unbiased(gradient, LOGITS, f, draws=100_000, vectorize=True)
    assert found.standard_error.max() < 0.01
    assert torch.equal(state, torch.random.get_rng_state())
    assert bias(lambda *a: 1.1 * gradient(*a), LOGITS, f, draws=100_000, vectorize=True).biased


def test_arrays():
    """numpy in, numpy out; a JAX callable goes the same way."""

    def loss(b):
        return (b.sum(-1) - 0.4) ** 2

    def gradient(logits, f, generator):
        theta = 1 / (1 + np.exp(-logits))
        b = (generator.random(theta.shape) < theta).astype(theta.dtype)
        return f(b)[..., None] * (b - theta)

    logits = np.array([[0.3, -1.0], [2.0, 0.1]])
    found = assert_unbiased(gradient, logits, loss, draws=5000)
    torch.testing.assert_close(found.exact, exact_gradient(torch.tensor(logits), loss))
    assert bias(lambda *a: gradient(*a) + 0.2, logits, loss, draws=2000).biased


def test_jax():
    jax = pytest.importorskip("jax")

    def loss(b):
        return (b.sum(-1) - 0.4) ** 2

    def gradient(logits, f, generator):
        key, theta = jax.random.key(int(generator.integers(2**31))), jax.nn.sigmoid(logits)
        b = jax.random.bernoulli(key, theta).astype(theta.dtype)
        return f(b)[..., None] * (b - theta)

    assert_unbiased(gradient, jax.numpy.array([[0.3, -1.0]]), loss, draws=1000)


def test_a_bound_of_two_samples():
    z = Latent("vimco", "bernoulli", 2, samples=2)

    def gradient(logits, f, generator):
        logits = logits.clone().requires_grad_()
        return torch.autograd.grad(z(logits, f, generator=generator).loss.sum(), logits)[0]

    assert_unbiased(gradient, LOGITS, f, draws=1500, samples=2)
    assert bias(gradient, LOGITS, f, draws=1500).biased  # it is no gradient of the mean


def test_a_gaussian():
    def gradient(parameters, f, generator):
        mean, log_std = parameters.unbind(-1)
        normal = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        score = torch.stack([normal / log_std.exp(), normal.square() - 1], -1)
        return f(mean + log_std.exp() * normal)[..., None, None] * score

    parameters = torch.tensor([[[0.5, -0.3]], [[-1.0, 0.2]]])
    assert_unbiased(gradient, parameters, lambda b: torch.sin(b).sum(-1), "gaussian", draws=5000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((reinforce, LOGITS, f, "poisson"), "bernoulli, categorical, gaussian, permutation"),
        ((reinforce, torch.zeros(2, 20), f), "1048576 states.*use fewer"),
        ((reinforce, LOGITS, lambda b: b), r"f returned \(2, 2\).*\(2,\)"),
        ((lambda logits, f, g: logits[0], LOGITS, f), r"gradient has shape \(2,\).*\(2, 2\)"),
        ((reinforce, torch.zeros(2), f, "categorical"), r"\(\*rows, D, C\)"),
        ((reinforce, LOGITS, f, "bernoulli", 1), "at least 2"),
        ((reinforce, LOGITS, f, "bernoulli", 1e3), "whole number"),
        ((reinforce, LOGITS, lambda b: b.sum(-1).log()), r"f returned \[-inf, -inf\].*must be finite"),
        ((lambda logits, f, g: None, LOGITS, f), "gradient is None: nothing of the loss reaches the logits"),
        ((reinforce, torch.tensor([10.0]), f), "takes one of its values .* times on average.*take"),
        ((reinforce, torch.zeros(5), f, "subset"), r"needs event_shape=\(5, k\)"),
    ],
)
def test_bad_use_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        assert_unbiased(*arguments)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_fail(wrong):
    """A coordinate without a number must not hide that another is wrong, nor pass itself."""

    def gradient(logits, f, generator):
        drawn = reinforce(logits, f, generator)
        drawn[0, 1] = wrong
        return drawn

    with pytest.raises(AssertionError, match=r"some are not finite: in coordinate \(0, 1\)"):
        assert_unbiased(gradient, LOGITS, f, draws=500)


def test_a_masked_action_is_never_drawn_and_hinders_nothing():
    masked = torch.tensor([[[0.5, -0.2, -torch.inf]]])
    z = Latent("rloo", "categorical", (1, 3), samples=2)

    def gradient(logits, f, generator):
        logits = logits.clone().requires_grad_()
        return torch.autograd.grad(z(logits, f, generator=generator).loss.sum(), logits)[0]

    assert_unbiased(gradient, masked, reward, "categorical", draws=1500)


@pytest.mark.parametrize("family, event_shape", [("permutation", (3,)), ("subset", (4, 2)), ("top_k", (4, 2))])
def test_structured_families(family, event_shape):
    estimator = build("rloo", family, event_shape, samples=3)
    weights = torch.tensor([1.0, -0.5, 2.0, 0.3])[: event_shape[0]]

    def loss(b):
        first = b[..., 0, :] if family == "permutation" else b  # of a permutation, the item in front
        return (first @ weights).square()

    def gradient(logits, f, generator):
        return estimator(logits, f, generator=generator).grad

    logits = torch.tensor([[0.3, -0.4, 0.8, 0.1], [0.0, 0.5, -0.5, 1.0]])[:, : event_shape[0]]
    assert_unbiased(gradient, logits, loss, family, draws=2000, event_shape=event_shape)
    assert bias(lambda *a: 1.5 * gradient(*a), logits, loss, family, draws=2000, event_shape=event_shape).biased


def test_a_gradient_that_somebody_knows_takes_the_place_of_enumeration():
    """A Poisson variable, of which there is no family here: d E[b] / d log rate = rate."""

    def gradient(log_rate, f, generator):
        b = generator.poisson(np.exp(log_rate))
        return f(b) * (b - np.exp(log_rate))

    log_rate = np.array([0.2, 1.0])
    assert_unbiased(gradient, log_rate, lambda b: b, draws=5000, exact=np.exp(log_rate))
    assert bias(gradient, log_rate, lambda b: b, draws=5000, exact=1.2 * np.exp(log_rate)).biased
    with pytest.raises(ValueError, match=r"exact gradient has shape \(\)"):
        bias(gradient, log_rate, lambda b: b, exact=1.0)
