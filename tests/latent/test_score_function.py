"""`score_function_loss`, on distributions that are no family here, against enumeration."""

import itertools

import pytest
import torch
from torch import distributions

from relax_exp import build, names
from relax_exp.estimators.base import ScoreFunction
from relax_exp.latent.score_function import NAMES, score_function_loss
from relax_exp.testing import assert_unbiased, bias

PARAMETERS = torch.tensor([0.3, -0.8, 1.2], dtype=torch.float64)
STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)


def log_p(parameters, b):
    """Two bits, the second of which depends on the first."""
    first, own, below = parameters
    logits = torch.stack([first.expand(b.shape[:-1]), own + below * b[..., 0]], -1)
    return distributions.Bernoulli(logits=logits).log_prob(b).sum(-1)


def f(b):
    return (b[..., 0] - 2 * b[..., 1] - 0.3).square()


def draw(parameters, count, generator):
    index = torch.multinomial(log_p(parameters, STATES).exp(), count, replacement=True, generator=generator)
    return STATES[index]


def gradient_of(name, count):
    def gradient(parameters, f, generator):
        parameters = parameters.clone().requires_grad_()
        b = draw(parameters.detach(), count, generator)
        return torch.autograd.grad(score_function_loss(log_p(parameters, b), f(b), name), parameters)[0]

    return gradient


def exact(count=None):
    """The gradient of E[f], or of E[-log mean_k exp(-f_k)], summed over all states."""
    parameters = PARAMETERS.clone().requires_grad_()
    log_probs, losses = log_p(parameters, STATES), f(STATES)
    if count is None:
        total = (log_probs.exp() * losses).sum()
    else:
        groups = torch.tensor(list(itertools.product(range(len(STATES)), repeat=count)))
        bounds = torch.tensor(float(count)).log() - (-losses[groups]).logsumexp(1)
        total = (log_probs[groups].sum(1).exp() * bounds).sum()
    return torch.autograd.grad(total, parameters)[0]


@pytest.mark.parametrize(("name", "count"), [("reinforce", 1), ("reinforce", 3), ("rloo", 2), ("rloo", 4)])
def test_a_mean(name, count):
    assert_unbiased(gradient_of(name, count), PARAMETERS, f, draws=2000, exact=exact())


def test_a_bound():
    assert_unbiased(gradient_of("vimco", 3), PARAMETERS, f, draws=2000, exact=exact(3))
    assert bias(gradient_of("vimco", 3), PARAMETERS, f, draws=2000, exact=exact()).biased


def test_division_by_the_deviation_is_a_bias():
    assert bias(gradient_of("grpo", 4), PARAMETERS, f, draws=2000, exact=exact()).biased


@pytest.mark.parametrize("name", NAMES)
def test_what_the_losses_depend_on_and_batches(name):
    log_prob, losses, w = (
        torch.randn(3, 2, 5, requires_grad=True),
        torch.rand(3, 2, 5),
        torch.ones((), requires_grad=True),
    )
    loss = score_function_loss(log_prob, w * losses, name)
    expected = losses.mean(0) if name != "vimco" else torch.tensor(3.0).log() - (-losses).logsumexp(0)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert log_prob.grad.abs().sum() > 0
    if name != "vimco":
        torch.testing.assert_close(w.grad, losses.mean(0).sum())


def test_it_takes_whatever_needs_the_losses_alone():
    def plain(name):
        e = build(name, "bernoulli", 2)
        states = [*e.parameters(), *e.buffers()]
        return isinstance(e, ScoreFunction) and type(e).from_sample is ScoreFunction.from_sample and not states

    assert {name for name in names("bernoulli") if plain(name)} == set(NAMES)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(2, 3)), ValueError, r"losses has shape \(2, 3\), expected \(3, 2\)"),
        ((torch.zeros(1, 2), torch.zeros(1, 2)), ValueError, "samples=1 must be at least 2"),
        ((torch.zeros(()), torch.zeros(())), ValueError, r"must be \(K, \*batch\)"),
        ((torch.zeros(3, 2), [0.0]), TypeError, "losses must be a tensor"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), "relax"), ValueError, "others need a Latent"),
    ],
)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        score_function_loss(*arguments)
