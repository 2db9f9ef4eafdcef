"""DisARM over stick breaking: its importance-weighted form is CARMS of two, its bound is that of pairs of bits."""

import pytest
import torch
from noise_cells import F64, count, draw, smooth, wide

from relax_exp import estimators

PAIRED = {"order": "ascending", "form": "importance"}


def test_the_importance_weighted_form_is_carms_of_two_samples():
    logits, f, x = wide(2.0, 6, 2, 4), smooth(2, 4), draw(6, 2, 4, seed=5)
    # CARMS stops where 1 - d < pi: exponentials 1 - x and x give d = (1 - x, x), so the first sample where x < pi.
    carms = estimators.build("carms", "categorical", (2, 4), samples=2)
    theirs = carms(logits, f, noise={"u": torch.stack([(x - 1).exp(), (-x).exp()])})
    ours = estimators.build("disarm_sb", "categorical", (2, 4), **PAIRED)(logits, f, noise={"u": x})
    assert torch.equal(ours.sample, theirs.sample[0])
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("order", ["index", "descending"])
def test_the_importance_weighted_form_needs_the_rarest_first(order):
    with pytest.raises(ValueError, match=f"set order=ascending, not {order}"):
        estimators.build("disarm_sb", "categorical", (2, 4), order=order, form="importance")


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_bound_of_two_classes_is_that_of_bits(samples):
    logits, f, u = wide(2.0, 5, 3), smooth(3), draw(2 * samples, 5, 3, seed=7)
    # Of a pair the first uniform makes both; decisions go right, to class 1, where logit + logit(u) > 0.
    both = torch.stack([torch.zeros_like(logits), logits], -1)
    noise = torch.stack([u, u], -1)
    sticks = estimators.build("disarm_sb_bound", "categorical", (3, 2), samples=samples)
    ours = sticks(both, lambda b: f(b[..., 1]), noise={"u": noise})
    x = torch.where(logits < 0, 1 - u[::2], u[::2])
    pair = torch.stack([(x - 1).exp(), (-x).exp()], 1).flatten(0, 1)
    bits = estimators.build("arms_bound", event_shape=(3,), samples=samples)
    theirs = bits(logits, f, noise={"u": pair})
    assert torch.equal(ours.sample[..., 1], theirs.sample)
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.grad[..., 1], theirs.grad)
    torch.testing.assert_close(ours.grad.sum(-1), torch.zeros(5, 3, **F64))


@pytest.mark.parametrize("order", ["index", "ascending"])
def test_the_bound_evaluates_each_pair_once(order):
    estimator = estimators.build("disarm_sb_bound", "categorical", (2, 4), samples=3, order=order)
    assert (estimator.evaluations, estimator.bound_samples, estimator.target) == (6, 3, "bound")
    logits, noise = wide(1.0, 4, 2, 4), estimator.noise(4, torch.Generator().manual_seed(2), dtype=torch.float64)
    f, calls = count(smooth(2, 4))
    out = estimator(logits, f, noise=noise)
    reused = estimator(logits, f, noise=noise, f_b=smooth(2, 4)(estimator.sample(logits, noise)))
    assert calls == [4 * 6]
    torch.testing.assert_close(reused, out)
    with pytest.raises(TypeError, match="has to choose the samples itself"):
        estimator.from_sample(logits, out.sample, out.loss)
