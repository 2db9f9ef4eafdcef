"""Estimators that differentiate through a stand-in: values, slopes in hand-computed cases, exactness, temperatures."""

import math

import pytest
import torch
from noise_cells import F64, count, draw, smooth, wide
from torch.func import functional_call, grad, vmap

from relax_exp import estimators
from relax_exp.distributions import FAMILIES
from relax_exp.estimators.base import Objective

HARD = ["straight_through", "st_gumbel", "gumbel_rao", "reinmax"]
SHAPES = [("bernoulli", (3,)), ("categorical", (2, 3))]


def noise_of_states(family: str, event: tuple[int, ...]):
    """All states with noise that samples them from moderate logits."""
    states = FAMILIES[family].enumerate(event, **F64)
    return states, 1e-9 + (1 - 2e-9) * states


def expected(name: str, family: str, event: tuple[int, ...], f, **options):
    """Logits, exact gradient and the exact expectation of an estimator whose slope depends on the sample alone."""
    states, u = noise_of_states(family, event)
    logits = wide(1.5, 1, *event)
    estimator = estimators.build(name, family, event, **options)
    rows = logits.expand_as(states)
    out = estimator(rows, f, noise={"u": u})
    assert torch.equal(out.sample, states)
    p = FAMILIES[family].log_prob(rows, states).exp().reshape(-1, *[1] * len(event))
    exact = estimators.build("exact", family, event)(logits, f).grad
    return exact, (p * out.grad).sum(0, keepdim=True)


def quadratic(event: tuple[int, ...]):
    size = math.prod(event)
    a, b = 2 * draw(size, size) - 1, draw(size)
    return lambda s: ((s.flatten(-len(event)) @ a) * s.flatten(-len(event))).sum(-1) + s.flatten(-len(event)) @ b


@pytest.mark.parametrize(("family", "event"), SHAPES)
def test_reinmax_is_exact_for_a_quadratic_f_and_straight_through_for_a_linear_one(family, event):
    exact, mean = expected("reinmax", family, event, quadratic(event))
    torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)
    exact, mean = expected("straight_through", family, event, quadratic(event))
    assert (mean - exact).abs().max() > 0.05
    w = draw(*event)
    exact, mean = expected("straight_through", family, event, lambda s: (s * w).flatten(-len(event)).sum(-1))
    torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)
    exact, mean = expected("reinmax", family, event, smooth(*event))
    assert (mean - exact).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "event"), SHAPES)
@pytest.mark.parametrize("name", [*HARD, "gst"])
def test_value_is_exactly_hard_and_f_is_evaluated_once(name, family, event):
    if family not in estimators.lookup(name).families:
        pytest.skip("not offered")
    estimator = estimators.build(name, family, event)
    logits = wide(3.0, 5, *event).float()
    noise = estimator.noise(5, torch.Generator().manual_seed(0))
    hard = FAMILIES[family].sample(logits, noise["u"])
    assert torch.equal(estimator(logits, noise=noise), hard) and torch.equal(estimator.sample(logits, noise), hard)
    objective, calls = count(smooth(*event))
    out = estimator(logits.double(), objective, noise={k: v.double() for k, v in noise.items()})
    assert calls == [5] and estimator.evaluations == 1 and not estimator.unbiased and estimator.needs == "gradient"
    assert out.grad.shape == logits.shape and torch.equal(out.loss, smooth(*event)(hard.double()))


@pytest.mark.parametrize("name", ["straight_through", "reinmax"])
def test_bernoulli_and_two_categories_have_the_same_slopes(name):
    # A Bernoulli variable is the categorical one with logits (l, 0).
    logits, f, u = wide(1.0, 4, 3), smooth(3), 1e-9 + (1 - 2e-9) * draw(4, 3).round()
    one = estimators.build(name, "bernoulli", (3,), temperature=1.3)(logits, f, noise={"u": u})
    two = estimators.build(name, "categorical", (3, 2), temperature=1.3)(
        torch.stack([logits, 0 * logits], -1), lambda s: f(s[..., 0]), noise={"u": torch.stack([u, 1 - u], -1)}
    )
    torch.testing.assert_close(one.grad, two.grad[..., 0], atol=1e-12, rtol=0)


def test_a_linear_f_does_not_distinguish_hard_and_soft_values():
    w = draw(3)
    concrete, st = (estimators.build(name, "bernoulli", (3,), temperature=0.7) for name in ("concrete", "st_gumbel"))
    logits, noise = wide(2.0, 4, 3), {"u": draw(4, 3)}
    soft, hard = (e(logits, lambda s: s @ w, noise=noise) for e in (concrete, st))
    torch.testing.assert_close(soft.grad, hard.grad)
    assert not torch.allclose(soft.loss, hard.loss)


def test_gumbel_rao_integrates_straight_through_gumbel_given_the_sample():
    # D = 1: midpoints in the noise.
    n, logit = 20000, torch.tensor([0.8], **F64)
    grid = ((torch.arange(n, **F64) + 0.5) / n).unsqueeze(-1)

    def f(s):
        return torch.exp(1.5 * s).sum(-1)

    st = estimators.build("st_gumbel", "bernoulli", (1,))(logit.expand(n, 1), f, noise={"u": grid}).grad.mean()
    rao = estimators.build("gumbel_rao", "bernoulli", (1,), draws=n)
    ends = [rao(logit.unsqueeze(0), f, noise={"u": u, "v": grid.unsqueeze(1)}).grad for u in (grid[:1], grid[-1:])]
    theta = logit.sigmoid()
    torch.testing.assert_close(((1 - theta) * ends[0] + theta * ends[1]).squeeze(), st, rtol=1e-4, atol=0)


def test_gumbel_rao_has_the_mean_of_straight_through_gumbel_and_less_variance():
    generator = torch.Generator().manual_seed(1)
    logits, f, draws = torch.tensor([[[0.5, -1.0, 0.2]]], **F64), smooth(1, 3), 40000
    moments = []
    for name in ("st_gumbel", "gumbel_rao"):
        estimator = estimators.build(name, "categorical", (1, 3))
        noise = {k: torch.rand((draws, *s), generator=generator, **F64) for k, s in estimator.noise_shapes(1).items()}
        g = vmap(lambda n, e=estimator: e(logits, f, noise=n).grad)(noise)
        moments.append((g.mean(0), g.var(0)))
    (mean, variance), (other, smaller) = moments
    assert ((mean - other) / ((variance + smaller) / draws).sqrt()).abs().max() < 5
    assert smaller.mean() < 0.7 * variance.mean()


def test_gumbel_rao_with_one_draw_has_the_slope_at_that_draw():
    family, logits, u, v = FAMILIES["categorical"], wide(1.0, 2, 2, 3), draw(2, 2, 3), draw(1, 2, 2, 3, seed=4)
    w = draw(2, 3)
    out = estimators.build("gumbel_rao", "categorical", (2, 3), draws=1, temperature=0.6)(
        logits, lambda s: (s * w).sum((-2, -1)), noise={"u": u, "v": v}
    )
    s = family.relax(family.conditional_path(logits, family.sample(logits, u), v[0]), 0.6)
    slope = s * (w - (s * w).sum(-1, keepdim=True)) / 0.6
    torch.testing.assert_close(out.grad, slope)


def test_gst_moves_the_logits_to_agree_with_the_sample():
    # Logits (0, 2, 1), class 0 sampled: raised by 2; class 1 lowered by the gap 1, class 2 is at a gap of 1 already.
    logits, w = torch.tensor([[[0.0, 2.0, 1.0]]], **F64), torch.tensor([3.0, -1.0, 0.5], **F64)
    u = torch.tensor([[[1 - 1e-9, 1e-9, 1e-9]]], **F64)
    out = estimators.build("gst", "categorical", (1, 3), temperature=0.5, gap=1.0)(
        logits, lambda s: (s * w).sum((-2, -1)), noise={"u": u}
    )
    s = (torch.tensor([2.0, 1.0, 1.0], **F64) / 0.5).softmax(-1)
    torch.testing.assert_close(out.grad[0, 0], s * (w - s @ w) / 0.5)
    assert out.sample.tolist() == [[[1.0, 0.0, 0.0]]]


@pytest.mark.parametrize("name", ["concrete", "st_gumbel"])
def test_annealed_temperature_follows_the_published_schedule(name):
    options = {"schedule": "annealed", "temperature": 1.0, "minimum": 0.5, "rate": 1e-3, "anneal_every": 100}
    estimator = estimators.build(name, "bernoulli", (2,), **options)
    logits, noise = wide(1.0, 3, 2).float(), {"u": draw(3, 2).float()}
    for step, tau in [(0, 1.0), (99, 1.0), (100, math.exp(-0.1)), (250, math.exp(-0.2)), (5000, 0.5)]:
        state = {"step": torch.tensor(step)}
        out = functional_call(estimator, state, (logits, lambda s: s.square().sum(-1)), {"noise": noise})
        assert float(out.aux["temperature"]) == pytest.approx(tau)
        assert int(out.buffers["step"]) == step + 1 == int(estimator.advance(state)["step"])
        fixed = estimators.build(name, "bernoulli", (2,), temperature=tau)
        torch.testing.assert_close(out.grad, fixed(logits, lambda s: s.square().sum(-1), noise=noise).grad)
    assert not estimator.tuned and fixed.advance({}) == {}


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="raise temperature"):
        estimators.build("concrete", schedule="annealed", temperature=0.5, minimum=0.5)
    with pytest.raises(ValueError, match="must be one of fixed, annealed"):
        estimators.build("st_gumbel", schedule="learned")


def test_learned_temperature_descends_the_relaxed_loss_at_no_further_evaluation():
    estimator = estimators.build("concrete", "categorical", (2, 3), schedule="learned").double()
    f, logits, noise = smooth(2, 3), wide(1.0, 4, 2, 3), {"u": draw(4, 2, 3)}
    objective, calls = count(f)

    def tuning(log_temperature):
        state = {"log_temperature": log_temperature}
        return estimator.tuning_loss(functional_call(estimator, state, (logits, objective), {"noise": noise}))

    at, step = estimator.log_temperature.detach(), 1e-5
    slope = grad(tuning)(at)
    assert calls == [4]

    def loss(log_temperature):
        family = FAMILIES["categorical"]
        return f(family.relax(family.path(logits, noise["u"]), log_temperature.exp())).mean()

    torch.testing.assert_close(slope, (loss(at + step) - loss(at - step)) / (2 * step), rtol=1e-6, atol=1e-9)
    assert slope.abs() > 1e-3 and estimator.tuned
    # The losses of the task are used where it brings them; the temperature still descends the relaxed ones.
    given = estimator(logits, f, noise=noise, f_b=torch.ones(4, **F64))
    assert torch.equal(given.loss, torch.ones(4, **F64))
    torch.testing.assert_close(estimator.tuning_loss(given), loss(at))


@pytest.mark.parametrize("name", ["concrete", *HARD])
def test_loss_carries_the_direct_gradient_and_nothing_of_the_path(name):
    estimator, logits, f = estimators.build(name, "bernoulli", (3,)), wide(1.0, 2, 3), smooth(3)
    noise = {k: draw(*s) for k, s in estimator.noise_shapes(2).items()}

    def direct(b, logits):
        return f(b) + torch.sin(logits).sum(-1)

    objective = Objective(direct, direct, direct)
    got = grad(lambda logits: estimator(logits, objective, noise=noise).loss.sum())(logits)
    torch.testing.assert_close(got, torch.cos(logits))


def test_without_f_the_module_is_its_stand_in():
    estimator = estimators.build("concrete", "bernoulli", (3,), schedule="learned").double()
    logits, noise, f = wide(1.0, 2, 3), {"u": draw(2, 3)}, smooth(3)
    state = {"log_temperature": torch.tensor(0.3, **F64)}
    chained = grad(lambda x: f(functional_call(estimator, state, (x,), {"noise": noise})).sum())(logits)
    torch.testing.assert_close(chained, functional_call(estimator, state, (logits, f), {"noise": noise}).grad)


def test_reparameterization_by_hand():
    estimator = estimators.build("reparameterization", "gaussian", (2,))
    parameters, noise = 2 * draw(3, 2, 2) - 1, {"u": draw(3, 2)}
    out = estimator(parameters, lambda b: b.square().sum(-1), noise=noise)
    b, mean = out.sample, parameters[..., 0]
    torch.testing.assert_close(out.grad, torch.stack([2 * b, 2 * b * (b - mean)], -1))
    assert estimator.unbiased and estimator.evaluations == 1
