"""Tasks on different data, trained as one program, give the numbers of each trained alone."""

import pytest
import torch
from captures import recorded
from digits import digits
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.runs.build import make_task
from relax_exp.training.replicas import Replicas
from relax_exp.training.together import Together

RELAX = {"name": "relax", "surrogate": "network", "width": 4, "depth": 1, "warmup": 3}
SHAPE = {"layers": 1, "variables": 2, "categories": 3, "hidden": [], "centred": True}
CASES = {
    "relax": ("vae", RELAX, {"latents": 3}),
    "rebar, two layers": ("vae", {"name": "rebar"}, {"latents": 3, "model": "linear2"}),
    "nvil, whose baseline sees the image": ("vae", {"name": "nvil", "width": 4}, {"latents": 3}),
    "concrete": ("vae", {"name": "concrete"}, {"latents": 3}),
    "categorical": ("categorical_vae", {"name": "rebar"}, SHAPE),
    "rates of epochs": ("categorical_vae", {"name": "rebar"}, SHAPE | {"warmup_epochs": 1, "cosine_epochs": 3}),
    "halves of images": ("structured", {"name": "nvil", "width": 4}, {"variables": 3}),
    "pixels drawn anew": ("vae", {"name": "rebar"}, {"latents": 3, "binarize": "dynamic"}),
}


def tasks(name: str, dtype=torch.float64):
    """The same task on two data sets, which differ in images, mean and size."""
    task, estimator, options = CASES[name]
    whole = digits(options.get("binarize", "static"))
    rows = whole.train.flip(1)[:1001]
    other = whole._replace(train=rows, mean=rows.double().mean(0) / (255 if whole.binarize == "dynamic" else 1))
    given = {"batch_size": 90, "variance_draws": 3, "dtype": dtype, **options}
    return [make_task(task, estimator, images, **given) for images in (whole, other)]


def train(trainer, stretches):
    list(trainer.warm_up(3))
    for steps in stretches:
        taken = list(trainer.advance(steps))
        assert taken[-1] == trainer.taken
    return trainer


def assert_same(left, right, exactly: bool = False) -> None:
    for a, b in zip(tree_leaves(left), tree_leaves(right), strict=True):
        if exactly:
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
        else:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_every_part_equals_the_task_alone(name):
    """Over more than an epoch of either data set, with means cleared between, as evaluations do."""
    grid = [0, 1], [0.01, 0.003]
    both = Together(tasks(name), *grid, "cpu", False)
    train(both, [7])
    for part in both.parts:
        part.clear_means()
    train(both, [10])
    assert len(both.labels) == 8 and both.taken == 17
    for part, task in zip(both.parts, tasks(name), strict=True):
        alone = train(Replicas(task, *grid), [7])
        alone.clear_means()
        train(alone, [10])
        assert_same(part.saved, alone.saved)
        for ours, theirs in zip(part.evaluate([1, 3], 17, False), alone.evaluate([1, 3], 17, False), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        assert [list(row) for row in part.means()] == [list(row) for row in alone.means()]
    first, second = (tree_leaves(part.state.model.params) for part in both.parts)
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_goes_on_where_the_other_program_stopped():
    both = train(Together(tasks("relax"), [0, 1], [0.01], "cpu", False), [23])
    saved = [tree_map(torch.clone, part.saved) for part in both.parts]
    train(both, [20])
    again = Together(tasks("relax"), [0, 1], [0.01], "cpu", False)
    for part, kept in zip(again.parts, saved, strict=True):
        part.saved = kept
    assert again.taken == 23
    train(again, [20])
    for part, other, task, kept in zip(both.parts, again.parts, tasks("relax"), saved, strict=True):
        assert_same(part.saved, other.saved, exactly=True)
        alone = Replicas(task, [0, 1], [0.01])
        alone.saved = kept
        assert_same(train(alone, [20]).saved, part.saved)


def test_as_graphs_bit_for_bit():
    plain = train(Together(tasks("relax", torch.float32), [0, 1], [0.01], "cpu", False), [7, 33, 7])
    graphs = train(Together(tasks("relax", torch.float32), [0, 1], [0.01], "cpu", False, capture=recorded), [7, 33, 7])
    for ours, theirs in zip(graphs.parts, plain.parts, strict=True):
        assert_same(ours.saved, theirs.saved, exactly=True)


def test_compiled():
    plain, compiled = (
        train(Together(tasks("relax"), [0, 1], [0.01], "cpu", **options), [7, 6])
        for options in ({"compiled": False}, {"compiled": True, "backend": "aot_eager"})
    )
    for ours, theirs in zip(compiled.parts, plain.parts, strict=True):
        assert_same(ours.saved, theirs.saved)
