"""Biased estimators against their own mean, enumerated; how much that differs from the exact gradient."""

import pytest
import torch

from relax_exp import estimators, testing
from relax_exp.enumeration import biased, checks, problems

PROBLEMS = {p.name: p for p in problems.problems()}
SMOOTH, QUADRATIC = PROBLEMS["bernoulli 3 smooth"], PROBLEMS["bernoulli 3 quadratic"]
CASES = [
    ("straight_through", {"temperature": 0.7}),
    ("decoupled_st", {}),
    ("decoupled_st", {"forward": 2.0, "temperature": 0.5}),
    ("reinmax_rao", {"draws": 3}),
    ("reinmax_rao", {"draws": 2, "temperature": 0.5}),
    ("reinmax_cv", {"draws": 3}),
    ("reinmax_cv", {"draws": 2, "temperature": 1.3, "eta": 0.5}),
    ("grpo", {}),
    ("grpo", {"samples": 2}),
    ("dr_grpo", {"samples": 3}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_mean_of_a_biased_estimator_is_the_enumerated_one(name, options):
    verdict = biased.check_mean(name, options, SMOOTH, 30_000)
    assert verdict.largest_z < testing.threshold(verdict.tests * len(CASES), 1e-4)
    assert verdict.row_z < testing.threshold(verdict.tests * len(CASES), 1e-4)
    assert not estimators.build(name, event_shape=(3,)).unbiased


@pytest.mark.parametrize("samples", [2, 3])
def test_dr_grpo_is_biased_by_a_factor(samples):
    exact = checks.exact_gradient(SMOOTH)
    torch.testing.assert_close(biased.MEANS["dr_grpo"](SMOOTH, samples=samples), exact * (samples - 1) / samples)


def test_grpo_is_biased_in_its_direction_too():
    exact, mean = checks.exact_gradient(SMOOTH), biased.MEANS["grpo"](SMOOTH, samples=4)
    cosine = torch.nn.functional.cosine_similarity(exact, mean, dim=1)
    assert (cosine < 0.999).any() and (cosine > 0.5).all()


def test_reinmax_is_exact_on_a_quadratic_and_its_relatives_are_not():
    exact = checks.exact_gradient(QUADRATIC)
    torch.testing.assert_close(biased.MEANS["reinmax_cv"](QUADRATIC, eta=0.0), exact)
    assert (biased.MEANS["reinmax_rao"](QUADRATIC) - exact).norm() > 1e-3 * exact.norm()
    torch.testing.assert_close(biased.MEANS["reinmax_cv"](QUADRATIC, eta=2.0), biased.MEANS["reinmax_rao"](QUADRATIC))
