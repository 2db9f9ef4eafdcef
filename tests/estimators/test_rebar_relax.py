"""The sampler of the published RELAX code: what it draws, along which path, and that it is found biased."""

import pytest
import torch
from torch.func import jacrev

from relax_exp import estimators, testing
from relax_exp.distributions import Categorical
from relax_exp.enumeration import checks, problems
from relax_exp.estimators import SMALL
from relax_exp.estimators.rebar_relax import published_conditional
from relax_exp.numerics.random_streams import stream

PUBLISHED = {"surrogate": "network", "noise": "independent", "sampler": "published_error", **SMALL}


def test_the_published_sampler_draws_too_low():
    generator, shape = stream(0, "test"), (200_000, 1, 3)
    logits = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log().expand(shape)
    u, v = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    b = Categorical.sample(logits, u)
    z = published_conditional(logits, b, v)
    assert torch.equal(Categorical.hard(z), b)
    assert z.mean((0, 1)).tolist() == pytest.approx([-0.57, -1.21, -2.11], abs=0.01)
    right = Categorical.conditional_path(logits, b, v)
    assert right.mean((0, 1)).tolist() == pytest.approx([0.07, -0.63, -1.73], abs=0.01)


def test_the_gradient_follows_the_published_sampler():
    generator = stream(0, "test")
    logits, v, slope = torch.randn((3, 1, 4), generator=generator, dtype=torch.float64)
    v, b = torch.sigmoid(v), torch.tensor([[0.0, 1, 0, 0]], dtype=torch.float64)
    estimator = estimators.build("relax", "categorical", (1, 4), **PUBLISHED).double()
    z = published_conditional(logits, b, v)
    got = Categorical.grad_to_logits(estimator.along_conditional(slope, logits, b, z), logits)
    jacobian = jacrev(lambda logits: published_conditional(logits, b, v))(logits)
    assert torch.allclose(got[0], slope[0] @ jacobian[0, :, 0])


def test_the_published_sampler_is_found_biased():
    problem = next(p for p in problems.problems() if p.name == "categorical 1x5 smooth")
    estimator = checks.build("relax", PUBLISHED, problem)
    verdict = checks.check(estimator, problem, 100_000)
    assert not estimator.unbiased and verdict.largest_z > 2 * testing.threshold(verdict.tests)


@pytest.mark.parametrize("family, options", [("bernoulli", {}), ("categorical", {"noise": "tied"})])
def test_the_published_sampler_is_for_categorical_variables_and_independent_noise(family, options):
    shape = (3,) if family == "bernoulli" else (1, 3)
    with pytest.raises(ValueError, match="categorical variables with independent noise"):
        estimators.build("relax", family, shape, **{**PUBLISHED, **options})
