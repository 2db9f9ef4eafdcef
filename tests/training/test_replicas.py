"""The step over replicas: each equals the run made alone, compiled equals eager; means, failures."""

from __future__ import annotations

import math

import pytest
import torch
from digits import digits
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.config.resolve import task_options
from relax_exp.numerics.traced import Traced
from relax_exp.runs.build import make_task
from relax_exp.tasks.toy import Toy, ToyTask
from relax_exp.training.replicas import Replicas
from relax_exp.training.step import of_tuning

SEEDS, LRS = [0, 1, 2, 3, 4], [1e-3, 3e-4]
SURROGATE = {"depth": 1, "width": 5, "weight_decay": 1e-3}
ESTIMATORS = {
    "relax-relaxed": {"name": "relax", "surrogate": "relaxed", **SURROGATE},
    "relax-network": {"name": "relax", "surrogate": "network", "noise": "independent", **SURROGATE},
    "rebar": {"name": "rebar", "noise": "tied", "lr_scale": 10.0},
    "nvil": {"name": "nvil", "width": 5},
    "muprop": {"name": "muprop", "width": 5},
    "concrete": {"name": "concrete"},
    "reinforce": {"name": "reinforce", "samples": 2},
}


def make(task: str, estimator: str, dtype=torch.float64, **options):
    """A small task. "vae2" has two layers and draws its pixels anew at each step."""
    common = {"estimator": ESTIMATORS[estimator], "dtype": dtype}
    if task == "toy":
        return make_task("toy", **common, **{"latents": 2, "batch_size": 2, **options})
    images = digits("dynamic" if task == "vae2" else "static")
    model = "linear2" if task == "vae2" else "linear1"
    return make_task("vae", **common, data=images, model=model, **{"latents": 3, "batch_size": 4, **options})


def train(task, steps: int, seeds, lrs, warmup: int = 0, **options) -> Replicas:
    replicas = Replicas(task, seeds, lrs, **options)
    for _ in replicas.warm_up(warmup):
        pass
    for _ in replicas.advance(steps):
        pass
    return replicas


def same(state, other, tolerance: float) -> None:
    """Relative to the largest number of each tensor, as gradients that vanish are only rounding errors."""
    for a, b in zip(tree_leaves(state), tree_leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.is_floating_point:
            scale = b.abs().nan_to_num().max().item() if b.numel() else 0
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)
        else:
            assert (a == b).all()


def replica(replicas: Replicas, i: int):
    return tree_map(lambda leaf: leaf[i : i + 1], replicas.state)


def check_alone(task, steps: int, tolerance: float, seeds, lrs, which=None) -> None:
    together = train(task, steps, seeds, lrs, warmup=2)
    for i in which or range(len(together.labels)):
        seed, lr = together.labels[i]
        alone = train(task, steps, [seed], [lr], warmup=2)
        same(replica(together, i), alone.state, tolerance)


@pytest.mark.parametrize("task, estimator", [("toy", "relax-network"), ("vae", "relax-relaxed")])
def test_ten_replicas_equal_the_runs_made_alone(task, estimator):
    check_alone(make(task, estimator), 50, 1e-8, SEEDS, LRS)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("task", ["toy", "vae", "vae2"])
def test_every_estimator_in_replicas(task, estimator):
    check_alone(make(task, estimator), 50 if task == "toy" else 20, 1e-8, [3, 4], LRS, which=[1, 2])
    check_alone(make(task, estimator, torch.float32), 5, 1e-4, [3, 4], LRS, which=[2])


def test_calls_of_the_step_do_not_grow_with_replicas(monkeypatch):
    calls = []
    gradients = ToyTask.gradients
    monkeypatch.setattr(ToyTask, "gradients", lambda *args: calls.append(1) or gradients(*args))
    counts = []
    for seeds, lrs in ([0], [1e-3]), (SEEDS, LRS):
        calls.clear()
        assert len(train(make("toy", "rebar"), 7, seeds, lrs).labels) == len(seeds) * len(lrs)
        counts.append(len(calls))
    assert counts[0] == counts[1] == 7 + 1  # one to learn the names of the metrics


@pytest.mark.parametrize(
    "task, estimator, count",
    [
        ("toy", "relax-network", 1),
        ("toy", "relax-relaxed", 3),
        ("vae", "rebar", 1),
        ("vae", "relax-relaxed", 3),
        ("vae2", "reinforce", 1),
    ],
)
def test_compiled_equals_eager(task, estimator, count):
    task, seeds = make(task, estimator), list(range(count))
    eager = train(task, 10, seeds, LRS[:1], warmup=2)
    same(train(task, 10, seeds, LRS[:1], warmup=2, compiled=True, backend="aot_eager").state, eager.state, 1e-10)


def test_every_program_is_compiled_whole_and_once():
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=1):
        for latents in 1, 2:
            task = make("toy", "reinforce", latents=latents)
            train(task, 5, [0, 1], LRS[:1], compiled=True, backend="aot_eager")
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_inductor_equals_eager():
    task = make("vae", "reinforce")
    eager = train(task, 10, [0, 1], LRS[:1])
    same(train(task, 10, [0, 1], LRS[:1], compiled=True).state, eager.state, 1e-10)


def test_stopping_between_steps_changes_nothing():
    task = make("vae", "relax-relaxed")
    whole, parts = train(task, 30, [0, 1], LRS, warmup=6), Replicas(task, [0, 1], LRS)
    assert [*parts.warm_up(2), *parts.warm_up(6), *parts.warm_up(6)] == [1, 2, 3, 4, 5, 6]
    for _ in parts.advance(11):
        pass
    fresh = Replicas(task, [0, 1], LRS)
    fresh.state = parts.state
    assert list(fresh.advance(19)) == list(range(12, 31))
    same(fresh.state, whole.state, 0)


def test_warm_up_changes_tuning_parameters_and_their_moments_only():
    task = make("vae", "relax-relaxed")
    replicas = Replicas(task, [0, 1], [1e-3])
    before = replicas.state
    for _ in replicas.warm_up(5):
        pass
    after = replicas.state
    assert (after.tuning_t == 5).all()
    for a, b in zip(tree_leaves(after.model.tuning), tree_leaves(before.model.tuning), strict=True):
        assert (a != b).any()
    assert all(leaf.any() for leaf in tree_leaves(after.tuning_moments))
    touched = {"tuning_moments", "tuning_t", "last_finite"}
    for name in set(after._fields) - touched - {"model"}:
        same(getattr(after, name), getattr(before, name), 0)
    same(after.model._replace(tuning=()), before.model._replace(tuning=()), 0)


def test_means_are_those_of_a_hand_loop():
    task = make("vae", "rebar")
    replicas, by_hand = Replicas(task, [0, 1], [1e-3, 1e-2]), []
    for steps in 3, 4:
        expected = torch.zeros(4)
        for step in range(steps):
            first = 0 if steps == 3 else 3
            inputs = replicas._inputs("train", first + step)
            values = torch.func.vmap(task.gradients)(replicas.state.model, *inputs).metrics["train/elbo"]
            expected = expected + values / steps
            next(replicas.advance(1))
        by_hand.append([row["train/elbo"] for row in replicas.means()])
        assert by_hand[-1] == pytest.approx(expected.tolist(), rel=1e-12)
        replicas.clear_means()
    assert by_hand[0] != by_hand[1]
    assert replicas.means()[0]["train/elbo"] == 0


def test_means_over_many_steps_keep_their_digits():
    task = make("toy", "reinforce", torch.float32)
    replicas = train(task, 1, [0], [0.1])
    sums = {k: v + 1e7 for k, v in replicas.state.sums.items()}
    replicas.state = replicas.state._replace(sums=sums)
    before = replicas.state.sums["train/loss"].item()
    next(replicas.advance(1))
    assert replicas.state.sums["train/loss"].item() - before == pytest.approx(0.249001, abs=0.01)


WHAT = ["loss", "gradient norm", "tuning loss", "tuning gradient norm"]


class Breaking(Toy):
    """A toy problem in which a quantity becomes ``value`` at the step at which a parameter passes 2.5.

    That parameter moves by the learning rate at each step, so at .4 it is step 8.
    """

    def __init__(self, what: str, value: float, **options):
        super().__init__(ESTIMATORS["rebar"], task_options("toy", **options), batch_size=1, dtype=torch.float64)
        self.what, self.value = what, value

    def init(self, generator):
        model = super().init(generator)
        return model._replace(params=model.params | {"clock": torch.zeros((), dtype=torch.float64)})

    def gradients(self, model, batch, noise):
        clock = model.params["clock"]
        grads = super().gradients(model._replace(params={"logit": model.params["logit"]}), batch, noise)
        params = grads.params | {"clock": -torch.ones_like(clock)}
        grads = grads._replace(params=params)
        bad = torch.where((clock - 3.5).abs() < 1, self.value, 0.0)
        if self.what == "loss":
            return grads._replace(loss=grads.loss + bad)
        if self.what == "tuning loss":
            return grads._replace(tuning_loss=grads.tuning_loss + bad)
        if self.what == "gradient norm":
            return grads._replace(params=params | {"logit": params["logit"] + bad})
        return grads._replace(tuning=grads.tuning | {"eta": grads.tuning["eta"] + bad})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", WHAT)
def test_a_replica_that_is_not_finite_fails_and_the_others_go_on(what, value):
    task = Breaking(what, value)
    replicas = train(task, 12, [0, 1], [0.01, 0.4])
    failures = replicas.failures()
    assert list(failures) == [1, 3]
    before = train(task, 7, [0], [0.4]).state.last_finite[0, WHAT.index(what)].item()
    assert failures[1] == f"{what} not finite at step 8; last finite value {before:.6g}"
    for i in 0, 2:
        seed, lr = replicas.labels[i]
        same(replica(replicas, i), train(task, 12, [seed], [lr]).state, 1e-8)


def test_failures_are_seen_in_compiled_programs():
    compiled = train(Breaking("loss", math.nan), 9, [0, 1], [0.01, 0.4], compiled=True, backend="aot_eager")
    assert list(compiled.failures()) == [1, 3]


def test_failing_in_the_first_step_and_in_the_warm_up(monkeypatch):
    task = make("toy", "rebar")
    gradients = task.gradients
    monkeypatch.setattr(task, "gradients", lambda *args: gradients(*args)._replace(loss=torch.tensor(math.nan)))
    assert train(task, 2, [0], [0.1]).failures() == {0: "loss not finite at step 1; it never was"}
    replicas = train(task, 2, [0], [0.1], warmup=3)
    assert replicas.failures() == {0: "loss not finite at warm-up update 1; it never was"}


def test_an_absurd_learning_rate_fails_alone():
    task = make("vae", "relax-relaxed", torch.float32)
    replicas = train(task, 6, [0], [1e-3, 1e30])
    assert list(replicas.failures()) == [1]
    same(replica(replicas, 0), train(task, 6, [0], [1e-3]).state, 1e-4)


@pytest.mark.parametrize("estimator", ["relax-relaxed", "nvil"])
def test_an_update_of_the_tuning_alone_is_that_of_a_whole_step(estimator):
    replicas = Replicas(make("vae", estimator), [0, 1], [0.01])
    inputs = replicas._inputs("warmup", 0)
    alone = replicas._update(replicas.state, *inputs)
    whole = of_tuning(replicas.state, replicas.step(replicas.state, *inputs))
    assert alone.keys() == whole.keys()
    for ours, theirs in zip(tree_leaves(alone), tree_leaves(whole), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def test_a_warm_up_by_whole_steps_sees_what_the_tuning_loses():
    """The model's gradient, which does not count there, is lost with it."""
    replicas = Replicas(make("vae", "relax-relaxed"), [0, 1], [0.01])
    inputs = replicas._inputs("warmup", 0)
    for key, weight in replicas.state.model.tuning[0].items():
        if key.endswith("out.weight"):
            weight[1] = math.nan
    alone = replicas._update(replicas.state, *inputs)
    whole = of_tuning(replicas.state, replicas.step(replicas.state, *inputs))
    assert alone["failed_at"].tolist() == whole["failed_at"].tolist() == [0, -1]


def test_its_trace_leaves_out_what_only_the_model_needs():
    replicas = Replicas(make("vae", "relax-relaxed"), [0], [0.01])
    inputs = replicas._inputs("warmup", 0)
    update, step = Traced(replicas._update), Traced(replicas.step)
    update(replicas.state, *inputs)
    step(replicas.state, *inputs)
    assert len(update.trace.graph.nodes) < 0.85 * len(step.trace.graph.nodes)
