"""The toy problem: exact numbers, the variance of a gradient that is known, what it leaves behind."""

import math

import pytest
import torch
from torch.utils._pytree import tree_map

from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.toy import Toy
from relax_exp.training.replicas import Replicas

RELAX = {"name": "relax", "surrogate": "network", "depth": 1, "width": 10, "noise": "independent"}


def make(name="reinforce", dtype=torch.float64, **options) -> Toy:
    return make_task("toy", {"name": name}, dtype=dtype, **options)


def models(task: Toy, *logits):
    """Replicas with these logits."""
    each = [task.init(stream(0, "init"))._replace(params={"logit": torch.tensor(x, dtype=task.dtype)}) for x in logits]
    return tree_map(lambda *leaves: torch.stack(leaves), *each)


@pytest.mark.parametrize("t", [0.0, 0.45, 0.499, 0.5, 0.7])
def test_the_loss_is_the_expectation(t):
    task = make(t=t)
    theta = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    rows = task.evaluate(models(task, *theta.logit().unsqueeze(1).tolist()), [0, 1, 2], 1, False)
    for p, row in zip(theta.tolist(), rows, strict=True):
        loss = p * (1 - t) ** 2 + (1 - p) * t**2
        assert row["loss"] == pytest.approx(loss, rel=1e-12)
        assert row["excess"] == pytest.approx(loss - min(t**2, (1 - t) ** 2), abs=1e-14)
        assert row["theta"] == pytest.approx(p)


def test_the_excess_keeps_its_digits_in_single_precision():
    task = make(dtype=torch.float32)
    (row,) = task.evaluate(models(task, [-16.0]), [0], 1, False)
    assert row["excess"] == pytest.approx(0.002 / (1 + math.exp(16)), rel=1e-5)


def test_several_latents_share_the_mean_loss():
    task = make(latents=3, t=0.3)
    theta = torch.tensor([0.2, 0.5, 0.6], dtype=torch.float64)
    (row,) = task.evaluate(models(task, theta.logit().tolist()), [0], 1, False)
    each = theta * 0.49 + (1 - theta) * 0.09
    assert row["loss"] == pytest.approx(each.mean().item())
    assert row["excess"] == pytest.approx(each.mean().item() - 0.09)
    assert row["theta"] == pytest.approx(theta.mean().item())
    assert task.loss(torch.tensor([[1.0, 0, 0]]))[0].item() == pytest.approx((0.49 + 0.09 + 0.09) / 3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_variance_of_reinforce_is_the_known_one(batch_size):
    """At theta = 1/2 the gradient is f(1)/2 or -f(0)/2 with equal chances: variance (f(0) + f(1))^2 / 16."""
    t, draws = 0.499, 100_000
    task = make(t=t, variance_draws=draws, batch_size=batch_size)
    (row,) = task.evaluate(models(task, [0.0]), [0], 1, False)
    exact = (t**2 + (1 - t) ** 2) ** 2 / 16 / batch_size
    tolerance = 4 * math.sqrt(2 / draws)  # four standard errors of a normal's log-variance; two points have less
    assert row["grad/log_variance"] == pytest.approx(math.log(exact), abs=tolerance)
    assert row["grad/mean_log_variance"] == row["grad/log_variance"]


def test_the_draws_belong_to_seed_and_step():
    task = make(variance_draws=999)
    both = task.evaluate(models(task, [0.3], [0.3]), [0, 1], 1, False)
    (alone,) = task.evaluate(models(task, [0.3]), [1], 1, False)
    (later,) = task.evaluate(models(task, [0.3]), [1], 2, False)
    assert both[1] == pytest.approx(alone, rel=1e-12)
    assert len({row["grad/log_variance"] for row in (both[0], alone, later)}) == 3


def test_a_gradient_without_variance_has_a_finite_logarithm():
    task = make("exact", torch.float32)
    (row,) = task.evaluate(models(task, [0.0]), [0], 1, False)
    assert row["grad/log_variance"] == pytest.approx(math.log(torch.finfo(torch.float32).tiny), rel=1e-3)


def test_the_gradient_of_a_batch_is_that_of_its_mean():
    task = make(batch_size=3, latents=2)
    model = task.init(stream(0, "init"))
    noise = {"u": torch.rand(3, 2, generator=stream(0, "x"), dtype=torch.float64)}
    b = (noise["u"] > 0.5).double()
    expected = (task.loss(b).unsqueeze(1) * (b - 0.5)).mean(0)
    grads = task.gradients(model, {}, noise)
    torch.testing.assert_close(grads.params["logit"], expected)
    torch.testing.assert_close(grads.loss, task.loss(b).mean())


def test_freezing_tunes_the_estimator_only():
    task = make_task("toy", RELAX, freeze=True, latents=2)
    replicas = Replicas(task, [0], [0.01])
    before = replicas.state.model
    for _ in replicas.advance(5):
        pass
    after = replicas.state.model
    assert (after.params["logit"] == 0).all()
    assert all((after.tuning[k] != v).any() for k, v in before.tuning.items())


@pytest.mark.parametrize("name", ["relax", "rebar"])
def test_the_curves_are_the_learned_relaxation(name):
    task = make_task("toy", RELAX if name == "relax" else {"name": "rebar"}, dtype=torch.float64)
    replicas = Replicas(task, [0, 1], [0.1])
    for _ in replicas.advance(3):
        pass
    tuning = replicas.state.model.tuning
    curves = task.finish(replicas.state.model, ["one", "two"])["curves.json"]
    assert list(curves) == ["u", "theta", "f", "relaxation"]
    assert (curves["theta"], curves["f"]) == (0.5, [0.499**2, 0.501**2])
    u = torch.tensor(curves["u"], dtype=torch.float64)
    assert len(u) == 201 and 0 < u[0] < 0.005 and u[100] == 0.5
    for i, label in enumerate(["one", "two"]):
        at = {k: v[i] for k, v in tuning.items()}
        soft = torch.sigmoid(u.logit() / at["log_temperature"].exp())
        if name == "rebar":
            expected = at["eta"] * (soft - 0.499) ** 2
        else:
            hidden = torch.relu((2 * soft - 1).unsqueeze(1) @ at["network.from_z.weight"].T + at["network.from_z.bias"])
            expected = (hidden @ at["network.out.weight"].T + at["network.out.bias"]).squeeze(1)
        torch.testing.assert_close(torch.tensor(curves["relaxation"][label], dtype=torch.float64), expected)


def test_curves_without_a_relaxation():
    for task in make(), make_task("toy", RELAX, latents=2):
        model = tree_map(lambda leaf: leaf.unsqueeze(0), task.init(stream(0, "init")))
        assert task.finish(model, ["one"])["curves.json"]["relaxation"] == {}


def test_the_start_depends_on_the_seed_alone():
    task = make_task("toy", RELAX)
    one, same, other = (task.init(stream(seed, "init")) for seed in (0, 0, 1))
    assert (one.params["logit"] == 0).all()
    assert all((same.tuning[k] == v).all() for k, v in one.tuning.items())
    assert (other.tuning["network.from_z.weight"] != one.tuning["network.from_z.weight"]).all()
