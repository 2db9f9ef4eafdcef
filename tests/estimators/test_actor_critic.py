"""Critics: what they are fitted to, that A2C is unbiased for any V and mean actor-critic exact for the exact Q."""

import numpy as np
import pytest
import torch
from noise_cells import F64, draw, smooth, wide
from torch.func import functional_call

from relax_exp import estimators, testing
from relax_exp.distributions import FAMILIES
from relax_exp.enumeration import checks, problems
from relax_exp.estimators.actor_critic import published_advantage

SMALL = {"width": 6, "depth": 1, "activation": "elu"}


def enumerated(event=(2, 3)):
    """Logits of one row, all states, their probabilities and their losses."""
    logits = wide(1.5, 1, *event)
    states = FAMILIES["categorical"].enumerate(event, **F64).unsqueeze(1)
    p = FAMILIES["categorical"].log_prob(logits, states).exp()
    return logits, states, p, smooth(*event)(states)


def conditional_means(states, p, f):
    """E[f | b_d = c], ``(D, C)``."""
    weight = p.unsqueeze(-1).unsqueeze(-1) * states
    return ((weight * f.unsqueeze(-1).unsqueeze(-1)).sum(0) / weight.sum(0)).squeeze(0)


def test_mean_actor_is_exact_for_the_exact_q_whatever_was_drawn():
    logits, states, p, f = enumerated()
    estimator = estimators.build("mean_actor", "categorical", (2, 3)).double()
    state = {"critic.constant": conditional_means(states, p, f)}
    exact = estimators.build("exact", "categorical", (2, 3))(logits, smooth(2, 3)).grad
    for seed in range(3):
        out = functional_call(estimator, state, (logits, smooth(2, 3)), {"noise": {"u": draw(1, 2, 3, seed=seed)}})
        torch.testing.assert_close(out.grad, exact)


def test_q_is_fitted_to_the_conditional_mean_and_v_to_the_mean():
    logits, states, p, f = enumerated()
    best = {"mean_actor": conditional_means(states, p, f), "a2c": (p * f).sum()}
    for name, value in best.items():
        estimator = estimators.build(name, "categorical", (2, 3)).double()
        parameter = estimator.critic.constant
        for start, stationary in ((value, True), (value + 0.1, False)):
            with torch.no_grad():
                parameter.copy_(start)
            outs = [estimator.from_sample(logits, b, f_b) for b, f_b in zip(states, f, strict=True)]
            loss = sum(p_b.squeeze() * estimator.tuning_loss(out) for p_b, out in zip(p, outs, strict=True))
            (slope,) = torch.autograd.grad(loss, parameter)
            assert (slope.abs().max() < 1e-12) == stationary


@pytest.mark.parametrize("name", ["a2c", "mean_actor"])
def test_the_critic_sees_each_rows_context_and_errors_stay_apart(name):
    estimator = estimators.build(name, "categorical", (1, 3), (4,), **SMALL).double()
    logits, b, f_b, context = wide(1.0, 5, 1, 3), torch.eye(3, **F64)[[0, 1, 2, 0, 1]].unsqueeze(1), draw(5), draw(5, 4)
    out = estimator.from_sample(logits, b, f_b, context=context)
    values = (estimator.value if name == "a2c" else estimator.values)(context)
    predicted = values if name == "a2c" else (b * values).sum((1, 2))
    torch.testing.assert_close(out.aux["squared_error"], (f_b - predicted).square())
    torch.testing.assert_close(estimator.tuning_loss(out), (f_b - predicted).square().mean())
    p = logits.softmax(-1)
    if name == "a2c":
        torch.testing.assert_close(out.grad, (f_b - values).reshape(5, 1, 1) * (b - p))
    else:
        leaf = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad((leaf.softmax(-1) * values.detach()).sum(), leaf)
        torch.testing.assert_close(out.grad, slope)
    with pytest.raises(ValueError, match="pass context="):
        estimator.from_sample(logits, b, f_b)


def test_gaussian_a2c_is_the_score_on_the_advantage_and_unbiased_by_quadrature():
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    x, weight = torch.from_numpy(x).unsqueeze(-1), torch.from_numpy(weight / weight.sum())
    mean, std = 0.4, 0.7
    parameters = torch.tensor([[mean, std]], **F64).expand(60, 1, 2).clone()
    parameters[..., 1].log_()
    b, context = mean + std * x, torch.ones(60, 2, **F64)
    estimator = estimators.build("a2c", "gaussian", (1,), (2,), **SMALL).double()
    out = estimator.from_sample(parameters, b, b.squeeze(-1) ** 3, context=context)
    # E b^3 = m^3 + 3 m s^2: slopes 3 m^2 + 3 s^2 in m and 6 m s^2 in log s
    expected = torch.tensor([3 * mean**2 + 3 * std**2, 6 * mean * std**2], **F64)
    torch.testing.assert_close((weight.reshape(-1, 1, 1) * out.grad).sum((0, 1)), expected)
    assert float(estimator.value(context)[0].detach()) != 0


def test_the_published_advantage_is_found_biased():
    """With three rows it is three times too large, and it is said to be biased."""
    problem = next(p for p in problems.problems() if p.name == "categorical 1x5 smooth")
    estimator = checks.build("a2c", {**SMALL, "advantage": "published_error"}, problem)
    verdict = checks.check(estimator, problem, 20_000)
    assert not estimator.unbiased and verdict.largest_z > testing.threshold(verdict.tests)
    f, value, there = torch.rand(2, 5), torch.rand(2, 5), torch.tensor([[1.0] * 5, [1, 1, 1, 0, 0]])
    got = published_advantage(f, value, there)
    for e, steps in ((0, 5), (1, 3)):
        matrix = f[e, :steps] - value[e, :steps].unsqueeze(1)
        assert matrix.shape == (steps, steps)
        assert torch.allclose(got[e, :steps], matrix.sum(0), atol=1e-6) and not got[e, steps:].any()
