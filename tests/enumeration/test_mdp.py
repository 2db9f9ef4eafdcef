"""Policy gradients from episodes are those of the enumerated Markov decision process."""

import itertools

import pytest
import torch
from torch.func import grad

from relax_exp import estimators, testing
from relax_exp.enumeration import checks, hierarchies, mdp
from relax_exp.models.policy import init_policy, policy_logits
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import draw


@pytest.mark.parametrize("actions, gamma", [(2, 1.0), (3, 0.8)])
def test_the_recursion_is_the_sum_over_all_trajectories(actions, gamma):
    problem = mdp.MDP(actions, gamma)
    generator = stream(0, "test")
    params = {k: v.double() for k, v in init_policy([mdp.STATES * mdp.HORIZON, 4, actions], generator).items()}
    eye = torch.eye(mdp.STATES, dtype=torch.float64)

    def expected(params):
        p = torch.stack([policy_logits(params, problem.seen(eye, t)).softmax(-1) for t in range(mdp.HORIZON)])
        total = 0.0
        for steps in range(1, mdp.HORIZON + 1):  # the rewards of step 1, 2, ..: over all ways to get there
            for path in itertools.product(range(mdp.STATES), repeat=steps):
                for chosen in itertools.product(range(actions), repeat=steps):
                    probability = problem.start[path[0]]
                    for t, (s, a) in enumerate(zip(path, chosen, strict=True)):
                        if t:
                            before = path[t - 1], chosen[t - 1]
                            probability = probability * (1 - problem.ends[before]) * problem.moves[*before, s]
                        probability = probability * p[t, s, a]
                    total = total + probability * gamma ** (steps - 1) * problem.rewards[path[-1], chosen[-1]]
        return -total

    assert torch.isclose(expected(params), problem.loss(params))
    assert torch.allclose(hierarchies.flat(grad(expected)(params)), hierarchies.flat(grad(problem.loss)(params)))


@pytest.mark.parametrize("label", [x for x in mdp.VERIFIED if mdp.unbiased(x)])
def test_the_gradient_is_unbiased(label):
    verdict = mdp.check(*mdp.VERIFIED[label], draws=20_000)
    assert verdict.largest_z < testing.threshold(verdict.tests * len(mdp.VERIFIED)), verdict
    assert verdict.variance > 0


@pytest.mark.parametrize("label", [x for x in mdp.VERIFIED if not mdp.unbiased(x)])
def test_the_errors_of_published_code_are_found(label):
    verdict = mdp.check(*mdp.VERIFIED[label], draws=100_000)
    assert verdict.largest_z > 2 * testing.threshold(verdict.tests), verdict


def test_the_published_advantage_is_biased_beyond_its_factor():
    """Divided by the length of the episode, A2C's published gradient still is not the right one."""
    name, options, settings = mdp.VERIFIED["a2c-as-published"]
    task, problem = mdp.build(name, options, settings)
    problem.ends.zero_()  # so that all episodes have HORIZON steps
    generator = stream(0, "test")
    params = {
        k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in task.init(generator).params.items()
    }
    state = checks.perturbed(task.row, generator, scale=1.0)
    model = task.init(generator)._replace(params=params, tuning=state)
    shapes = task.noise_shapes() | {f"mdp/{k}": v for k, v in problem.noise_shapes(1).items()}

    def one(noise):
        batch = mdp.episodes(task, problem, params, noise)
        return hierarchies.flat(task.gradients(model, batch, noise).params) / mdp.HORIZON

    verdict = checks.compare(one, shapes, hierarchies.flat(grad(problem.loss)(params)), 100_000, generator, 20_000)
    assert verdict.largest_z > 2 * testing.threshold(verdict.tests), verdict


def test_every_estimator_that_learns_from_episodes_is_verified():
    assert {name for name, _, _ in mdp.VERIFIED.values()} == set(estimators.FROM_EPISODES)


def test_a_wrong_q_is_noticed(monkeypatch):
    right, loss = mdp.MDP.action_values, mdp.MDP.loss

    def unharmed(self, params):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mdp.MDP, "action_values", right)
            return loss(self, params)

    monkeypatch.setattr(mdp.MDP, "loss", unharmed)
    monkeypatch.setattr(mdp.MDP, "action_values", lambda self, params: right(self, params) * torch.tensor([1.0, 0.8]))
    label = next(label for label in mdp.VERIFIED if "exact Q" in label)
    verdict = mdp.check(*mdp.VERIFIED[label], draws=20_000)
    assert verdict.largest_z > testing.threshold(verdict.tests)


def test_control_variates_reduce_the_variance_once_tuned():
    """RELAX's objective at work: gradient descent on the tuning loss lowers the variance of the policy's gradient."""
    name, options, settings = mdp.VERIFIED["relax"]
    task, problem = mdp.build(name, options, settings)
    generator = stream(0, "test")
    model = task.init(generator)
    shapes = task.noise_shapes() | {f"mdp/{k}": v for k, v in problem.noise_shapes(task.episodes).items()}

    def draws(model, count):
        noise = draw(shapes, count, generator, torch.float64)
        return torch.func.vmap(lambda n: task.gradients(model, mdp.episodes(task, problem, model.params, n), n))(noise)

    def variance(model):
        return float(sum(g.var(0).sum() for g in draws(model, 4000).params.values()))

    before, tuning = variance(model), model.tuning
    for _ in range(150):
        grads = draws(model._replace(tuning=tuning), 200).tuning
        tuning = {k: v - 0.1 * grads[k].mean(0) for k, v in tuning.items()}
    assert variance(model._replace(tuning=tuning)) < 0.7 * before
