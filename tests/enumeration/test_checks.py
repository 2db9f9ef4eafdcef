"""Every registered estimator against exact enumeration, under one family-wise bound; hierarchies likewise."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from relax_exp import estimators, testing
from relax_exp.enumeration import checks, hierarchies, problems
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import draw

DRAWS = 100_000
PROBLEMS = {p.name: p for p in problems.problems()}
CASES = [
    (name, options, problem)
    for name, entry in estimators.REGISTRY.items()
    for options in entry.variants
    for problem in PROBLEMS.values()
    if checks.applies(name, options, problem)
]
BOUND = testing.threshold(130 * len(CASES))  # at most 130 coordinates and pairs in a case


def ident(value):
    return str(value) if not isinstance(value, problems.Problem) else value.name


@pytest.mark.parametrize(("name", "options", "problem"), CASES, ids=ident)
def test_mean_gradient_is_the_enumerated_one(name, options, problem):
    estimator = checks.build(name, options, problem)
    assert estimator.needs == estimators.needs(name, options)
    assert estimator.target == estimators.lookup(name).target
    verdict = checks.check(estimator, problem, DRAWS)
    assert verdict.tests <= 130
    assert verdict.row_z < BOUND, "rows are correlated"
    if estimator.unbiased or (problem.quadratic and estimator.second_order):
        assert verdict.largest_z < BOUND
        assert verdict.cosine > 0.9


SMOOTH = {p.family: p for p in reversed(PROBLEMS.values()) if p.name.endswith("smooth") and p.event_shape != (1,)}
SMOOTH |= {"gaussian": PROBLEMS["gaussian 1 smooth"]}
BIASED = [
    (n, f)
    for n, e in estimators.REGISTRY.items()
    for f in e.families
    if not estimators.build(n, f, SMOOTH[f].event_shape).unbiased
]


@pytest.mark.parametrize(("name", "family"), BIASED)
def test_biased_estimators_are_found_biased(name, family):
    assert checks.check(checks.build(name, {}, SMOOTH[family]), SMOOTH[family], DRAWS).largest_z > BOUND


def test_only_the_relaxations_claim_to_be_biased():
    assert {name for name, _ in BIASED} <= {
        "concrete",
        "mean_actor",
        "straight_through",
        "st_gumbel",
        "gumbel_rao",
        "reinmax",
        "gst",
        "decoupled_st",
        "reinmax_rao",
        "reinmax_cv",
        "zgr",
        "mve",
        "grpo",
        "dr_grpo",
        "simple",
    }


def test_normalised_nvil_is_found_biased():
    problem = PROBLEMS["bernoulli 3 smooth"]
    estimator = checks.build("nvil", {"normalize": True}, problem)
    with torch.no_grad():
        estimator.running_variance.fill_(9.0)
    assert not estimator.unbiased
    assert checks.check(estimator, problem, DRAWS).largest_z > BOUND


HIERARCHIES = [
    (name, options, layers, score_term)
    for name, entry in estimators.REGISTRY.items()
    for options in entry.variants
    for layers in hierarchies.HIERARCHIES
    if all(layer.family in entry.families for layer in hierarchies.HIERARCHIES[layers]) and name != "unordered"
    for score_term in (["dropped", "kept"] if estimators.lookup(name).target == "mean" else ["kept"])
]


@pytest.mark.parametrize(("name", "options", "layers", "score_term"), HIERARCHIES, ids=str)
def test_every_parameter_of_a_hierarchy(name, options, layers, score_term):
    """Encoder, decoder and prior of a two-layer VAE whose f depends on the logits directly, through log q."""
    verdict = hierarchies.check_hierarchy(name, options, hierarchies.HIERARCHIES[layers], 20_000, score_term=score_term)
    if estimators.build(name, **SMALLEST[layers], **options).unbiased:
        assert verdict.largest_z < testing.threshold(110 * len(HIERARCHIES))
        assert verdict.cosine > 0.98


SMALLEST = {
    name: {"family": layers[0].family, "event_shape": layers[0].shape, "context_shape": (4,)}
    for name, layers in hierarchies.HIERARCHIES.items()
}


def test_exact_gradient_of_the_bound_tends_to_that_of_the_mean_for_one_sample():
    problem = PROBLEMS["bernoulli 3 smooth"]
    torch.testing.assert_close(checks.exact_gradient(problem, 1, bound=True), checks.exact_gradient(problem))


def test_threshold_is_bonferroni():
    assert testing.threshold(1, 0.05) == pytest.approx(1.959964, abs=1e-6)
    assert testing.threshold(100, 0.05) == pytest.approx(3.480756, abs=1e-5)


@pytest.mark.parametrize("name", ["rebar", "relax"])
@pytest.mark.parametrize("noise", ["tied", "independent"])
def test_tuning_gradient_is_that_of_the_second_moment(name, noise):
    """With common random numbers: autodiff of the mean tuning loss against central differences in every direction."""
    problem = PROBLEMS["bernoulli 3 smooth"]
    options = {"noise": noise} | ({"width": 4, "depth": 1, "activation": "tanh"} if name == "relax" else {})
    estimator = checks.build(name, options, problem)
    state = checks.perturbed(estimator, stream(0, "tuning"))
    draws = draw(estimator.noise_shapes(3), 2000, stream(1, "tuning"), torch.float64)
    context = torch.randn((3, problems.CONTEXT), generator=stream(2, "tuning"), dtype=torch.float64)

    def moment(state):
        def one(noise):
            out = functional_call(estimator, state, (problem.logits, problem.f), {"noise": noise, "context": context})
            return estimator.tuning_loss(out), (out.grad / 3).square().mean()

        losses, moments = vmap(one)(draws)
        torch.testing.assert_close(losses, moments)
        return losses.mean()

    gradient = grad(moment)(state)
    for key, value in state.items():
        direction = torch.randn(value.shape, generator=stream(3, key), dtype=torch.float64)
        step = 1e-5
        ahead, behind = (moment({**state, key: value + s * direction}) for s in (step, -step))
        torch.testing.assert_close(
            (gradient[key] * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize("layers", hierarchies.HIERARCHIES)
def test_a_relaxed_loss_is_differentiated_as_a_whole(layers):
    """Log q at the soft samples included: there d log q / d logits has no mean of zero."""
    verdict = hierarchies.check_relaxed("concrete", {}, hierarchies.HIERARCHIES[layers], 100)
    assert verdict.largest_z < testing.threshold(verdict.tests)
    assert verdict.variance < 1e-18
