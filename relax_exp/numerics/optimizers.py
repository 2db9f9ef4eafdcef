"""Optimisers as pure functions: state in, state out, one learning rate for each replica."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

BETAS = (0.9, 0.999)
Moments = dict[str, Any]
Step = tuple[Any, Moments]  # new parameters and moments


def adam_init(params: Any) -> Moments:
    """Return zero moments for a pytree of parameters."""
    zeros = tree_map(torch.zeros_like, params)
    return {"m": zeros, "v": zeros}


def adam(
    params: Any,
    grads: Any,
    moments: Moments,
    t: Tensor,
    lr: Tensor,
    betas: tuple[float, float] = BETAS,
    eps: float = 1e-8,
) -> Step:
    """Take one step of Adam; ``t`` counts from one.

    Kingma & Ba (2015), in the order given at the end of their section 2: the bias corrections go into the step size and
    eps is added to the *uncorrected* sqrt(v). With beta2 = .99999, as in the REBAR and RELAX code, that differs visibly
    from adding it after the correction.

    Returns:
        New parameters and moments.
    """
    correction1, correction2 = (_one_minus_power(beta, t.to(lr.dtype)) for beta in betas)
    size = lr * correction2.sqrt() / correction1
    m, v = _averages(moments, grads, betas)
    new = tree_map(lambda p, m, v: p - size * m / (v.sqrt() + eps), params, m, v)
    return new, {"m": m, "v": v}


def _averages(moments: Moments, grads: Any, betas: tuple[float, float]) -> tuple[Any, Any]:
    """Return the moving averages of the gradients and of their squares, one step on."""
    beta1, beta2 = betas
    m = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, moments["m"], grads)
    v = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, moments["v"], grads)
    return m, v


def _one_minus_power(beta: float, t: Tensor) -> Tensor:
    """Compute 1 - beta^t without cancellation: in single precision 1 - .99999 is wrong in the third digit.

    What has an exp in it Inductor computes once on a CPU; expm1 it would compute anew for every parameter.
    """
    x = t * (math.log(beta) if beta else -math.inf)
    return torch.tanh(-0.5 * x) * (torch.exp(x) + 1)


def radam(
    params: Any,
    grads: Any,
    moments: Moments,
    t: Tensor,
    lr: Tensor,
    betas: tuple[float, float] = BETAS,
    eps: float = 1e-8,
) -> Step:
    """Take one step of rectified Adam, with the arguments of `adam` (Liu et al. 2020, Algorithm 2, in torch's form).

    While the variance of the second moment is unbounded (the first five steps with beta2 = .999) a step is that of
    momentum alone, lr m / (1 - beta1^t).
    """
    steps = t.to(lr.dtype)
    correction1, correction2 = (_one_minus_power(beta, steps) for beta in betas)
    most = 2 / (1 - betas[1]) - 1
    length = most - 2 * steps * (1 - correction2) / correction2
    rectified = ((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)).clamp(min=0).sqrt()
    plain, size, root = length <= 5, lr / correction1, correction2.sqrt()
    m, v = _averages(moments, grads, betas)
    scale = tree_map(lambda v: torch.where(plain, 1.0, rectified * root / (v.sqrt() + eps)), v)
    new = tree_map(lambda p, m, scale: p - size * m * scale, params, m, scale)
    return new, {"m": m, "v": v}


def adamw(
    params: Any,
    grads: Any,
    moments: Moments,
    t: Tensor,
    lr: Tensor,
    betas: tuple[float, float] = BETAS,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Step:
    """Take one step of AdamW, with the arguments of `adam` (Loshchilov & Hutter 2019, in torch's form and constants).

    Parameters shrink by lr ``weight_decay`` apart from the step, and eps is added to the *corrected* sqrt(v).
    """
    correction1, correction2 = (_one_minus_power(beta, t.to(lr.dtype)) for beta in betas)
    size, kept, root = lr / correction1, 1 - lr * weight_decay, correction2.sqrt()
    m, v = _averages(moments, grads, betas)
    new = tree_map(lambda p, m, v: kept * p - size * m / (v.sqrt() / root + eps), params, m, v)
    return new, {"m": m, "v": v}


def sgd(params: Any, grads: Any, moments: Moments, t: Tensor, lr: Tensor, betas: tuple[float, float] = BETAS) -> Step:
    """Take one step of plain gradient descent, with the arguments of `adam`; moments stay as they are."""
    return tree_map(lambda p, g: p - lr * g, params, grads), moments


def momentum(
    params: Any,
    grads: Any,
    moments: Moments,
    t: Tensor,
    lr: Tensor,
    betas: tuple[float, float] = BETAS,
) -> Step:
    """Take one step of gradient descent with momentum, with the arguments of `adam`; of ``betas`` it uses the first.

    m = beta m + g from m = 0 and a step of lr m, as in torch (Sutskever et al. 2013 have the rate inside of m, which is
    the same where it is constant).
    """
    m = tree_map(lambda m, g: betas[0] * m + g, moments["m"], grads)
    return tree_map(lambda p, m: p - lr * m, params, m), {**moments, "m": m}


def rmsprop(
    params: Any,
    grads: Any,
    moments: Moments,
    t: Tensor,
    lr: Tensor,
    betas: tuple[float, float] = BETAS,
    eps: float = 1e-5,
    alpha: float = 0.99,
    inside: bool = False,
) -> Step:
    """Take one step of RMSProp, with the arguments of `adam` and the constants of the standard A2C implementations.

    ``betas`` is not used. v = alpha v + (1 - alpha) g^2 from v = 0 and a step of g / (sqrt(v) + eps), as in torch. With
    ``inside`` the step is g / sqrt(v + eps) and v starts at 1 (`initial_moments`), as in TensorFlow and the A2C code of
    2017. Inside the root eps = 1e-5 bounds the divisor by 3e-3, outside by 1e-5: while gradients are small or few,
    TensorFlow's steps are much the shorter ones.
    """
    v = tree_map(lambda v, g: alpha * v + (1 - alpha) * g * g, moments["v"], grads)
    new = tree_map(lambda p, g, v: p - lr * g / ((v + eps).sqrt() if inside else v.sqrt() + eps), params, grads, v)
    return new, {**moments, "v": v}


rmsprop_tf = functools.partial(rmsprop, inside=True)


def none(params: Any, grads: Any, moments: Moments, t: Tensor, lr: Tensor, betas: tuple[float, float] = BETAS) -> Step:
    """Take no step, with the arguments of `adam`: for what does not learn."""
    return params, moments


OPTIMIZERS: dict[str, Callable[..., Step]] = {
    "adam": adam,
    "adamw": adamw,
    "momentum": momentum,
    "radam": radam,
    "rmsprop": rmsprop,
    "rmsprop_tf": rmsprop_tf,
    "sgd": sgd,
    "none": none,
}


def warmup_cosine(lr: Tensor, epoch: Tensor, warmup: int, total: int | None) -> Tensor:
    """Return the learning rate in an epoch, counted from zero, of what rises linearly and then falls along a cosine.

    It is that of torch's LinearLR from a thousandth of ``lr`` over ``warmup`` epochs, followed by its CosineAnnealingLR
    to zero at epoch ``total``, each stepped once an epoch, and stays at zero from there; without ``total`` it stays
    after the warm-up.
    """
    e = epoch.to(lr.dtype)
    factor = torch.ones_like(e)
    if total is not None:
        factor = (1 + torch.cos(math.pi * ((e - warmup) / (total - warmup)).clamp(0, 1))) / 2
    if warmup:
        factor = torch.where(e < warmup, 1e-3 + (1 - 1e-3) * e / warmup, factor)
    return lr * factor


def initial_moments(optimizer: str, params: Any) -> Moments:
    """Return the moments that one of `OPTIMIZERS` starts from: zeros, but ones for v of TensorFlow's RMSProp."""
    moments = adam_init(params)
    return moments | {"v": tree_map(torch.ones_like, params)} if optimizer == "rmsprop_tf" else moments
