"""ARS+ and ARSM+: averages of ARS over the noise that gives the same samples, DisARM for two classes, less variance."""

import itertools

import pytest
import torch
from noise_cells import F64, draw, smooth, wide

from relax_exp import estimators
from relax_exp.estimators.arsm import ARSM
from relax_exp.estimators.arsm_plus import ARSMPlus, ARSPlus

GRID = 20_001


def uniforms(pi):
    """Uniforms of the Gumbels whose Dirichlet vector is ``pi``."""
    return (-pi).exp()


@pytest.mark.parametrize("c", [3, 4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_ars_plus_is_ars_averaged_over_the_noise_that_gives_the_same_samples(c, seed):
    logits = wide(1.5, 1, 1, c, seed=seed)
    f = smooth(1, c)
    pi = -draw(c, seed=seed + 10).log()
    pi = pi / pi.sum()
    r, partner = seed % c, (seed + 1 + seed // 2) % c
    partner = partner if partner != r else (r + 1) % c
    total = pi[r] + pi[partner]
    t = total * (torch.arange(GRID, **F64) + 0.5) / GRID
    every = pi.expand(GRID, 1, c).clone()
    every[:, 0, r], every[:, 0, partner] = t, total - t
    step = (partner - r) % c - 1
    noise = {
        "u": uniforms(every),
        "reference": torch.full((GRID,), (r + 0.5) / c, **F64),
        "partner": torch.full((GRID,), (step + 0.5) / (c - 1), **F64),
    }
    ars, plus = (
        estimators.build(name, "categorical", (1, c))(logits.expand(GRID, -1, -1), f, noise=noise).grad[:, 0]
        for name in ("ars", "ars_plus")
    )
    # ARS is linear in t as long as all samples stay as they are, ARS+ constant: its jumps are where the intervals end.
    ends = [0, *((plus[1:] - plus[:-1]).abs().amax(-1) > 1e-12).nonzero()[:, 0].add(1).tolist(), GRID]
    assert len(ends) > 2
    for begin, end in itertools.pairwise(ends):
        if plus[begin].abs().max() > 0:  # else all samples are the same
            torch.testing.assert_close(ars[begin:end].mean(0), plus[begin], rtol=0, atol=2e-3)


def test_two_classes_are_disarm():
    logits, f, u = wide(2.0, 5, 3), smooth(3), draw(5, 3, seed=7)
    disarm = estimators.build("disarm", event_shape=(3,))(logits, f, noise={"u": u})
    both = torch.stack([logits, torch.zeros_like(logits)], -1)
    for reference in (0.2, 0.7):
        noise = {"reference": torch.full((5,), reference, **F64), "partner": torch.full((5,), 0.5, **F64)}
        noise["u"] = uniforms(torch.stack([1 - u, u], -1))
        out = estimators.build("ars_plus", "categorical", (3, 2))(both, lambda b: f(b[..., 0]), noise=noise)
        assert torch.equal(out.sample[..., 0], disarm.sample)
        torch.testing.assert_close(out.grad, torch.stack([disarm.grad, -disarm.grad], -1))


def test_arsm_plus_leaves_out_variables_whose_samples_are_all_the_same():
    # The first variable is all but certain, and the second is as in ARSM.
    logits = torch.tensor([[[40.0, 0.0, 0.0], [0.3, -0.2, 0.1]]], **F64).expand(50, -1, -1)
    noise = {"u": draw(50, 2, 3, seed=1)}
    plain, plus = (
        estimators.build(name, "categorical", (2, 3))(logits, smooth(2, 3), noise=noise)
        for name in ("arsm", "arsm_plus")
    )
    assert (plus.grad[:, 0] == 0).all() and (plain.grad[:, 0] != 0).any()
    torch.testing.assert_close(plus.grad[:, 1], plain.grad[:, 1])
    torch.testing.assert_close(plus.loss, plain.loss)


@pytest.mark.parametrize(("name", "plain"), [("ars_plus", "ars"), ("arsm_plus", "arsm")])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_less_variance_and_the_same_mean(name, plain, scale):
    event, n = (3, 3), 40_000
    logits, f = wide(scale, 1, *event), smooth(*event)
    grads = []
    for each in (name, plain):
        estimator = estimators.build(each, "categorical", event)
        noise = estimator.noise(n, torch.Generator().manual_seed(11), dtype=torch.float64)
        grads.append(estimator(logits.expand(n, -1, -1), f, noise=noise).grad)
    exact = estimators.build("exact", "categorical", event)(logits, f, generator=torch.Generator()).grad[0]
    assert grads[0].var(0).sum() < grads[1].var(0).sum()
    error = (grads[0].var(0) / n).sqrt()
    assert ((grads[0].mean(0) - exact).abs() <= 5 * error + 1e-9).all()


def test_they_are_what_they_are_built_on():
    assert issubclass(ARSMPlus, ARSM)
    assert set(ARSPlus("categorical", (2, 3)).noise_shapes(4)) == {"u", "reference", "partner"}
