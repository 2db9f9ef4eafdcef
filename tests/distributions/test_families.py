"""Samplers: the hard threshold, the law of z~ | b, and both path derivatives."""

import pytest
import torch
from scipy import stats
from torch.func import grad, vmap

from relax_exp.distributions import Bernoulli, BernoulliValues, Categorical, Gaussian, gumbel, logit_uniform
from relax_exp.numerics.random_streams import stream

SHAPES = {Bernoulli: (4,), Categorical: (2, 5)}
DRAWS = 100_000


def setup(family, seed=0, rows=()):
    generator = stream(seed, f"test {family.name}")
    logits = 4 * torch.rand((*rows, *SHAPES[family]), generator=generator, dtype=torch.float64) - 2
    u, v = torch.rand((2, DRAWS, *logits.shape), generator=generator, dtype=torch.float64)
    return logits, u, v


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
def test_conditional_sample_has_the_hard_value_it_was_given(family):
    logits, u, v = setup(family)
    b = family.sample(logits, u)
    z = family.conditional_path(logits, b, v)
    assert torch.equal(family.hard(z), b)


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
def test_mixture_of_conditionals_is_the_unconditional_law(family):
    logits, u, v = setup(family)
    z = family.path(logits, u).flatten(1)
    z_tilde = family.conditional_path(logits, family.sample(logits, u), v).flatten(1)
    # Independent halves, or the two samples would share u.
    for i in range(z.shape[1]):
        p = stats.ks_2samp(z[: DRAWS // 2, i], z_tilde[DRAWS // 2 :, i]).pvalue
        assert p > 1e-4, (i, p)


def test_categorical_joint_given_the_winner():
    """Not only the margins: losers are truncated at the winner, so each joint moment must agree with rejection."""
    logits, u, v = setup(Categorical, seed=1)
    b = torch.zeros_like(logits)
    b[0, 1] = b[1, 3] = 1
    z = Categorical.path(logits, u)
    accepted = z[(Categorical.hard(z) == b).all(-1).all(-1)]
    drawn = Categorical.conditional_path(logits, b.expand_as(v), v)
    for moment in (lambda z: z, lambda z: z * z.roll(1, -1), torch.sin):
        left, right = moment(accepted).flatten(1), moment(drawn).flatten(1)
        error = (left.var(0) / len(left) + right.var(0) / len(right)).sqrt()
        assert ((left.mean(0) - right.mean(0)).abs() / error).max() < 5


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
def test_path_derivatives_against_finite_differences(family):
    logits, u, v = setup(family, rows=(50,))
    u, v = u[0], v[0]
    b = family.sample(logits, u)
    direction = torch.randn(logits.shape, generator=stream(0, "direction"), dtype=torch.float64)
    weights = torch.randn(logits.shape, generator=stream(0, "weights"), dtype=torch.float64)
    step = 1e-6
    for path, noise in ((family.path, (u,)), (lambda x, v: family.conditional_path(x, b, v), (v,))):
        numeric = (path(logits + step * direction, *noise) - path(logits - step * direction, *noise)) / (2 * step)
        gradient = grad(lambda x, path=path, noise=noise: (weights * path(x, *noise)).sum())(logits)
        torch.testing.assert_close((gradient * direction).sum(), (weights * numeric).sum(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
def test_conditional_slope_is_the_derivative_of_the_conditional_path(family):
    logits, u, v = setup(family, rows=(50,))
    u, v = u[0], v[0]
    b = family.sample(logits, u)
    z = family.conditional_path(logits, b, v)
    weights = torch.randn(logits.shape, generator=stream(0, "weights"), dtype=torch.float64)
    through = family.grad_to_logits(weights * family.conditional_slope(logits, b, z), logits)
    gradient = grad(lambda x: (weights * family.conditional_path(x, b, v)).sum())(logits)
    torch.testing.assert_close(through, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
def test_score_and_log_prob_over_all_states(family):
    logits, _, _ = setup(family)
    states = family.enumerate(SHAPES[family], dtype=torch.float64)
    probability = family.log_prob(logits, states).exp()
    torch.testing.assert_close(probability.sum(), torch.ones((), dtype=torch.float64))
    score = vmap(lambda b: grad(lambda x: family.log_prob(x, b))(logits))(states)
    torch.testing.assert_close(score, family.score(logits, states))
    mean = (probability.reshape(-1, *[1] * logits.dim()) * states).sum(0)
    torch.testing.assert_close(mean, family.mean(logits))


def test_gaussian_score_and_path():
    parameters = torch.randn((3, 2, 2), generator=stream(0, "gaussian"), dtype=torch.float64)
    u = torch.rand((3, 2), generator=stream(1, "gaussian"), dtype=torch.float64)
    b = Gaussian.path(parameters, u)
    score = grad(lambda p: Gaussian.log_prob(p, b.detach()).sum())(parameters)
    torch.testing.assert_close(score, Gaussian.score(parameters, b))
    expected = stats.norm.ppf(u, parameters[..., 0], parameters[..., 1].exp())
    torch.testing.assert_close(b, torch.from_numpy(expected), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_at_the_ends_stays_finite(dtype):
    u = torch.tensor([0.0, 1.0 - torch.finfo(dtype).eps / 2, 1.0, 0.5], dtype=dtype)
    assert logit_uniform(u).isfinite().all()
    assert gumbel(u).isfinite().all()


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
@pytest.mark.parametrize("size", [50.0, -50.0])
def test_extreme_logits_stay_finite(family, size):
    logits = torch.zeros(SHAPES[family]).reshape(-1).index_fill(0, torch.tensor([0, 2]), size).reshape(SHAPES[family])
    u = torch.linspace(0, 1, 1000).reshape(-1, *[1] * logits.dim()).expand(-1, *logits.shape)
    b = family.sample(logits, u)
    z = family.conditional_path(logits, b, u.flip(0))
    assert z.isfinite().all() and torch.equal(family.hard(z), b)
    assert family.conditional_slope(logits, b, z).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_of_bernoulli_variables_are_those_that_can_be_differentiated(dtype):
    generator = stream(0, "test values")
    logits = 8 * torch.randn((50, 12), generator=generator, dtype=dtype)
    u = torch.rand((200, 50, 12), generator=generator, dtype=dtype)
    b = Bernoulli.sample(logits, u)
    near = (Bernoulli.path(logits, u)).abs() < 1e-4  # where rounding decides
    assert torch.equal(BernoulliValues.sample(logits, u)[~near], b[~near])
    torch.testing.assert_close(BernoulliValues.log_prob(logits, b), Bernoulli.log_prob(logits, b))
