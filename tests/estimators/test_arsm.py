"""ARS and ARSM: the swaps against plain ones, ARM for two classes, hand-computed and exact expectations, shapes."""

import pytest
import torch
from noise_cells import F64, cells, count, draw, smooth, wide

from relax_exp import estimators
from relax_exp.distributions import Categorical, gumbel
from relax_exp.estimators.arsm import swapped


@pytest.mark.parametrize("c", [2, 3, 4, 7])
@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_swapped_is_the_argmax_after_a_plain_swap(c, scale):
    log_p, g = wide(scale, 6, 3, c).log_softmax(-1), gumbel(draw(6, 3, c, seed=5))
    i, j = torch.triu_indices(c, c, 1)
    found = swapped(log_p, g, i.unsqueeze(-1), j.unsqueeze(-1))
    assert found.shape == (len(i), 6, 3, c)
    for k in range(len(i)):
        order = torch.arange(c)
        order[i[k]], order[j[k]] = j[k], i[k]
        assert torch.equal(found[k], Categorical.hard(log_p + g[..., order]))
        assert torch.equal(swapped(log_p, g, j[k].expand(1, 6), i[k].expand(1, 6))[0], found[k])


def two_classes(u):
    """Uniforms of the Gumbels whose Dirichlet vector is (1 - u, u): ``(N, D)`` -> ``(N, D, 2)``."""
    return torch.stack([(u - 1).exp(), (-u).exp()], -1)


@pytest.mark.parametrize("name", ["arsm", "ars"])
def test_two_classes_are_arm(name):
    # logits (l, 0): class 0 stands for b = 1, and pi_1 = u
    logits, f, u = wide(2.0, 5, 3), smooth(3), draw(5, 3, seed=7)
    arm = estimators.build("arm", event_shape=(3,))(logits, f, noise={"u": u})
    both = torch.stack([logits, torch.zeros_like(logits)], -1)
    # of ARS, too, both references give ARM
    for reference in (0.2, 0.7):
        noise = {"u": two_classes(u), "reference": torch.full((5,), reference, **F64)}
        out = estimators.build(name, "categorical", (3, 2))(both, lambda b: f(b[..., 0]), noise=noise)
        assert torch.equal(out.sample[..., 0], arm.sample)
        torch.testing.assert_close(out.grad, torch.stack([arm.grad, -arm.grad], -1))


@pytest.mark.parametrize("scale", [0.1, 3.0, 8.0])
def test_expectation_over_the_cells_is_the_exact_gradient_for_two_classes(scale):
    logits, f = wide(scale, 3), smooth(3, 2)
    u, probability = cells(logits)
    both = torch.stack([logits, torch.zeros_like(logits)], -1)
    estimator = estimators.build("arsm", "categorical", (3, 2))
    grad = estimator(both.expand(len(u), -1, -1), f, noise={"u": two_classes(u)}).grad
    exact = estimators.build("exact", "categorical", (3, 2))(both.unsqueeze(0), f, generator=torch.Generator()).grad
    torch.testing.assert_close(torch.tensordot(probability, grad, dims=1), exact[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("event", [(1, 2), (2, 3), (3, 5)])
def test_arsm_is_ars_averaged_over_the_references(event):
    logits, f, u = wide(2.0, 4, *event), smooth(*event), draw(4, *event, seed=4)
    ars, arsm = (estimators.build(name, "categorical", event) for name in ("ars", "arsm"))
    references = (torch.arange(event[1], **F64) + 0.5) / event[1]
    each = [ars(logits, f, noise={"u": u, "reference": r.expand(4)}).grad for r in references]
    out = arsm(logits, f, noise={"u": u})
    torch.testing.assert_close(out.grad, sum(each) / event[1])
    torch.testing.assert_close(out.grad.sum(-1), torch.zeros(4, event[0], **F64))
    assert torch.equal(out.sample, Categorical.sample(logits, u))


def test_arsm_by_hand():
    # exponentials (1, 2, 5), equal logits: pi = (1, 2, 5) / 8, the smallest wins. f of the classes: 0, 8, 80.
    # swap 01: class 1; swap 02: class 2; swap 12: class 0.
    u = torch.tensor([[[1.0, 2.0, 5.0]]], **F64).neg().exp()
    values = torch.tensor([0.0, 8.0, 80.0], **F64)
    arsm = estimators.build("arsm", "categorical", (1, 3))
    out = arsm(torch.zeros(1, 1, 3, **F64), lambda b: (b * values).sum((-1, -2)), noise={"u": u})
    table = torch.tensor([[0.0, 8.0, 80.0], [8.0, 0.0, 0.0], [80.0, 0.0, 0.0]], **F64)
    weight = 1 / 3 - torch.tensor([1.0, 2.0, 5.0], **F64) / 8
    torch.testing.assert_close(out.grad[0, 0], (table - table.mean(0)) @ weight)
    assert out.sample[0, 0].tolist() == [1, 0, 0] and out.loss.tolist() == [0]


@pytest.mark.parametrize("name", ["ars", "arsm"])
@pytest.mark.parametrize("scale", [2.0, 8.0])
def test_unbiased(name, scale):
    event, n = (2, 3), 60_000
    logits, f, estimator = wide(scale, 1, *event), smooth(*event), estimators.build(name, "categorical", event)
    exact = estimators.build("exact", "categorical", event)(logits, f, generator=torch.Generator()).grad[0]
    noise = estimator.noise(n, torch.Generator().manual_seed(11), dtype=torch.float64)
    grad = estimator(logits.expand(n, -1, -1), f, noise=noise).grad
    z = (grad.mean(0) - exact) / (grad.std(0) / n**0.5)
    assert z.abs().max() < 5


@pytest.mark.parametrize(("name", "rows"), [("ars", 5), ("arsm", 11), ("ars_plus", 5), ("arsm_plus", 11)])
def test_evaluations_and_reuse_of_f_b(name, rows):
    estimator = estimators.build(name, "categorical", (2, 5))
    assert estimator.evaluations == rows
    logits, noise = wide(1.0, 4, 2, 5), estimator.noise(4, torch.Generator().manual_seed(2), dtype=torch.float64)
    f, calls = count(smooth(2, 5))
    out = estimator(logits, f, noise=noise)
    reused = estimator(logits, f, noise=noise, f_b=smooth(2, 5)(estimator.sample(logits, noise)))
    assert calls == [4 * rows, 4 * (rows - 1)]
    torch.testing.assert_close(reused, out)


@pytest.mark.parametrize("name", ["ars", "arsm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [2, 4])
def test_finite_at_extremes_and_zero_for_a_constant(name, dtype, c):
    estimator = estimators.build(name, "categorical", (2, c))
    logits = wide(200.0, 3, 2, c).to(dtype)
    noise = estimator.noise(3, torch.Generator().manual_seed(2), dtype=dtype)
    for scale in (0, 1):
        out = estimator(logits, lambda b: 1e6 * b[..., 0].sum(-1), noise={k: scale * v for k, v in noise.items()})
        assert out.grad.isfinite().all() and out.grad.dtype == dtype
    constant = estimator(logits / 100, lambda b: b.sum((-1, -2)) * 0 + 7, noise=noise)
    assert constant.grad.abs().max() < 1e-5


def test_many_classes():
    with pytest.raises(ValueError, match="use ars, which takes 1000"):
        estimators.build("arsm", "categorical", (1, 1000))
    ars = estimators.build("ars", "categorical", (1, 1000))
    noise = ars.noise(1, torch.Generator().manual_seed(0))
    out = ars(torch.zeros(1, 1, 1000), lambda b: b[..., 0, :3].sum(-1), noise=noise)
    assert out.grad.isfinite().all()
