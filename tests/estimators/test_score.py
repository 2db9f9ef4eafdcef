"""REINFORCE's baselines: the variance-optimal constant, and the objectives of the learned ones."""

import pytest
import torch
from torch import Tensor

from relax_exp import estimators
from relax_exp.distributions import FAMILIES

SHAPES = [("bernoulli", (3,)), ("categorical", (2, 3))]


class Enumerated:
    """One row with a random table of losses: expectations over all states, of whatever ``from_sample`` returns."""

    def __init__(self, family: str, event_shape: tuple[int, ...]):
        generator = torch.Generator().manual_seed(3)
        cls = FAMILIES[family]
        self.logits = 2 * torch.randn((1, *event_shape), generator=generator, dtype=torch.float64)
        self.states = cls.enumerate(event_shape, dtype=torch.float64).unsqueeze(1)
        self.table = 3 + torch.randn((len(self.states), 1), generator=generator, dtype=torch.float64)
        self.p = cls.log_prob(self.logits, self.states).exp().squeeze(1)
        self.score = cls.score(self.logits, self.states)

    def mean(self, values: Tensor) -> Tensor:
        """``(S, ...)`` -> ``(...)``."""
        return torch.tensordot(self.p, values, 1)

    def outputs(self, estimator):
        """`estimator` at every state."""
        return [estimator.from_sample(self.logits, b, f) for b, f in zip(self.states, self.table, strict=True)]

    def exact(self) -> Tensor:
        """d E[f] / d logits."""
        return self.mean(self.score.flatten(2) * self.table.unsqueeze(-1)).reshape(self.logits.shape)

    def best_constant(self) -> float:
        """The slides' formula."""
        square = self.score.flatten(1).square().sum(1)
        return float(self.mean(self.table[:, 0] * square) / self.mean(square))


@pytest.mark.parametrize(("family", "event_shape"), SHAPES)
def test_optimal_baseline_is_unbiased_for_any_buffers_and_least_variable_at_the_slides_constant(family, event_shape):
    problem = Enumerated(family, event_shape)
    estimator = estimators.build("optimal_baseline", family, event_shape).double()
    assert estimator.unbiased and not estimator.tuned and estimator.evaluations == 1

    def second_moment(constant: float) -> Tensor:
        estimator.weight.fill_(0.7)
        estimator.weighted_loss.fill_(0.7 * constant)
        outs = problem.outputs(estimator)
        assert float(outs[0].aux["baseline"]) == pytest.approx(constant)
        grads = torch.stack([out.grad for out in outs])
        torch.testing.assert_close(problem.mean(grads), problem.exact())
        return problem.mean(grads.square()).sum()

    best = problem.best_constant()
    assert second_moment(best) < min(second_moment(best - 0.01), second_moment(best + 0.01), second_moment(0.0))


@pytest.mark.parametrize(("family", "event_shape"), SHAPES)
def test_optimal_baseline_learns_the_constant_from_past_data_only(family, event_shape):
    problem = Enumerated(family, event_shape)
    estimator = estimators.build("optimal_baseline", family, event_shape, decay=0.9).double()
    outs = problem.outputs(estimator)
    plain = problem.outputs(estimators.build("reinforce", family, event_shape))
    for out, reference in zip(outs, plain, strict=True):  # before any data the constant is 0
        torch.testing.assert_close(out.grad, reference.grad)
        assert float(out.aux["baseline"]) == 0
    # One update by the expected data gives the optimal constant at once: the start from zero cancels.
    for name in ("weighted_loss", "weight"):
        getattr(estimator, name).copy_(problem.mean(torch.stack([out.buffers[name] for out in outs])))
    assert float(problem.outputs(estimator)[0].aux["baseline"]) == pytest.approx(problem.best_constant())


def test_optimal_baseline_with_samples_averages_over_chains_and_survives_vanishing_scores():
    estimator = estimators.build("optimal_baseline", "bernoulli", (2,), samples=3)
    assert estimator.evaluations == 3
    out = estimator(torch.zeros(4, 2), lambda b: b.sum(-1), generator=torch.Generator().manual_seed(0))
    assert out.grad.shape == (4, 2) and out.sample.shape == (3, 4, 2) and out.loss.shape == (4,)
    torch.testing.assert_close(out.buffers["weight"], torch.tensor(0.01 * 2 * 0.25))
    torch.testing.assert_close(out.buffers["weighted_loss"], 0.01 * 0.5 * out.sample.sum(-1).mean())
    logits = torch.full((4, 2), 100.0)  # scores of exactly zero
    for name, value in estimator(logits, lambda b: b.sum(-1), noise=estimator.noise(4)).buffers.items():
        getattr(estimator, name).copy_(value)
    out = estimator(logits, lambda b: b.sum(-1), noise=estimator.noise(4))
    assert float(out.aux["baseline"]) == 0 and out.grad.isfinite().all()


@pytest.mark.parametrize("name", ["baseline", "nvil"])
def test_learned_baselines_minimise_what_their_objective_says(name):
    problem = Enumerated("bernoulli", (3,))
    at_least = {"mse": float(problem.mean(problem.table)), "variance": problem.best_constant()}
    for objective, best in at_least.items():
        estimator = estimators.build(name, "bernoulli", (3,), objective=objective).double()
        torch.nn.init.constant_(estimator.constant, best)
        losses = torch.stack([estimator.tuning_loss(out) for out in problem.outputs(estimator)])
        (slope,) = torch.autograd.grad(problem.mean(losses), estimator.constant)
        assert abs(float(slope)) < 1e-12
    with pytest.raises(ValueError, match="objective=both: must be one of mse, variance"):
        estimators.build(name, objective="both")


def test_nvil_uses_past_data_only_and_normalises_on_request():
    f_b, b, logits = torch.tensor([3.0, 5.0]), torch.ones(2, 1), torch.zeros(2, 1)
    estimator = estimators.build("nvil", "bernoulli", (1,), decay=0.5)
    out = estimator.from_sample(logits, b, f_b)
    torch.testing.assert_close(out.grad, 0.5 * f_b.unsqueeze(-1))
    assert float(out.buffers["running_mean"]) == 2 and float(out.buffers["running_variance"]) == 0.5 * (9 + 25) / 2
    normalized = estimators.build("nvil", "bernoulli", (1,), decay=0.5, normalize=True)
    assert estimator.unbiased and not normalized.unbiased
    for module in (estimator, normalized):
        module.running_mean.fill_(2.0)
        module.running_variance.fill_(16.0)
    torch.testing.assert_close(estimator.from_sample(logits, b, f_b).grad, torch.tensor([[0.5], [1.5]]))
    torch.testing.assert_close(normalized.from_sample(logits, b, f_b).grad, torch.tensor([[0.125], [0.375]]))


def test_muprop_takes_one_sample():
    with pytest.raises(ValueError, match="samples=3 must be 1"):
        estimators.build("muprop", samples=3)
