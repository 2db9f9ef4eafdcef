"""Adam: the published formula, replicas with learning rates of their own, torch's Adam where the two must agree."""

import numpy as np
import pytest
import torch
from torch.func import vmap

from relax_exp.numerics.optimizers import (
    adam,
    adam_init,
    adamw,
    initial_moments,
    momentum,
    radam,
    rmsprop,
    rmsprop_tf,
    sgd,
    warmup_cosine,
)

STEPS = 20


def gradients(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(STEPS, 2, 3, generator=generator, dtype=torch.float64).to(dtype)


def published(lr, betas, grads, eps=1e-8):
    """Kingma & Ba, last paragraph of section 2, in numpy: alpha_t = alpha sqrt(1 - beta2^t) / (1 - beta1^t)."""
    theta, m, v = np.ones((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    for t, g in enumerate(grads.double().numpy(), 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        theta = theta - lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) * m / (np.sqrt(v) + eps)
    return theta


def ours(lr, betas, grads, **options):
    params = {"w": torch.ones(2, 3, dtype=grads.dtype)}
    moments, lr = adam_init(params), torch.tensor(lr, dtype=grads.dtype)
    for t, g in enumerate(grads, 1):
        params, moments = adam(params, {"w": g}, moments, torch.tensor(t), lr, betas, **options)
    return params["w"]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.99999), (0.9, 0.0)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 4e-5)])
def test_it_is_the_published_formula(betas, dtype, tolerance):
    grads = gradients(dtype) * 1e-6  # small enough for the place of eps to show
    result = ours(0.1, betas, grads)
    assert result.dtype == dtype
    np.testing.assert_allclose(result.double().numpy() - 1, published(0.1, betas, grads) - 1, rtol=tolerance)


def test_it_is_torchs_adam_without_eps():
    theta = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1, betas=(0.9, 0.999), eps=0)
    for g in gradients():
        theta.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(ours(0.1, (0.9, 0.999), gradients(), eps=0), theta.detach(), rtol=1e-12, atol=0)


def test_replicas_have_their_own_learning_rates():
    lrs = torch.tensor([0.1, 0.01, 1e-3], dtype=torch.float64)
    params = {"w": torch.ones(3, 2, 3, dtype=torch.float64)}
    moments = adam_init(params)
    step = vmap(lambda p, g, m, t, lr: adam(p, g, m, t, lr), in_dims=(0, None, 0, None, 0))
    for t, g in enumerate(gradients(), 1):
        params, moments = step(params, {"w": g}, moments, torch.tensor(t), lrs)
    for lr, theta in zip(lrs.tolist(), params["w"], strict=True):
        np.testing.assert_allclose(theta, published(lr, (0.9, 0.999), gradients()), rtol=1e-12)


def test_rmsprop_is_torchs():
    theta = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RMSprop([theta], lr=0.1, alpha=0.99, eps=1e-5)
    params, lr = {"w": theta.detach().clone()}, torch.tensor(0.1, dtype=torch.float64)
    moments = adam_init(params)
    for t, g in enumerate(gradients() * 1e-5, 1):  # small enough for the place of eps to show
        theta.grad = g.clone()
        optimizer.step()
        params, moments = rmsprop(params, {"w": g}, moments, torch.tensor(t), lr)
    torch.testing.assert_close(params["w"], theta.detach(), rtol=1e-12, atol=0)
    assert (theta - 1).abs().max() > 0.1 and not moments["m"]["w"].any()


def test_tensorflows_rmsprop_starts_at_one_and_has_eps_inside_the_root():
    params, lr = {"w": torch.ones(2, 3, dtype=torch.float64)}, torch.tensor(0.1, dtype=torch.float64)
    moments, theta, v = initial_moments("rmsprop_tf", params), np.ones((2, 3)), np.ones((2, 3))
    for t, g in enumerate(gradients() * 1e-2, 1):
        params, moments = rmsprop_tf(params, {"w": g}, moments, torch.tensor(t), lr)
        v = 0.99 * v + 0.01 * g.numpy() ** 2
        theta = theta - 0.1 * g.numpy() / np.sqrt(v + 1e-5)
    np.testing.assert_allclose(params["w"], theta, rtol=1e-12)
    assert not initial_moments("rmsprop", params)["v"]["w"].any()


def test_gradient_descent():
    params, grads = {"w": torch.ones(3)}, {"w": torch.tensor([1.0, 0.0, -2.0])}
    new, moments = sgd(params, grads, adam_init(params), torch.tensor(1), torch.tensor(0.1))
    torch.testing.assert_close(new["w"], torch.tensor([0.9, 1.0, 1.2]))
    assert set(moments) == {"m", "v"}


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.999)])
def test_momentum_is_torchs(betas):
    theta = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.1, momentum=betas[0])
    params, lr = {"w": theta.detach().clone()}, torch.tensor(0.1, dtype=torch.float64)
    moments = adam_init(params)
    for t, g in enumerate(gradients(), 1):
        theta.grad = g.clone()
        optimizer.step()
        params, moments = momentum(params, {"w": g}, moments, torch.tensor(t), lr, betas)
    torch.testing.assert_close(params["w"], theta.detach(), rtol=1e-12, atol=1e-14)
    assert moments["m"]["w"].any() and not moments["v"]["w"].any()


def test_nothing_is_changed_in_place():
    params, grads = {"w": torch.ones(3)}, {"w": torch.ones(3)}
    moments = adam_init(params)
    adam(params, grads, moments, torch.tensor(1), torch.tensor(0.1))
    assert (params["w"] == 1).all() and (grads["w"] == 1).all()
    assert (moments["m"]["w"] == 0).all() and (moments["v"]["w"] == 0).all()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.9)])
def test_radam_is_torchs(betas):
    """Through the steps in which it is not rectified, and some in which it is."""
    theta = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RAdam([theta], lr=0.1, betas=betas)
    params, moments = {"w": torch.ones(2, 3, dtype=torch.float64)}, adam_init({"w": torch.zeros(2, 3).double()})
    lr = torch.tensor(0.1, dtype=torch.float64)
    for t, g in enumerate(gradients(), 1):
        theta.grad = g.clone()
        optimizer.step()
        params, moments = radam(params, {"w": g}, moments, torch.tensor(t), lr, betas)
        torch.testing.assert_close(params["w"], theta.detach(), rtol=1e-9, atol=1e-12)


def test_adamw_with_warmup_and_cosine_is_torchs():
    """Two updates an epoch, through the warm-up, the cosine and one epoch at the rate zero."""
    theta = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([theta], lr=0.1)
    schedules = torch.optim.lr_scheduler
    linear = schedules.LinearLR(optimizer, start_factor=1e-3, total_iters=3)
    falling = schedules.CosineAnnealingLR(optimizer, T_max=6)
    schedule = schedules.SequentialLR(optimizer, [linear, falling], milestones=[3])
    params, moments = {"w": torch.ones(2, 3, dtype=torch.float64)}, adam_init({"w": torch.zeros(2, 3).double()})
    for t, g in enumerate(gradients()):
        theta.grad = g.clone()
        optimizer.step()
        lr = warmup_cosine(torch.tensor(0.1, dtype=torch.float64), torch.tensor(t // 2), 3, 9)
        assert float(lr) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)
        params, moments = adamw(params, {"w": g}, moments, torch.tensor(t + 1), lr)
        torch.testing.assert_close(params["w"], theta.detach(), rtol=1e-12, atol=1e-15)
        if t % 2:
            schedule.step()
    assert t // 2 == 9 and float(lr) == 0


def test_the_rate_stays_after_a_warmup_without_an_end():
    rates = [float(warmup_cosine(torch.tensor(2.0), torch.tensor(epoch), 4, None)) for epoch in (0, 2, 4, 400)]
    assert rates == pytest.approx([0.002, 1.001, 2.0, 2.0])
