"""Local expectation gradients, BitFlip-1 and UGC: exact expectations over cells of the noise, identities, shapes."""

import pytest
import torch
from noise_cells import F64, cells, count, smooth, wide

from relax_exp import estimators


def expectation(estimator, logits, f):
    """Of the gradient over all cells of u and all choices of the coordinate, with every draw."""
    u, probability = cells(logits[0])
    noise = {"u": u}
    d = logits.shape[-1]
    if "coordinate" in estimator.noise_shapes(1):
        middles = (torch.arange(d, **F64) + 0.5) / d
        noise = {"u": u.repeat(d, 1), "coordinate": middles.repeat_interleave(len(u))}
        probability = probability.repeat(d) / d
    grad = estimator(logits.expand(len(probability), -1), f, noise=noise).grad
    return probability @ grad, grad, probability


@pytest.mark.parametrize("scale", [0.1, 3.0, 8.0])
@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize(
    ("name", "options"), [("local_expectation", {}), ("bitflip", {}), ("ugc", {}), ("ugc", {"threshold": 0.9})]
)
def test_expectation_over_the_cells_is_the_exact_gradient(name, options, d, scale):
    logits, f = wide(scale, 1, d), smooth(d)
    exact = estimators.build("exact", event_shape=(d,))(logits, f, generator=torch.Generator()).grad[0]
    mean, _, _ = expectation(estimators.build(name, event_shape=(d,), **options), logits, f)
    torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["local_expectation", "bitflip", "ugc"])
def test_no_variance_for_one_latent(name):
    logits, f = wide(0.5, 1, 1), smooth(1)
    _, grad, _ = expectation(
        estimators.build(name, threshold=1.0) if name == "ugc" else estimators.build(name), logits, f
    )
    torch.testing.assert_close(grad, grad[:1].expand_as(grad))


def test_local_expectation_is_bitflip_averaged_over_the_coordinates():
    logits, f = wide(2.0, 5, 3), smooth(3)
    local, flip = (estimators.build(name, event_shape=(3,)) for name in ("local_expectation", "bitflip"))
    u = local.noise(5, torch.Generator().manual_seed(1), dtype=torch.float64)["u"]
    flips = [flip(logits, f, noise={"u": u, "coordinate": torch.full((5,), c, **F64)}).grad for c in (0.0, 0.5, 1.0)]
    assert [g.ne(0).any(0).tolist() for g in flips] == torch.eye(3).bool().tolist()
    torch.testing.assert_close(sum(flips) / 3, local(logits, f, noise={"u": u}).grad)


def test_ugc_takes_bitflip_near_the_ends_and_disarm_elsewhere():
    # threshold / D = 1/8: theta = sigma(3) is nearer to 1, sigma(1) is not
    logits, f = torch.tensor([[3.0, -3.0, 1.0, -1.0]], **F64).expand(6, -1), smooth(4)
    ugc, flip, disarm = (estimators.build(name, event_shape=(4,)) for name in ("ugc", "bitflip", "disarm"))
    noise = ugc.noise(6, torch.Generator().manual_seed(1), dtype=torch.float64)
    out = ugc(logits, f, noise=noise)
    torch.testing.assert_close(out.grad[:, :2], flip(logits, f, noise=noise).grad[:, :2])
    torch.testing.assert_close(out.grad[:, 2:], disarm(logits, f, noise=noise).grad[:, 2:])
    never = estimators.build("ugc", event_shape=(4,), threshold=0.0)(logits, f, noise=noise)
    assert torch.equal(never.grad, disarm(logits, f, noise=noise).grad)
    always = estimators.build("ugc", event_shape=(4,), threshold=3.0)(logits, f, noise=noise)
    assert torch.equal(always.grad, flip(logits, f, noise=noise).grad)


def test_variance_of_ugc_at_the_ends_is_below_disarms():
    logits, f = torch.tensor([[8.0, -8.0, 4.0]], **F64), smooth(3)
    second = {}
    for name in ("ugc", "disarm"):
        _, grad, probability = expectation(estimators.build(name, event_shape=(3,)), logits, f)
        second[name] = probability @ grad.square()
    assert (second["ugc"] < second["disarm"] / 5).all()


@pytest.mark.parametrize(("name", "rows"), [("local_expectation", 4), ("bitflip", 2), ("ugc", 3)])
def test_evaluations_and_reuse_of_f_b(name, rows):
    estimator = estimators.build(name, event_shape=(3,))
    assert estimator.evaluations == rows
    logits, noise = wide(1.0, 5, 3), estimator.noise(5, torch.Generator().manual_seed(2), dtype=torch.float64)
    f, calls = count(smooth(3))
    out = estimator(logits, f, noise=noise)
    reused = estimator(logits, f, noise=noise, f_b=smooth(3)(estimator.sample(logits, noise)))
    assert calls == [5 * rows, 5 * (rows - 1)]
    torch.testing.assert_close(reused, out)


@pytest.mark.parametrize("name", ["local_expectation", "bitflip", "ugc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_extremes_and_zero_for_a_constant(name, dtype):
    estimator = estimators.build(name, event_shape=(4,))
    logits = wide(200.0, 3, 4).to(dtype)
    noise = estimator.noise(3, torch.Generator().manual_seed(2), dtype=dtype)
    for scale in (0, 1):
        out = estimator(logits, lambda b: 1e6 * b.sum(-1), noise={k: scale * v for k, v in noise.items()})
        assert out.grad.isfinite().all() and out.grad.dtype == dtype
    assert estimator(logits / 100, lambda b: b.sum(-1) * 0 + 7, noise=noise).grad.count_nonzero() == 0
