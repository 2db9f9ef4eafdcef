"""Where numbers become extreme: every registered estimator stays finite, in single and in double precision."""

import math

import pytest
import torch
from test_contract import SHAPES, SMALLEST

from relax_exp import estimators
from relax_exp.distributions import FAMILIES
from relax_exp.numerics.random_streams import stream

CELLS = [(n, f, o) for n, e in estimators.REGISTRY.items() for f in e.families for o in e.variants]
DISCRETE = [cell for cell in CELLS if cell[1] in ("bernoulli", "categorical")]
VALUES = [cell for cell in DISCRETE if estimators.needs(cell[0], cell[2]) == "value"]
DTYPES = (torch.float32, torch.float64)


def smooth(family):
    dims = tuple(range(-FAMILIES[family].event_dims, 0))
    return lambda b: (b.sin() * 2).sum(dims).square() + b.sum(dims)


LOSSES = {
    "smooth": smooth,
    "constant": lambda family: lambda b: 0 * smooth(family)(b) + 3,
    "huge": lambda family: lambda b: 1e8 * (1 + smooth(family)(b)),
}


def call(name, family, options, logits, f, noise=None):
    """The output, which must be finite, as must the tuning gradients be."""
    shape = tuple(logits.shape[1 : 1 + FAMILIES[family].shape_dims])
    shape = (logits.shape[1], logits.shape[1] // 2) if family in ("subset", "top_k") else shape
    built = estimators.build(name, family, shape, generator=stream(0, "fuzz"), **options).to(logits.dtype)
    if noise is None:
        noise = built.noise(len(logits), stream(1, "fuzz"), dtype=logits.dtype)
    else:
        noise = {k: noise(torch.empty(s, dtype=logits.dtype)) for k, s in built.noise_shapes(len(logits)).items()}
    out = built(logits, f, noise=noise)
    assert out.grad.isfinite().all() and out.loss.isfinite().all()
    if built.tuned:
        grads = torch.autograd.grad(built.tuning_loss(out), list(built.parameters()), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in grads)
    return out


def ordinary(family, dtype, shape=None, rows=4):
    parameters = FAMILIES[family].parameter_shape(shape or SHAPES[family])
    return torch.randn((rows, *parameters), generator=stream(2, "fuzz"), dtype=dtype)


@pytest.mark.parametrize(("name", "family", "options"), CELLS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite(name, family, options, dtype):
    """Logits up to 100 either way, one variable and one row, losses that are constant or 1e8, noise at 0 and at 1."""
    logits = ordinary(family, dtype)
    limit = 100 if family != "gaussian" else 5
    for size in (1, limit / 4, limit):
        for loss in LOSSES.values():
            call(name, family, options, (size * logits).clamp(-limit, limit), loss(family))
    call(name, family, options, limit * logits.sign(), smooth(family))
    call(name, family, options, ordinary(family, dtype, SMALLEST[family], 1), smooth(family))
    for edge in (torch.zeros_like, torch.ones_like):
        call(name, family, options, logits, smooth(family), edge)


@pytest.mark.parametrize(("name", "family", "options"), VALUES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_infinite_loss_of_an_impossible_sample_counts_for_nothing(name, family, options, dtype):
    """p underflows to 0 there, and 0 times infinity is no number."""
    logits = torch.tensor([0.3, -0.5, -1e4], dtype=dtype)
    logits = logits.expand(64, 3) if family == "bernoulli" else logits.expand(64, 2, 3)
    last = (lambda b: b[..., 2]) if family == "bernoulli" else (lambda b: b[..., 2].sum(-1))

    def f(b):
        return torch.where(last(b) > 0.5, math.inf, smooth(family)(b))

    call(name, family, options, logits, f)


@pytest.mark.parametrize("name", ["reinforce", "lax", "a2c"])
@pytest.mark.parametrize(("mean", "log_std"), [(1e4, -6.0), (-1e3, -8.0), (1.0, -10.0)])
def test_a_gaussian_score_keeps_its_digits_in_single_precision(name, mean, log_std):
    parameters = torch.tensor([mean, log_std], dtype=torch.float64).expand(16, 2, 2)
    u = torch.rand((16, 2), generator=stream(3, "fuzz"))
    grads = {}
    for dtype in DTYPES:
        built = estimators.build(name, "gaussian", (2,), generator=stream(0, "fuzz")).to(dtype)
        value = torch.linspace(1, 2, 16, dtype=dtype)  # of f, whatever is sampled: only the score can lose digits
        given = {"noise": {"u": u.to(dtype)}, "f_b": value}
        grads[dtype] = built(parameters.to(dtype), lambda b: b.sum(-1), **given).grad.double()
    if name == "lax":  # whose surrogate sees the sample itself
        grads = {dtype: grad[..., 0] * math.exp(log_std) for dtype, grad in grads.items()}
        torch.testing.assert_close(grads[torch.float32], grads[torch.float64], rtol=2e-2, atol=2e-2)
    else:
        torch.testing.assert_close(grads[torch.float32], grads[torch.float64], rtol=1e-4, atol=1e-4)
