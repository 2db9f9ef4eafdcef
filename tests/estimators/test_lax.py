"""LAX: exact expectations by quadrature, the score of the continuous path, the best and the trivial control variate."""

import numpy as np
import pytest
import torch
from noise_cells import F64, count, draw, smooth, wide
from torch.func import grad

from relax_exp import estimators
from relax_exp.distributions import FAMILIES
from relax_exp.estimators.lax import path_score

SMALL = {"width": 6, "activation": "tanh"}


def built(family: str, event: tuple[int, ...], **options):
    """LAX with parameters away from their initial values."""
    estimator = estimators.build("lax", family, event, **{**SMALL, **options}).double()
    with torch.no_grad():
        for i, parameter in enumerate(estimator.parameters()):
            parameter += 0.4 * (draw(*parameter.shape, seed=i) - 0.5)
    return estimator


def normal_grid(nodes: int = 80):
    """Uniform noise and weights of Gauss-Hermite quadrature, ``(nodes, 1)`` and ``(nodes,)``."""
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    u = torch.special.ndtr(torch.from_numpy(x)).unsqueeze(-1)
    return u, torch.from_numpy(weight / weight.sum())


def test_gaussian_expectation_is_the_closed_form():
    u, weight = normal_grid()
    mean, log_std = 0.3, -0.2
    parameters = torch.tensor([[mean, log_std]], **F64).expand(len(u), 1, 2)

    def f(b):
        return (b.pow(3) - torch.sin(2 * b)).squeeze(-1)

    def closed(p):  # E x^3 = m^3 + 3 m s^2, E sin 2x = exp(-2 s^2) sin 2m
        m, variance = p[0], (2 * p[1]).exp()
        return m**3 + 3 * m * variance - (-2 * variance).exp() * torch.sin(2 * m)

    out = built("gaussian", (1,))(parameters, f, noise={"u": u})
    got = (weight.reshape(-1, 1, 1) * out.grad).sum(0).squeeze(0)
    torch.testing.assert_close(got, grad(closed)(parameters[0, 0]), rtol=1e-5, atol=1e-6)


def test_discrete_expectation_is_the_exact_gradient():
    n = 20001
    u = ((torch.arange(n, **F64) + 0.5) / n).unsqueeze(-1)
    logits, f = torch.tensor([[0.7]], **F64), smooth(1)
    got = built("bernoulli", (1,))(logits.expand(n, 1), f, noise={"u": u}).grad.mean()
    exact = estimators.build("exact", "bernoulli", (1,))(logits, f).grad
    torch.testing.assert_close(got, exact.squeeze(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", ["bernoulli", "categorical", "gaussian"])
def test_score_is_that_of_the_density_of_z(family):
    event = (2, 3) if family == "categorical" else (3,)
    logits = wide(1.5, 4, *FAMILIES[family].parameter_shape(event))
    z = FAMILIES[family].path(logits, draw(4, *event))

    def log_density(logits):
        if family == "gaussian":
            return FAMILIES[family].log_prob(logits, z).sum()
        if family == "bernoulli":
            return (logits - z - 2 * torch.nn.functional.softplus(logits - z)).sum()
        shift = z - logits.log_softmax(-1)
        return (-shift - (-shift).exp()).sum()

    torch.testing.assert_close(path_score(FAMILIES[family], logits, z), grad(log_density)(logits))


def test_with_c_equal_to_f_gaussian_lax_is_the_reparameterisation_trick(monkeypatch):
    f, parameters, noise = smooth(2), wide(0.7, 5, 2, 2), {"u": draw(5, 2)}
    estimator = estimators.build("lax", "gaussian", (2,), **SMALL)
    monkeypatch.setattr(estimator, "control", lambda z, features: f(z))
    pathwise = estimators.build("reparameterization", "gaussian", (2,))
    torch.testing.assert_close(estimator(parameters, f, noise=noise).grad, pathwise(parameters, f, noise=noise).grad)


def test_with_c_equal_to_zero_gaussian_lax_is_reinforce():
    f, parameters, noise = smooth(2), wide(0.7, 5, 2, 2), {"u": draw(5, 2)}
    estimator = estimators.build("lax", "gaussian", (2,), **SMALL).double()
    torch.nn.init.zeros_(estimator.network.out.weight)
    score = estimators.build("reinforce", "gaussian", (2,))
    torch.testing.assert_close(estimator(parameters, f, noise=noise).grad, score(parameters, f, noise=noise).grad)


def test_one_evaluation_and_no_gradient_of_f():
    for family, event in [("bernoulli", (3,)), ("categorical", (2, 3)), ("gaussian", (3,))]:
        estimator = built(family, event)
        logits, noise = wide(1.0, 4, *FAMILIES[family].parameter_shape(event)), {"u": draw(4, *event)}
        objective, calls = count(lambda b: smooth(*b.shape[1:])(b).detach())
        out = estimator(logits, objective, noise=noise)
        assert calls == [4] and estimator.evaluations == 1 and estimator.needs == "value" and estimator.unbiased
        estimator(logits, objective, noise=noise, f_b=out.loss)
        assert calls == [4]
        assert out.grad.shape == logits.shape and out.sample.shape == (4, *event)
        assert ("temperature" in out.aux) == FAMILIES[family].discrete


def test_from_sample_takes_the_sample_of_the_task():
    estimator, f = built("gaussian", (2,)), smooth(2)
    parameters, noise = wide(0.7, 5, 2, 2), {"u": draw(5, 2)}
    called = estimator(parameters, f, noise=noise)
    b = called.sample
    torch.testing.assert_close(estimator.from_sample(parameters, b, f(b)).grad, called.grad)
    # Discrete: z is drawn given b, so that its threshold is b whatever the noise.
    estimator, logits = built("bernoulli", (3,)), wide(1.0, 5, 3)
    b = (draw(5, 3) > 0.5).double()
    out = estimator.from_sample(logits, b, smooth(3)(b), noise={"u": draw(5, 3, seed=9)})
    assert torch.equal(out.sample, b) and out.grad.isfinite().all()


def test_context_and_weight_decay_reach_the_tuning_loss():
    estimator = estimators.build("lax", "gaussian", (2,), (3,), weight_decay=0.1, **SMALL).double()
    parameters, noise = wide(0.7, 5, 2, 2), {"u": draw(5, 2)}
    with pytest.raises(ValueError, match="pass context="):
        estimator(parameters, smooth(2), noise=noise)
    out, other = (estimator(parameters, smooth(2), noise=noise, context=draw(5, 3, seed=s)) for s in (1, 2))
    assert not torch.allclose(out.grad, other.grad)
    squares = sum(p.square().sum() for p in estimator.network.parameters())
    torch.testing.assert_close(estimator.tuning_loss(out), (out.grad / 5).square().mean() + 0.05 * squares)
