"""ARM, DisARM, ARMS and DisARM on trees: exact expectations over cells of the noise, identities, shapes."""

import itertools

import pytest
import torch
from noise_cells import F64, cells, count, draw, smooth, wide

from relax_exp import estimators
from relax_exp.distributions import Bernoulli, Categorical
from relax_exp.estimators.antithetic import DisARMTree
from relax_exp.estimators.disarm_sb import DisARMSB

SCALES = [0.1, 3.0, 8.0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["arm", "disarm"])
@pytest.mark.parametrize("d", [1, 3])
def test_expectation_over_the_cells_is_the_exact_gradient(name, d, scale):
    logits, f = wide(scale, 1, d), smooth(d)
    exact = estimators.build("exact", event_shape=(d,))(logits, f, generator=torch.Generator()).grad
    u, probability = cells(logits[0])
    out = estimators.build(name, event_shape=(d,))(logits.expand(len(u), -1), f, noise={"u": u})
    torch.testing.assert_close(probability @ out.grad, exact[0], rtol=1e-9, atol=1e-12)


def test_disarm_is_arm_averaged_over_each_cell():
    logits, f = wide(2.0, 1, 4), smooth(4)
    u, _ = cells(logits[0])
    arm, disarm = (
        estimators.build(name, event_shape=(4,))(logits.expand(len(u), -1), f, noise={"u": u})
        for name in ("arm", "disarm")
    )
    torch.testing.assert_close(arm.grad, disarm.grad)


def test_arm_by_hand():
    # sigma(log 3) = 3/4: u = .9 gives b = 1, b' = 0; u = .5 gives 1 and 1; u = .1 gives b = 0, b' = 1
    logits = torch.tensor([[3.0], [3.0], [3.0]], **F64).log()
    u = torch.tensor([[0.9], [0.5], [0.1]], **F64)

    def f(b):
        return 2 + 5 * b[..., 0]

    arm = estimators.build("arm")(logits, f, noise={"u": u})
    disarm = estimators.build("disarm")(logits, f, noise={"u": u})
    assert arm.sample.flatten().tolist() == [1, 1, 0]
    torch.testing.assert_close(arm.grad.flatten(), torch.tensor([5 * 0.4, 0, -5 * -0.4], **F64))
    torch.testing.assert_close(disarm.grad.flatten(), torch.tensor([5 * 0.375, 0, 5 * 0.375], **F64))


def test_arms_with_two_samples_is_disarm():
    logits, f, x = wide(2.0, 5, 3), smooth(3), draw(5, 3, seed=9)
    # exponentials 1 - x and x: d = (1 - x, x), so the first sample takes its rarer value where x is below s
    noise = {"u": torch.stack([(x - 1).exp(), (-x).exp()])}
    arms = estimators.build("arms", event_shape=(3,), samples=2)(logits, f, noise=noise)
    disarm = estimators.build("disarm", event_shape=(3,))(logits, f, noise={"u": torch.where(logits < 0, 1 - x, x)})
    assert torch.equal(arms.sample[0], disarm.sample)
    torch.testing.assert_close(arms.grad, disarm.grad)


def test_arms_correction():
    logits = torch.tensor([-60.0, -8.0, -1.0, 0.0, 0.5, 8.0, 60.0], **F64)
    pair = estimators.build("arms", event_shape=(7,), samples=2)
    torch.testing.assert_close(pair.correction(logits), torch.sigmoid(logits.abs()))
    many = estimators.build("arms", event_shape=(7,), samples=10**7)
    torch.testing.assert_close(many.correction(logits), torch.ones(7, **F64), rtol=1e-4, atol=0)
    # s = 1/2, K = 3: joint = (2 sqrt(1/2) - 1)^2 = 3 - 2 sqrt 2
    joint = 3 - 2 * 2**0.5
    three = estimators.build("arms", event_shape=(7,), samples=3)
    torch.testing.assert_close(float(three.correction(logits)[3]), 0.25 / (0.5 - joint))


@pytest.mark.parametrize("k", [3, 4, 6])
def test_arms_samples_have_the_marginals_and_the_joint_that_the_correction_assumes(k):
    logits = torch.tensor([[-6.0, -1.0, 0.2, 1.5, 3.0]], **F64)
    arms = estimators.build("arms", event_shape=(5,), samples=k)
    n = 100_000
    b = arms.sample(logits.expand(n, -1), {"u": draw(k, n, 5, seed=k)})
    p = torch.sigmoid(logits[0])
    z = (b.mean(1) - p) / (p * (1 - p) / n).sqrt()
    assert z.abs().max() < 5
    # correction = p (1 - p) / (p - joint) and p - joint = P(b_i = 1, b_j = 0)
    differ = p * (1 - p) / arms.correction(logits)[0]
    for i, j in itertools.permutations(range(k), 2):
        z = ((b[i] * (1 - b[j])).mean(0) - differ) / (differ * (1 - differ) / n).sqrt()
        assert z.abs().max() < 5


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_arms_is_unbiased(k, scale):
    logits, f, n = wide(scale, 1, 3), smooth(3), 100_000
    exact = estimators.build("exact", event_shape=(3,))(logits, f, generator=torch.Generator()).grad[0]
    arms = estimators.build("arms", event_shape=(3,), samples=k)
    grad = arms(logits.expand(n, -1), f, noise={"u": draw(k, n, 3, seed=k)}).grad
    z = (grad.mean(0) - exact) / (grad.std(0) / n**0.5)
    assert z.abs().max() < 5


def test_arms_with_logits_of_every_chain_is_leave_one_out():
    logits, f, u = wide(1.0, 4, 5, 3), smooth(3), draw(4, 5, 3, seed=8)
    out = estimators.build("arms", event_shape=(3,))(logits, f, noise={"u": u})
    b = Bernoulli.sample(logits, u)
    assert torch.equal(out.sample, b) and out.grad.shape == logits.shape
    signal = (f(b) - f(b).mean(0)) / 3
    torch.testing.assert_close(out.grad, signal.unsqueeze(-1) * Bernoulli.score(logits, b))


def test_arms_refuses_one_sample_and_samples_of_others():
    with pytest.raises(ValueError, match="at least 2"):
        estimators.build("arms", samples=1)
    with pytest.raises(TypeError, match="ARMS"):
        estimators.build("arms").from_sample(draw(2, 1), draw(4, 2, 1), draw(4, 2))


@pytest.mark.parametrize(("name", "samples"), [("arm", 1), ("disarm", 1), ("arms", 4), ("arms", 3)])
def test_evaluations_and_reuse_of_f_b(name, samples):
    estimator = estimators.build(name, event_shape=(3,), **({} if samples == 1 else {"samples": samples}))
    logits, noise = wide(1.0, 5, 3), estimator.noise(5, torch.Generator().manual_seed(2), dtype=torch.float64)
    f, calls = count(smooth(3))
    out = estimator(logits, f, noise=noise)
    assert calls == [5 * estimator.evaluations]
    calls.clear()
    reused = estimator(logits, f, noise=noise, f_b=smooth(3)(estimator.sample(logits, noise)))
    assert calls == ([5] if samples == 1 else [])
    assert out.loss.shape == (5,)
    torch.testing.assert_close(reused, out)


def test_splits():
    balanced = DisARMTree("categorical", (1, 6)).splits(torch.device("cpu"))
    # 0-7 (of which 6 exist) at 4, 0-3 at 2, 4-7 at 6 (absent), pairs at odd numbers: in order of their middle
    assert [x.tolist() for x in balanced] == [[0, 0, 2, 0, 4], [1, 2, 3, 4, 5], [2, 4, 4, 8, 6]]
    sticks = DisARMSB("categorical", (1, 4)).splits(torch.device("cpu"))
    assert [x.tolist() for x in sticks] == [[0, 1, 2], [1, 2, 3], [4, 4, 4]]


@pytest.mark.parametrize("c", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("name", ["disarm_tree", "disarm_sb"])
def test_decisions_lead_to_every_class_with_its_probability(name, c):
    estimator, logits = estimators.build(name, "categorical", (1, c)), wide(3.0, c)
    decisions = estimator.decision_logits(logits)
    assert decisions.shape == (c - 1,)
    states = Bernoulli.enumerate((c - 1,), **F64)
    reached = estimator.reach(states)
    assert torch.equal(reached.sum(-1), torch.ones(len(states), **F64))
    probability = Bernoulli.log_prob(decisions, states).exp() @ reached
    torch.testing.assert_close(probability, logits.softmax(-1), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("event", [(1, 2), (2, 3), (1, 5)])
@pytest.mark.parametrize("name", ["disarm_tree", "disarm_sb"])
def test_expectation_over_the_cells_of_a_tree_is_the_exact_gradient(name, event, scale):
    logits, f = wide(scale, 1, *event), smooth(*event)
    estimator = estimators.build(name, "categorical", event)
    exact = estimators.build("exact", "categorical", event)(logits, f, generator=torch.Generator()).grad[0]
    u, probability = cells(estimator.decision_logits(logits[0]).flatten())
    u = torch.cat([u.reshape(len(u), event[0], -1), torch.full((len(u), event[0], 1), 0.5, **F64)], -1)
    noise = {"u": u}
    out = estimator(logits.expand(len(u), *event), f, noise=noise)
    torch.testing.assert_close(torch.tensordot(probability, out.grad, dims=1), exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(out.grad.sum(-1), torch.zeros(len(u), event[0], **F64))
    torch.testing.assert_close(
        torch.tensordot(probability, estimator.sample(logits, noise), dims=1), Categorical.mean(logits[0])
    )


@pytest.mark.parametrize("name", ["disarm_tree", "disarm_sb"])
def test_tree_of_two_classes_is_disarm(name):
    logits, f = wide(2.0, 4, 3, 2), smooth(3)
    estimator = estimators.build(name, "categorical", (3, 2))
    noise = estimator.noise(4, torch.Generator().manual_seed(1), dtype=torch.float64)
    out = estimator(logits, lambda b: f(b[..., 1]), noise=noise)
    disarm = estimators.build("disarm", event_shape=(3,))(
        logits[..., 1] - logits[..., 0], f, noise={"u": noise["u"][..., 0]}
    )
    assert torch.equal(out.sample[..., 1], disarm.sample)
    torch.testing.assert_close(out.grad, torch.stack([-disarm.grad, disarm.grad], -1))


@pytest.mark.parametrize("name", ["disarm_tree", "disarm_sb"])
def test_tree_evaluations_and_reuse_of_f_b(name):
    estimator = estimators.build(name, "categorical", (2, 5))
    logits, noise = wide(1.0, 4, 2, 5), estimator.noise(4, torch.Generator().manual_seed(2), dtype=torch.float64)
    f, calls = count(smooth(2, 5))
    out = estimator(logits, f, noise=noise)
    reused = estimator(logits, f, noise=noise, f_b=smooth(2, 5)(estimator.sample(logits, noise)))
    assert calls == [4 * estimator.evaluations, 4]
    torch.testing.assert_close(reused, out)


@pytest.mark.parametrize("name", ["arm", "disarm", "arms", "disarm_tree", "disarm_sb"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_extremes_and_zero_for_a_constant(name, dtype):
    family, event = ("categorical", (2, 4)) if "_" in name else ("bernoulli", (4,))
    estimator = estimators.build(name, family, event)
    logits = wide(200.0, 3, *event).to(dtype)
    noise = estimator.noise(3, torch.Generator().manual_seed(2), dtype=dtype)
    for u in (noise["u"], 0 * noise["u"], 0 * noise["u"] + 1):
        out = estimator(logits, lambda b: 1e6 * b.flatten(-len(event)).sum(-1), noise={"u": u})
        assert out.grad.isfinite().all() and out.grad.dtype == dtype
    constant = estimator(logits / 100, lambda b: b.flatten(-len(event)).sum(-1) * 0 + 7, noise=noise)
    assert constant.grad.count_nonzero() == 0
