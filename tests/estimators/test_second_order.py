"""MVE at a finite temperature: the least squares that it solves, its limits, and the course of its temperature."""

import math

import pytest
import torch
from noise_cells import F64, draw

from relax_exp import estimators
from relax_exp.errors import OptionError

CLASSES = 4


def slopes(estimator, logits):
    """Return S(b) of every class b, ``(C, C, C)``."""
    found = []
    for u in 1e-9 + (1 - 2e-9) * torch.eye(CLASSES, **F64):
        found.append(torch.func.jacrev(lambda row, u=u: estimator.relax(row, {"u": u[None, None]})[0, 0])(logits))
    return torch.stack(found)[:, :, 0, 0]


def least_squares(p, temperature):
    """Solve what the class is defined by, column by column: a quadratic form under linear constraints."""
    jacobian = torch.diag(p) - torch.outer(p, p)
    at = torch.arange(CLASSES**2).reshape(CLASSES, CLASSES)  # unknown S of class x, row i
    form, side = torch.diag(2 * p.repeat_interleave(CLASSES)), torch.zeros(CLASSES**2, CLASSES, **F64)
    linear = torch.zeros(CLASSES, CLASSES**2, **F64)
    for i in range(CLASSES):
        for x in range(CLASSES):
            pair = torch.zeros(CLASSES**2, **F64)
            pair[at[x, i]] += p[x]
            pair[at[i, x]] += p[i]
            form += temperature * torch.outer(pair, pair)
            side += temperature * torch.outer(pair, jacobian[i] * (i == x))
            linear[i, at[x, i]] = p[x]
    whole = torch.cat([torch.cat([form, linear.T], 1), torch.cat([linear, torch.zeros(CLASSES, CLASSES, **F64)], 1)])
    return torch.linalg.solve(whole, torch.cat([side, jacobian]))[: CLASSES**2].reshape(CLASSES, CLASSES, CLASSES)


@pytest.mark.parametrize("temperature", [0.3, 2.0, 50.0])
def test_mve_is_the_least_squares_solution(temperature):
    logits = 3 * draw(1, 1, CLASSES)
    estimator = estimators.build("mve", "categorical", (1, CLASSES), temperature=temperature)
    torch.testing.assert_close(
        slopes(estimator, logits), least_squares(logits[0, 0].softmax(-1), temperature), rtol=0, atol=1e-13
    )


def test_mve_goes_from_straight_through_to_its_limit():
    logits = 3 * draw(1, 1, CLASSES)
    for end, other in ((1e-9, "straight_through"), (1e9, "mve")):
        near = estimators.build("mve", "categorical", (1, CLASSES), temperature=end)
        there = estimators.build(other, "categorical", (1, CLASSES))
        torch.testing.assert_close(slopes(near, logits), slopes(there, logits), rtol=0, atol=1e-8)
    assert there.second_order and not near.second_order


@pytest.mark.parametrize("temperature", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0])
def test_single_precision_is_enough(temperature, scale):
    logits, u, w = scale * (2 * draw(200, 2, 16) - 1), draw(200, 2, 16), draw(16)
    estimator = estimators.build("mve", "categorical", (2, 16), temperature=temperature)
    grads = [
        torch.func.grad(lambda row, t=t: (estimator.relax(row, {"u": u.to(t)}) * w.to(t)).sum())(logits.to(t))
        for t in (torch.float64, torch.float32)
    ]
    assert grads[0].abs().max() > 0.01
    torch.testing.assert_close(grads[1].double(), grads[0], rtol=0, atol=1e-4)


def test_the_temperature_rises_in_steps():
    estimator = estimators.build(
        "mve", "categorical", (1, CLASSES), temperature=1.0, growth=math.log(10) / 4, anneal_every=2
    )
    logits, seen = draw(1, 1, CLASSES), []
    for _ in range(5):
        out = estimator(logits, lambda s: s[..., 0].sum(-1), noise={"u": draw(1, 1, CLASSES)})
        seen.append(float(out.aux["temperature"]))
        estimator.load_state_dict(out.buffers)
    assert seen == pytest.approx([1, 1, 10**0.5, 10**0.5, 10], rel=1e-6)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": "hot"}, {"growth": 0.1}])
def test_options_that_say_nothing_are_refused(options):
    with pytest.raises(OptionError, match="MVE: "):
        estimators.build("mve", "categorical", (1, CLASSES), **options)


@pytest.mark.parametrize("name", ["straight_through", "st_gumbel", "gumbel_rao", "gst"])
def test_annealed_temperatures_are_those_of_fixed_ones(name):
    """At step 2 of an annealed schedule the gradient is that of the fixed temperature which it has reached."""
    given = {"temperature": 1.0, "schedule": "annealed", "minimum": 0.1, "rate": 0.3, "anneal_every": 1}
    annealed = estimators.build(name, "categorical", (2, CLASSES), **given)
    annealed.step.fill_(2)
    fixed = estimators.build(name, "categorical", (2, CLASSES), temperature=math.exp(-0.6))
    logits, generator = draw(5, 2, CLASSES), torch.Generator().manual_seed(0)
    noise = {k: torch.rand(s, generator=generator, **F64) for k, s in fixed.noise_shapes(5).items()}
    outs = [each(logits, lambda s: s.square().sum((-1, -2)) + s[..., 0, 0], noise=noise) for each in (annealed, fixed)]
    torch.testing.assert_close(outs[0].grad, outs[1].grad, rtol=1e-6, atol=1e-9)
    assert float(outs[0].aux["temperature"]) == pytest.approx(math.exp(-0.6), rel=1e-6)
